"""UpdateFeatures: the level of our formats changes where it may, Kafka's features stay what they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from bytemq.broker.handlers.update_features import UPGRADE
from bytemq.metadata import keys, values
from bytemq.metadata.store import Event, Put
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.update_features import (
    FeatureUpdateKey,
    UpdateFeaturesRequest,
    UpdateFeaturesResponse,
)
from tests.support.metadata import broker_value, embedded_store
from tests.unit.server.harness import Cluster, make_cluster, serving


async def ask(
    cluster: Cluster, version: int, *updates: FeatureUpdateKey, validate_only: bool = False
) -> UpdateFeaturesResponse:
    request = UpdateFeaturesRequest(feature_updates=list(updates), validate_only=validate_only)
    async with serving(cluster) as running:
        client = await running.connect()
        response: UpdateFeaturesResponse = await client.ask(request, version, UpdateFeaturesResponse)
    return response


@pytest.mark.parametrize(
    ("feature", "wanted", "kind", "why"),
    [
        ("group.version", 1, 1, None),
        ("group.version", 2, 1, "Invalid update version 2 for feature group.version. This server only supports"),
        ("group.version", 0, 1, "Invalid update version 0 for feature group.version. Can't downgrade"),
        ("group.version", 0, 2, "Invalid update version 0 for feature group.version. This server serves version 1"),
        ("group.version", -1, 1, "Invalid update version -1 for feature group.version. A feature version cannot be"),
        ("other.version", 1, 1, "Invalid update version 1 for feature other.version. This server does not support"),
        ("bytemq.version", 3, 1, None),
        ("bytemq.version", 2, 1, None),
        ("bytemq.version", 9, 1, "Invalid update version 9 for feature bytemq.version. Broker 0 only supports"),
        ("bytemq.version", 1, 1, "Invalid update version 1 for feature bytemq.version. Can't downgrade the version"),
        ("bytemq.version", 1, 2, "Invalid update version 1 for feature bytemq.version. There may be data that version"),
    ],
)
@pytest.mark.parametrize("version", range(3))
async def test_update_features__changes_ours_and_keeps_kafkas(
    tmp_path: Path, version: int, feature: str, wanted: int, kind: int, why: str | None
) -> None:
    cluster = make_cluster()
    async with embedded_store(tmp_path) as store:
        await store.txn([], [Put(keys.FEATURE_LEVEL, b"2"), Put(keys.broker(0), values.encode_broker(broker_value()))])
        cluster.broker.metadata = store
        cluster.image.apply([Event(keys.FEATURE_LEVEL, b"2", 1)])
        update = FeatureUpdateKey(
            feature, wanted, allow_downgrade=version == 0 and kind != UPGRADE, upgrade_type=kind if version else UPGRADE
        )
        response = await ask(cluster, version, update)
        level = await store.get(keys.FEATURE_LEVEL)
    if why is None:
        assert (response.error_code, response.error_message) == (0, None)
    else:
        assert response.error_code == ErrorCode.INVALID_UPDATE_VERSION
        assert (response.error_message or "").startswith(why)
    is_ours = feature == "bytemq.version" and why is None
    assert level is not None and level.value == (b"%d" % wanted if is_ours else b"2")


async def test_update_features__does_all_or_nothing(tmp_path: Path) -> None:
    cluster = make_cluster()
    async with embedded_store(tmp_path) as store:
        await store.txn([], [Put(keys.FEATURE_LEVEL, b"2")])
        cluster.broker.metadata = store
        cluster.image.apply([Event(keys.FEATURE_LEVEL, b"2", 1)])
        ours, wrong = FeatureUpdateKey("bytemq.version", 3), FeatureUpdateKey("transaction.version", 7)
        for updates in ((ours, wrong), (wrong, ours)):
            assert (await ask(cluster, 2, *updates)).error_code == ErrorCode.INVALID_UPDATE_VERSION
        assert (await ask(cluster, 2, ours, validate_only=True)).error_code == 0
        assert (await ask(cluster, 2, FeatureUpdateKey("bytemq.version", 3, upgrade_type=9))).error_code != 0
        level = await store.get(keys.FEATURE_LEVEL)
    assert level is not None and level.value == b"2"
