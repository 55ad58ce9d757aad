"""Frames and headers: which header goes with which version, and what ends a connection."""

from __future__ import annotations

import pytest

from bytemq.protocol import messages
from bytemq.protocol.api_keys import ApiKey
from bytemq.protocol.api_versions import API_VERSIONS
from bytemq.protocol.codec import encode
from bytemq.protocol.framing import RequestHeader, parse_frame_size, parse_request_header, response_prefix
from bytemq.protocol.messages.header import RequestHeader as GeneratedHeader
from bytemq.protocol.messages.header import ResponseHeader
from bytemq.protocol.primitives import MalformedMessage


def test_request_header__agrees_with_kafkas_definition() -> None:
    for key, versions in API_VERSIONS.items():
        for version in range(versions.lowest, versions.highest + 1):
            for client_id in ("rdkafka", "", None, "Ω"):
                generated = GeneratedHeader(
                    request_api_key=key, request_api_version=version, correlation_id=77, client_id=client_id
                )
                frame = encode(generated, 2 if versions.is_flexible(version) else 1) + b"body"

                parsed = parse_request_header(memoryview(frame))

                assert parsed == RequestHeader(key, version, 77, client_id, memoryview(b"body"))


def test_request_header__of_a_future_api_versions_request_is_understood() -> None:
    frame = memoryview(b"\0\x12\0\x63" + b"\0\0\0\5" + b"\0\1c" + b"\1\x09\2zz" + b"rest")

    assert parse_request_header(frame) == (ApiKey.API_VERSIONS, 99, 5, "c", b"rest")


def test_request_header__of_an_unknown_api_still_names_it() -> None:
    assert parse_request_header(memoryview(b"\x7f\xff\0\1\0\0\0\5\0\0")).api_key == 0x7FFF


@pytest.mark.parametrize("length", [b"\xff\xff", b"\xff\xfe", b"\x80\0"])
def test_client_id__of_any_negative_length_is_null(length: bytes) -> None:
    assert parse_request_header(memoryview(b"\0\3\0\1\0\0\0\5" + length)).client_id is None


def test_request_header__finds_every_truncation() -> None:
    frame = memoryview(b"\0\3\0\x0c\0\0\0\5\0\3abc\2\0\1x\1\0")
    parse_request_header(frame)
    for length in range(len(frame)):
        with pytest.raises(MalformedMessage):
            parse_request_header(frame[:length])


def test_response_prefix__is_size_and_header() -> None:
    for key, versions in API_VERSIONS.items():
        for version in range(versions.lowest, versions.highest + 1):
            flexible = versions.is_flexible(version) and key != ApiKey.API_VERSIONS
            header = encode(ResponseHeader(correlation_id=-9), 1 if flexible else 0)

            assert response_prefix(key, version, -9, 100) == (len(header) + 100).to_bytes(4, "big") + header


@pytest.mark.parametrize("size", [-1, -(2**31), 101])
def test_frame_size__is_refused_before_anyone_waits_for_it(size: int) -> None:
    with pytest.raises(MalformedMessage, match=f"frame of {size} bytes"):
        parse_frame_size(size.to_bytes(4, "big", signed=True), 100)


def test_frame_size__may_reach_the_limit() -> None:
    assert parse_frame_size(b"\0\0\0\x64", 100) == 100
    assert parse_frame_size(b"\0\0\0\0", 100) == 0


def test_api_versions__agree_with_the_messages() -> None:
    for key, versions in API_VERSIONS.items():
        for cls in (messages.request_class(ApiKey(key)), messages.response_class(ApiKey(key))):
            assert key == cls.API_KEY
            assert cls.VERSIONS.lowest == versions.lowest
            # InitProducerId v6 exists in the definitions, but is not yet stable in Kafka 4.4
            assert cls.VERSIONS.highest == versions.highest + (key == ApiKey.INIT_PRODUCER_ID)
            for version in range(versions.lowest, versions.highest + 1):
                assert cls.FLEXIBLE.includes(version) == versions.is_flexible(version)
