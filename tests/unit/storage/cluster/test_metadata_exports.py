"""Exports of the metadata in the storage: when one is made, by whom, and that it can be read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random

import pytest

from bytemq.errors import NotFound, Unavailable
from bytemq.metadata import features, keys, values
from bytemq.metadata.follower import ImageFollower
from bytemq.metadata.store import Put
from bytemq.storage.objects.metadata_exports import FOLDER, KEPT, MetadataExports, newest_export
from bytemq.storage.stores.interface import Buffer
from tests.support.loop_turns import counted_turns
from tests.support.metadata import topic_id, topic_puts
from tests.support.object_store import MemoryObjectStore
from tests.support.power_cut_store import MemoryMetadata, Power
from tests.support.virtual_time import LoopClock, run_virtual

GRACE_S = 100.0


class Exporting:
    """Broker 1 of a cluster, in virtual time."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.metadata = MemoryMetadata(Power(1))
        self.store = MemoryObjectStore()
        self.follower = ImageFollower(self.metadata, self.clock)
        self.exports = MetadataExports(self.store, self.metadata, self.follower, 1, GRACE_S, self.clock, Random(1))

    async def put(self, *puts: Put) -> None:
        await self.metadata.txn([], puts)
        await self.follower.load()

    @property
    def names(self) -> list[str]:
        return sorted(name for name in self.store.objects if name.startswith(FOLDER))


def run(test: Callable[[Exporting], Awaitable[None]], level: int = features.LAST_SESSION_KNOWN, by: int = 1) -> None:
    async def main() -> None:
        exporting = Exporting()
        await exporting.put(
            Put(keys.IDENTITY, b"cluster"),
            Put(keys.FEATURE_LEVEL, values.encode_number(level)),
            Put(keys.CONTROLLER, values.encode_number(by)),
        )
        running = asyncio.ensure_future(exporting.exports.run())
        await test(exporting)
        running.cancel()

    run_virtual(main())


def test_exports__are_made_twice_within_the_grace_and_the_newest_are_kept() -> None:
    async def test(exporting: Exporting) -> None:
        seen: set[str] = set()
        for _ in range(100):
            await exporting.put(Put("storage/x", b"1"))
            await exporting.clock.sleep(GRACE_S / 20)
            seen.update(exporting.names)
        assert len(seen) == pytest.approx(10, abs=1), "5 times the grace has passed"
        assert exporting.names == sorted(seen)[-KEPT:]

    run(test)


def test_exports__leave_the_loop_to_others_also_where_single_keys_are_large() -> None:
    async def main() -> None:
        exporting = Exporting()
        await exporting.put(Put(keys.IDENTITY, b"cluster"))
        await exporting.put(*(Put(f"storage/{number}", bytes(200_000)) for number in range(20)))
        async with counted_turns() as turns:
            await exporting.exports.export()
        assert turns.count > 20

    run_virtual(main())


def test_exports__follow_a_change_of_topics_or_configs_and_not_one_of_owners() -> None:
    async def test(exporting: Exporting) -> None:
        async def made(*puts: Put) -> int:
            before = set(exporting.names)
            await exporting.put(*puts)
            await exporting.clock.sleep(3)
            return len(set(exporting.names) - before)

        assert await made() == 1, "the first one"
        topic, *rest = topic_puts("t", topic_id(1), [1])
        assert await made(topic, *rest) == 1
        assert await made(*rest) == 0
        assert await made(Put(keys.config("broker", ""), values.encode_configs({"a": "b"}))) == 1
        await exporting.metadata.txn([], [], [topic.key])
        assert await made() == 1
        saved = await newest_export(exporting.store)
        assert topic.key not in dict(saved.entries) and saved.revision == exporting.metadata.revision

    run(test)


def test_exports__that_could_not_be_written_are_made_as_soon_as_they_can() -> None:
    async def test(exporting: Exporting) -> None:
        async def refuse(name: str, data: Sequence[Buffer]) -> None:
            raise Unavailable("the store is down")

        await exporting.clock.sleep(3)
        topic, *rest = topic_puts("t", topic_id(1), [1])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exporting.store, "create", refuse)
            await exporting.put(topic, *rest)
            await exporting.clock.sleep(3)
        await exporting.clock.sleep(3)
        assert topic.key in dict((await newest_export(exporting.store)).entries)

    run(test)


@pytest.mark.parametrize(("level", "by"), [(2, 1), (features.LAST_SESSION_KNOWN, 2)])
def test_exports__are_the_controllers_business_once_the_level_allows(level: int, by: int) -> None:
    async def test(exporting: Exporting) -> None:
        await exporting.clock.sleep(GRACE_S)
        assert exporting.names == []

    run(test, level, by)


def test_newest__is_the_newest_that_can_be_read() -> None:
    async def test(exporting: Exporting) -> None:
        with pytest.raises(NotFound, match="no export"):
            await newest_export(exporting.store)
        await exporting.exports.export()
        await exporting.put(Put("storage/x", b"1"))
        await exporting.exports.export()
        first, second = exporting.names
        exporting.store.objects[second] = exporting.store.objects[second][:-20]
        assert "storage/x" not in dict((await newest_export(exporting.store)).entries)
        exporting.store.objects[first] = b""
        with pytest.raises(NotFound, match="no export"):
            await newest_export(exporting.store)

    run(test)
