"""Feature levels: who may join at which, and when the finalised one may change."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bytemq.errors import Invalid
from bytemq.metadata import features, keys, values
from bytemq.metadata.embedded import EmbeddedStore
from bytemq.metadata.features import SUPPORTED, Level, change_level, check_change
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.store import Listing, MetadataStore, Put
from bytemq.metadata.values import UNTOLD_LEVELS, Levels
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.runtime.clock import SystemClock
from bytemq.scheduler.membership import Membership
from tests.support.metadata import broker_value, embedded_store

THREE = {1: Level("this"), 2: Level("that"), 3: Level("nothing that is kept", leaves_data=False)}
OLD, NEW = Levels(1, 2), Levels(1, 3)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    async with embedded_store(tmp_path) as opened:
        await opened.txn([], [Put(keys.FEATURE_LEVEL, values.encode_number(2))])
        yield opened


async def join(store: MetadataStore, broker_id: int, levels: Levels) -> Membership:
    return await Membership.join(store, SystemClock(), broker_id, replace(broker_value(), levels=levels), 3.0)


async def level_of(store: MetadataStore) -> int:
    entry = await store.get(keys.FEATURE_LEVEL)
    assert entry is not None
    return values.decode_number(entry.value)


@pytest.mark.parametrize(
    ("finalised", "wanted", "brokers", "downgrade", "why"),
    [
        (2, 3, {0: NEW, 1: NEW}, False, None),
        (2, 2, {0: NEW, 1: OLD}, False, None),
        (3, 3, {}, True, None),
        (2, 3, {0: NEW, 1: OLD}, False, "Broker 1 only supports versions 1-2."),
        (2, 3, {1: Levels(2, 2)}, False, "Broker 1 only supports versions 2."),
        (2, 1, {1: Levels(2, 3)}, True, "Broker 1 only supports versions 2-3."),
        (2, 4, {}, False, "This version of bytemq only supports versions 1-3."),
        (2, 0, {}, True, "This version of bytemq only supports versions 1-3."),
        (2, 3, {0: NEW}, True, "Can't downgrade to a newer version."),
        (3, 2, {0: NEW}, False, "Can't downgrade the version of this feature without setting"),
        (3, 2, {0: NEW}, True, None),
        (3, 1, {0: NEW}, True, "There may be data that version 1 does not know: since version 2 that."),
    ],
)
def test_change__is_refused_with_a_sentence(
    finalised: int, wanted: int, brokers: dict[int, Levels], downgrade: bool, why: str | None
) -> None:
    if why is None:
        check_change(finalised, wanted, brokers, downgrade=downgrade, levels=THREE)
        return
    with pytest.raises(KafkaError) as refused:
        check_change(finalised, wanted, brokers, downgrade=downgrade, levels=THREE)
    assert refused.value.code is ErrorCode.INVALID_UPDATE_VERSION
    assert refused.value.message.startswith(f"Invalid update version {wanted} for feature bytemq.version. {why}")


async def test_change__is_to_what_all_live_brokers_support(store: EmbeddedStore) -> None:
    old = await join(store, 0, OLD)
    await join(store, 1, NEW)
    assert await change_level(store, levels=THREE) == 2
    with pytest.raises(KafkaError, match="Broker 0 only supports versions 1-2"):
        await change_level(store, 3, levels=THREE)
    await old.leave()
    assert await change_level(store, 3, levels=THREE, validate_only=True) == 3
    assert await level_of(store) == 2
    assert await change_level(store, levels=THREE) == 3
    assert await level_of(store) == 3
    with pytest.raises(Invalid, match=r"feature level 3, this version knows 1-2\). Use that version or a later one"):
        await join(store, 0, OLD)
    assert await store.get(keys.broker(0)) is None
    with pytest.raises(Invalid, match=r"at feature level 3, and this version knows 4-5.*bytemq cluster upgrade"):
        await join(store, 0, Levels(4, 5))
    assert await change_level(store, 2, downgrade=True, levels=THREE) == 2


class JoinedMeanwhile:
    """A store in which a broker joins between the first listing and what is decided on it."""

    def __init__(self, store: EmbeddedStore, levels: Levels) -> None:
        self._store = store
        self._levels: Levels | None = levels

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def range(self, prefix: str) -> Listing:
        listing = await self._store.range(prefix)
        if self._levels is not None:
            levels, self._levels = self._levels, None
            await join(self._store, 7, levels)
        return listing


async def test_change__sees_a_broker_that_joins_meanwhile(store: EmbeddedStore) -> None:
    with pytest.raises(KafkaError, match="Broker 7 only supports versions 1-2"):
        await change_level(JoinedMeanwhile(store, OLD), 3, levels=THREE)
    assert await level_of(store) == 2


async def test_change__goes_on_when_a_new_broker_joins_meanwhile(store: EmbeddedStore) -> None:
    assert await change_level(JoinedMeanwhile(store, NEW), 3, levels=THREE) == 3


class RaisedMeanwhile(JoinedMeanwhile):
    """The other way round: the level is raised between a broker's look at it and its registration."""

    async def get(self, key: str) -> Any:
        entry = await self._store.get(key)
        if key == keys.FEATURE_LEVEL and self._levels is not None:
            self._levels = None
            await change_level(self._store, 3, levels=THREE)
        return entry


async def test_join__is_refused_when_the_level_is_raised_meanwhile(store: EmbeddedStore) -> None:
    with pytest.raises(Invalid, match="feature level 3"):
        await join(RaisedMeanwhile(store, OLD), 0, OLD)
    assert await store.get(keys.broker(0)) is None


def test_levels__of_this_program_are_in_a_row() -> None:
    assert sorted(features.LEVELS) == list(range(SUPPORTED.lowest, SUPPORTED.highest + 1))


async def test_image__shows_level_and_who_supports_which(store: EmbeddedStore) -> None:
    await join(store, 1, NEW)
    entry = await store.get(keys.broker(1))
    assert entry is not None
    before_levels = {name: value for name, value in json.loads(entry.value).items() if name != "levels"}
    await store.txn([], [Put(keys.broker(2), json.dumps(before_levels).encode())])
    listed = await store.range(keys.CLUSTER)
    image = ClusterImage()
    image.apply(image.events_from_listing(listed.entries, listed.revision))
    assert image.feature_level == 2
    assert {broker.id: broker.levels for broker in image.brokers.values()} == {1: NEW, 2: UNTOLD_LEVELS}
