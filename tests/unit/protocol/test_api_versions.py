"""The table of versions that ApiVersions answers from."""

from __future__ import annotations

from bytemq.protocol.api_keys import ApiKey
from bytemq.protocol.api_versions import API_VERSIONS, advertised


def test_advertised__lists_only_what_is_served_by_key() -> None:
    assert advertised({ApiKey.API_VERSIONS, ApiKey.FETCH}) == [(ApiKey.FETCH, 4, 18), (ApiKey.API_VERSIONS, 0, 5)]


def test_advertised__begins_produce_at_version_0() -> None:
    assert advertised({ApiKey.PRODUCE}) == [(ApiKey.PRODUCE, 0, 13)]
    assert not API_VERSIONS[ApiKey.PRODUCE].includes(2)


def test_advertised__is_all_that_a_kafka_broker_advertises() -> None:
    lines = advertised(set(ApiKey))

    assert len(lines) == 77
    assert ApiKey.PUSH_TELEMETRY not in {line.api_key for line in lines}


def test_api_versions__know_where_flexible_versions_begin() -> None:
    assert API_VERSIONS[ApiKey.METADATA].is_flexible(9)
    assert not API_VERSIONS[ApiKey.METADATA].is_flexible(8)
    assert not API_VERSIONS[ApiKey.OFFSET_DELETE].is_flexible(0)
