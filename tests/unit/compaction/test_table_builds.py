"""Tables whose partitions have several owners: each builds its own, and nothing is left out while they move."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from bytemq.compaction.restructuring import Built
from bytemq.compaction.table_builds import Asker, Moved, TableBuilds
from bytemq.errors import BytemqError, Corrupt, NotFound, Unavailable
from bytemq.metadata import keys
from bytemq.metadata.image import BrokerImage, ClusterImage, PartitionImage, TopicImage
from bytemq.runtime.tasks import Supervisor
from bytemq.types import TopicId
from tests.support.power_cut_store import MemoryMetadata, Power
from tests.support.virtual_time import LoopClock, run_virtual

Test = Callable[["World"], Awaitable[None]]
PARTITIONS = 4


class World:
    """Three brokers, of which 0 is asked. `built` is who built what."""

    def __init__(self) -> None:
        self.metadata = MemoryMetadata(Power(1))
        self.clock = LoopClock()
        self.image = ClusterImage()
        self.built: list[tuple[int, int]] = []
        self.trouble: dict[int, BytemqError] = {}
        """By broker; it happens once."""
        self.always: dict[int, BytemqError] = {}
        self.seconds = 1.0
        self.supervisor = Supervisor(self.clock, lambda name, error: None)
        for broker_id in range(3):
            self.image.brokers[broker_id] = BrokerImage(broker_id, "a", {}, 1)
        self.own([0, 1, 1, 2])
        self.brokers = [self._broker(broker_id) for broker_id in range(3)]

    def _broker(self, broker_id: int) -> TableBuilds:
        async def build_own(topic: str, indexes: Sequence[int]) -> Built:
            await self.clock.sleep(self.seconds)
            if (trouble := self.trouble.pop(broker_id, None)) is not None:
                raise trouble
            if broker_id in self.always:
                raise self.always[broker_id]
            owners = self.image.topics[topic].partitions
            if any(owners[index].owner != broker_id for index in indexes):
                raise Moved("not here")
            self.built += [(index, broker_id) for index in indexes]
            return Built(len(indexes), 0, broker_id)

        me = Asker(broker_id, 100 + broker_id, 7)
        return TableBuilds(self.metadata, lambda: self.image, build_own, me, self.clock, self.supervisor)

    def own(self, owners: Sequence[int], topic_id: bytes = b"a topic") -> None:
        images = tuple(PartitionImage(owner, 1, 1, owner) for owner in owners)
        self.image.topics["t"] = TopicImage("t", TopicId(topic_id.ljust(16)), images, {}, 3, False)

    @property
    def requests(self) -> list[str]:
        return [key for key in self.metadata.entries if key.startswith(keys.TABLE_BUILDS)]


def run(test: Test) -> None:
    async def main() -> None:
        world = World()
        for broker in world.brokers:
            world.supervisor.keep_running("builds", broker.run)
        await test(world)
        assert not world.requests
        await world.supervisor.close()

    run_virtual(main())


def test_build__is_done_by_each_owner_at_the_same_time() -> None:
    async def test(world: World) -> None:
        began = world.clock.monotonic()
        assert await world.brokers[0].build("t") == (4, 3)
        assert sorted(world.built) == [(0, 0), (1, 1), (2, 1), (3, 2)]
        assert world.clock.monotonic() - began < 2

    run(test)


def test_build__goes_on_where_partitions_have_gone() -> None:
    async def test(world: World) -> None:
        async def move() -> None:
            await world.clock.sleep(0.5)
            world.own([2, 2, 1, 2])
            await world.clock.sleep(1)
            world.own([2, -1, -1, 2])
            del world.image.brokers[1]
            await world.clock.sleep(5)
            world.own([2, 0, 0, 2])

        moving = asyncio.ensure_future(move())
        await world.brokers[0].build("t")
        await moving
        assert {index for index, _ in world.built} == set(range(PARTITIONS))
        assert {broker for index, broker in world.built if index in (1, 2)} == {0}

    run(test)


@pytest.mark.parametrize("broker_id", [0, 1])
def test_build__says_what_went_wrong_wherever_it_did(broker_id: int) -> None:
    async def test(world: World) -> None:
        world.trouble[broker_id] = Corrupt("the moon is full")
        with pytest.raises(BytemqError, match="the moon is full"):
            await world.brokers[0].build("t")
        await world.clock.sleep(5)

    run(test)


@pytest.mark.parametrize("broker_id", [0, 1])
def test_build__of_what_does_not_come_to_rest_ends_and_says_why(broker_id: int) -> None:
    async def test(world: World) -> None:
        world.always = {broker_id: Moved("its storage is away")}
        with pytest.raises(Unavailable, match=r"partition [01] of t: .*its storage is away"):
            await world.brokers[0].build("t")
        assert {index for index, _ in world.built} >= {3}

    run(test)


def test_build__of_a_partition_without_an_owner_ends_and_says_so() -> None:
    async def test(world: World) -> None:
        world.own([0, 1, 1, -1])
        with pytest.raises(Unavailable, match="partition 3 of t: it has no owner"):
            await world.brokers[0].build("t")

    run(test)


def test_build__of_a_topic_that_is_another_one_meanwhile_is_not_found() -> None:
    async def test(world: World) -> None:
        building = asyncio.ensure_future(world.brokers[0].build("t"))
        await world.clock.sleep(0.5)
        world.own([0, 1], b"another")
        with pytest.raises(NotFound, match="t was deleted"):
            await building

    run(test)


def test_build__is_answered_when_the_metadata_answer_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        txn, failures = world.metadata.txn, 2

        async def down(compares, puts, deletes=()):  # type: ignore[no-untyped-def]
            nonlocal failures
            if failures and any(b"conversions" in put.value for put in puts):
                failures -= 1
                raise Unavailable("no etcd answers")
            return await txn(compares, puts, deletes)

        monkeypatch.setattr(world.metadata, "txn", down)
        async with asyncio.timeout(20):
            assert await world.brokers[0].build("t") == (4, 3)

    run(test)


def test_build__of_an_asker_that_is_gone_is_answered_to_nobody() -> None:
    async def test(world: World) -> None:
        building = asyncio.ensure_future(world.brokers[0].build("t"))
        await world.clock.sleep(0.3)
        assert len(world.requests) == 2
        await world.metadata.txn([], [], world.requests)  # its lease has ended
        with pytest.raises(Unavailable):
            await building
        await world.clock.sleep(5)

    run(test)
