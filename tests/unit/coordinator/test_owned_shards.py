"""Who waits for a coordinator that comes, loads or goes: until when, in which order, and what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import cast

import pytest

from bytemq.broker.coordinator.group.environment import RequestOrigin
from bytemq.broker.coordinator.group_coordinators import GroupCoordinators
from bytemq.broker.coordinator.shard_line import PATIENCE_S
from bytemq.broker.log.partition import Partition
from bytemq.broker.log.results import Fetched
from bytemq.config import BrokerConfig
from bytemq.metadata.image import NO_CONFIGS, ClusterImage, ImageChange, PartitionImage, TopicImage
from bytemq.metadata.standing import Standing
from bytemq.metadata.topic_names import OFFSETS_TOPIC
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from bytemq.protocol.messages.offset_fetch import OffsetFetchRequestGroup
from bytemq.runtime.tasks import Supervisor
from bytemq.types import TopicId
from tests.support.virtual_time import LoopClock, run_virtual
from tests.unit.coordinator.fake_partition import FakePartition

HERE, ELSEWHERE = 1, 2
ORIGIN = RequestOrigin("c", "/127.0.0.1", 9)
TOPIC_ID = TopicId(bytes(15) + b"\1")


class SlowPartition(FakePartition):
    """Its log can be read while `may_be_read` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.may_be_read = asyncio.Event()
        self.may_be_read.set()
        self.bugs = 0
        """So often reading ends as nobody expects, in the middle of a replay."""

    async def read(self, offset: int, max_bytes: int, *, isolation: int, at_least_one: bool = True) -> Fetched:
        await self.may_be_read.wait()
        if self.bugs:
            self.bugs -= 1
            raise RuntimeError("a mistake of ours")
        return await super().read(offset, max_bytes, isolation=isolation, at_least_one=at_least_one)


class World:
    def __init__(self) -> None:
        self.clock = LoopClock()
        self.image = ClusterImage()
        self.standing = Standing(self.clock.monotonic)
        self.supervisor = Supervisor(self.clock, lambda name, error: None)
        self.groups = GroupCoordinators(
            broker_id=HERE,
            config=BrokerConfig,
            image=lambda: self.image,
            clock=self.clock,
            random=Random(1),
            supervisor=self.supervisor,
            standing=self.standing,
        )

    def facts(self, owner: int, assigned: int) -> None:
        partition = PartitionImage(owner, 3, 7, assigned)
        self.image.topics[OFFSETS_TOPIC] = TopicImage(OFFSETS_TOPIC, TOPIC_ID, (partition,), NO_CONFIGS, 1, True)
        self.groups.on_image_change(ImageChange(topics={TOPIC_ID}))

    async def own(self, partition: FakePartition) -> None:
        self.facts(HERE, HERE)
        self.groups.own(cast(Partition, partition))
        await asyncio.sleep(0.1)

    async def commit(self, offset: int) -> ErrorCode:
        topics = [OffsetCommitRequestTopic("t", bytes(16), [OffsetCommitRequestPartition(0, offset, -1, "")])]
        request = OffsetCommitRequest(group_id="g", topics=topics)
        try:
            shard = await self.groups.awaited_shard_of("g")
            response = await shard.write(lambda machine: machine.offsets.commit(request, ORIGIN))
        except KafkaError as error:
            return error.code
        return ErrorCode(response.topics[0].partitions[0].error_code)

    def committed(self) -> int:
        machine = self.groups.shard_of("g").serving_machine()
        [topic] = machine.offsets.fetch(OffsetFetchRequestGroup(group_id="g", topics=None))
        return next(topic.partitions).committed_offset


async def until_loaded(world: World) -> None:
    """Returns in the very turn."""
    while world.groups.loading_count:  # noqa: ASYNC110
        await asyncio.sleep(0)


def in_a_world(scenario: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        world = World()
        await scenario(world)
        world.groups.close()
        await world.supervisor.close()

    run_virtual(run())


async def with_a_commit(world: World) -> SlowPartition:
    """A coordinator whose log has something in it: offset 1 of group g."""
    partition = SlowPartition()
    await world.own(partition)
    assert await world.commit(1) is ErrorCode.NONE
    return partition


async def loading(world: World) -> SlowPartition:
    """It is being loaded until `may_be_read` is set."""
    partition = await with_a_commit(world)
    partition.may_be_read.clear()
    await world.own(partition)
    return partition


def test_commits__while_a_coordinator_loads_are_decided_when_it_has_in_their_order() -> None:
    async def scenario(world: World) -> None:
        partition = await loading(world)
        waiting = [asyncio.create_task(world.commit(offset)) for offset in range(10, 20)]
        await asyncio.sleep(PATIENCE_S / 2)
        assert not any(task.done() for task in waiting)
        partition.may_be_read.set()
        await until_loaded(world)
        # Not all who wait have been woken yet.
        latest = asyncio.create_task(world.commit(20))
        assert await asyncio.gather(*waiting, latest) == [ErrorCode.NONE] * 11
        assert world.committed() == 20
        assert await world.commit(21) is ErrorCode.NONE and world.committed() == 21

    in_a_world(scenario)


def test_commits__to_a_coordinator_that_loads_for_long_are_refused_after_a_while_and_then_at_once() -> None:
    async def scenario(world: World) -> None:
        partition = await loading(world)
        began = world.clock.monotonic()
        assert await world.commit(2) is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        assert world.clock.monotonic() - began == pytest.approx(PATIENCE_S)
        assert await world.commit(3) is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        assert world.clock.monotonic() - began == pytest.approx(PATIENCE_S)
        partition.may_be_read.set()
        await asyncio.sleep(0.1)
        assert await world.commit(4) is ErrorCode.NONE
        partition.may_be_read.clear()
        await world.own(partition)
        again = asyncio.create_task(world.commit(5))
        await asyncio.sleep(PATIENCE_S / 2)
        assert not again.done(), "another time is waited for again"
        partition.may_be_read.set()
        assert await again is ErrorCode.NONE

    in_a_world(scenario)


def test_a_coordinator__is_loaded_again_after_an_exception_that_nobody_expects() -> None:
    async def scenario(world: World) -> None:
        partition = await with_a_commit(world)
        partition.bugs = 2
        await world.own(partition)
        assert world.groups.loading_count == 1
        await asyncio.sleep(1)
        assert world.groups.loading_count == 0
        assert world.committed() == 1 and await world.commit(2) is ErrorCode.NONE
        assert sum(world.supervisor.crashes.values()) == 2, "somebody is told"

    in_a_world(scenario)


def test_a_coordinator__that_serves_is_not_loaded_into_again_when_what_comes_then_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(world: World) -> None:
        partition = await with_a_commit(world)
        mistakes = ["a mistake of ours"]

        def look_at_line(index: int) -> None:
            if mistakes and any(shard.is_active for shard in world.groups.shards()):
                raise RuntimeError(mistakes.pop())

        monkeypatch.setattr(world.groups, "_look_at_line", look_at_line)
        await world.own(partition)
        assert not mistakes and world.committed() == 1
        partition.may_be_read.clear()
        partition.bugs = 1
        assert await world.commit(2) is ErrorCode.NONE
        partition.may_be_read.set()
        await asyncio.sleep(1)
        assert partition.bugs == 1, "nothing is read"
        assert world.committed() == 2
        partition.bugs = 0

    in_a_world(scenario)


def test_a_planned_move__decides_what_was_begun_and_sends_on_who_comes_when_the_next_one_has_it() -> None:
    async def scenario(world: World) -> None:
        partition = await with_a_commit(world)
        partition.hold = True
        begun = asyncio.create_task(world.commit(2))
        await asyncio.sleep(0.1)
        world.facts(HERE, ELSEWHERE)
        leaving = asyncio.create_task(world.groups.leave(0))
        came = asyncio.create_task(world.commit(3))
        await asyncio.sleep(0.1)
        assert not leaving.done() and not begun.done()
        partition.commit()
        await leaving
        assert await begun is ErrorCode.NONE
        await asyncio.sleep(0.1)
        assert not came.done(), "to look for the coordinator now would lead here again"
        world.facts(ELSEWHERE, ELSEWHERE)
        assert await came is ErrorCode.NOT_COORDINATOR
        assert await world.commit(4) is ErrorCode.NOT_COORDINATOR
        assert len(partition.batches) == 2

    in_a_world(scenario)


def test_a_client_that_is_here_before_the_coordinator__waits_for_it() -> None:
    async def scenario(world: World) -> None:
        world.facts(ELSEWHERE, HERE)
        early = asyncio.create_task(world.commit(5))
        await asyncio.sleep(0.1)
        world.facts(HERE, HERE)
        await asyncio.sleep(0.1)
        assert not early.done(), "its log is not open yet"
        await world.own(FakePartition())
        assert await early is ErrorCode.NONE

    in_a_world(scenario)


def test_a_wish_that_is_taken_back__sends_on_who_waits() -> None:
    async def scenario(world: World) -> None:
        world.facts(ELSEWHERE, HERE)
        early = asyncio.create_task(world.commit(5))
        await asyncio.sleep(0.1)
        world.facts(ELSEWHERE, ELSEWHERE)
        assert await asyncio.wait_for(early, 0.1) is ErrorCode.NOT_COORDINATOR

    in_a_world(scenario)


def test_a_broker_that_leaves__keeps_nobody_waiting() -> None:
    async def scenario(world: World) -> None:
        world.facts(ELSEWHERE, HERE)
        early = asyncio.create_task(world.commit(5))
        await asyncio.sleep(0.1)
        world.groups.expect_nothing()
        assert await asyncio.wait_for(early, 0.1) is ErrorCode.NOT_COORDINATOR
        assert await asyncio.wait_for(world.commit(6), 0.1) is ErrorCode.NOT_COORDINATOR

    in_a_world(scenario)


def test_a_broker_whose_session_may_have_ended__keeps_nobody_waiting() -> None:
    async def scenario(world: World) -> None:
        await loading(world)
        world.standing.end()
        assert await asyncio.wait_for(world.commit(6), 0.1) is ErrorCode.NOT_COORDINATOR

    in_a_world(scenario)


def test_who_goes_while_they_wait__hold_up_nobody_behind_them() -> None:
    async def scenario(world: World) -> None:
        partition = await loading(world)
        gone, stays = (asyncio.create_task(world.commit(offset)) for offset in (7, 8))
        await asyncio.sleep(0.1)
        partition.may_be_read.set()
        await until_loaded(world)
        gone.cancel()  # it was called already
        assert await stays is ErrorCode.NONE

    in_a_world(scenario)


def test_a_coordinator_that_goes_while_it_loads__keeps_nothing_of_its_groups() -> None:
    """What comes of the last read belongs to nobody any more, and would count against the members of all groups."""

    async def scenario(world: World) -> None:
        partition = await loading(world)
        await asyncio.sleep(0.1)
        world.groups.release(0)
        partition.may_be_read.set()
        await asyncio.sleep(0.1)
        assert world.groups.membership_bytes == 0

    in_a_world(scenario)
