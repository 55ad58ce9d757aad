"""The table of owned partitions: opened once, when first touched, and given up cleanly."""

import asyncio
import gc
import tracemalloc
from collections.abc import Sequence

import pytest

from bytemq.broker.adoption import INTERVAL_S, adopt
from bytemq.broker.log.partition import Partition
from bytemq.broker.log.partitions import Opening, PartitionTable
from bytemq.broker.log.services import LogServices
from bytemq.errors import Corrupt, Unavailable
from bytemq.metadata.standing import Standing
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.storage.manifests.manifest import SegmentInfo
from bytemq.types import PartitionId, TopicId
from tests.support.fake_log_storage import FakeLogStorage
from tests.support.virtual_time import VirtualClock
from tests.unit.log.harness import NOW_MS, Answer, HeldExecutor, batch, topic_config

TOPIC = TopicId(b"a" * 16)
CONFIG = topic_config()


class Node:
    def __init__(self) -> None:
        self.storage = FakeLogStorage()
        self.clock = VirtualClock()
        services = LogServices(self.storage, self.clock, HeldExecutor())  # type: ignore[arg-type]
        self.standing = Standing(self.clock.monotonic)
        self.table = PartitionTable(services, self.standing)

    async def own(self, count: int = 1, *, epoch: int = 0) -> None:
        for index in range(count):
            await self.table.own(PartitionId(TOPIC, index), "events", epoch, CONFIG)


async def test_get__finds_nothing_while_the_session_may_have_ended() -> None:
    node = Node()
    await node.own()
    node.standing.renew(node.clock.monotonic(), 3.0)
    node.clock.advance(2.6)
    assert node.table.get("events", 0) is not None
    node.clock.advance(0.2)
    assert node.table.get("events", 0) is None
    assert node.table.get_by_id(TOPIC, 0) is None
    node.standing.renew(node.clock.monotonic(), 3.0)
    assert node.table.get_by_id(TOPIC, 0) is not None
    node.standing.end()
    assert node.table.get("events", 0) is None


async def test_own__opens_nothing() -> None:
    node = Node()
    await node.own(10)
    assert node.storage.opened == 0
    assert isinstance(node.table.get("events", 3), Opening)
    assert node.table.get("events", 10) is None
    assert node.table.get("others", 0) is None


async def test_open__opens_once_for_all_who_ask() -> None:
    node = Node()
    await node.own()
    opening = node.table.get("events", 0)
    assert isinstance(opening, Opening)
    opened: list[Partition | ErrorCode] = []
    opening.then(lambda outcome: opened.append(outcome))
    opening.then(lambda outcome: opened.append(outcome))
    assert opened == [], "never before `then` returns"
    partition = await node.table.open("events", 0)
    assert opened == [partition, partition]
    assert node.table.get("events", 0) is node.table.get_by_id(TOPIC, 0) is partition
    assert node.storage.opened == 1


async def test_open__of_what_is_not_ours() -> None:
    with pytest.raises(KafkaError) as caught:
        await Node().table.open_by_id(TOPIC, 0)
    assert caught.value.code is ErrorCode.NOT_LEADER_OR_FOLLOWER


async def test_open__can_be_tried_again_after_storage_failed() -> None:
    node = Node()
    await node.own()
    node.storage.open_error = Unavailable("away")
    with pytest.raises(KafkaError) as caught:
        await node.table.open("events", 0)
    assert caught.value.code is ErrorCode.KAFKA_STORAGE_ERROR
    node.storage.open_error = None
    assert (await node.table.open("events", 0)).high_watermark == 0


async def test_release__waits_for_what_is_on_its_way() -> None:
    node = Node()
    await node.own()
    partition = await node.table.open("events", 0)
    answer = Answer()
    partition.append(memoryview(batch()), answer)
    releasing = asyncio.create_task(node.table.release(partition.pid))
    await asyncio.sleep(0)
    assert node.table.get("events", 0) is None
    assert not releasing.done()
    node.storage.settle()
    await releasing
    assert answer.result.error is ErrorCode.NONE


@pytest.mark.parametrize("comes_back", [False, True])
async def test_release__that_was_cancelled_is_waited_for_by_the_next_one(comes_back: bool) -> None:
    """What is on its way is committed by this session still: whoever opens the log before that finds it too short."""
    node = Node()
    await node.own()
    partition = await node.table.open("events", 0)
    partition.append(memoryview(batch()), Answer())
    releasing = asyncio.create_task(node.table.release(partition.pid))
    await asyncio.sleep(0)
    releasing.cancel()
    await asyncio.wait([releasing])
    again = asyncio.create_task(node.own() if comes_back else node.table.release(partition.pid))
    await asyncio.sleep(0.01)
    assert not again.done()
    assert node.table.get("events", 0) is None
    node.storage.settle()
    assert await again == (None if comes_back else 1)
    if comes_back:
        assert (await node.table.open("events", 0)).high_watermark == 1


async def test_release__that_was_cancelled_while_opening_is_waited_for_by_the_next_one() -> None:
    node = Node()
    await node.own()
    opening = node.table.get("events", 0)
    assert isinstance(opening, Opening)
    held = asyncio.Event()
    node.storage.wait = held.wait  # type: ignore[method-assign, assignment]
    opening.then(lambda outcome: None)
    releasing = asyncio.create_task(node.table.release(opening.pid))
    await asyncio.sleep(0)
    releasing.cancel()
    await asyncio.wait([releasing])
    again = asyncio.create_task(node.table.release(opening.pid))
    await asyncio.sleep(0.01)
    assert not again.done()
    held.set()
    assert await again == -1


async def test_release__while_opening_closes_what_was_opened() -> None:
    node = Node()
    await node.own()
    opening = node.table.get("events", 0)
    assert isinstance(opening, Opening)
    opened: list[Partition | ErrorCode] = []
    opening.then(opened.append)
    await node.table.release(PartitionId(TOPIC, 0))
    assert opened == [ErrorCode.NOT_LEADER_OR_FOLLOWER]
    assert node.table.get("events", 0) is None


async def test_own__at_a_newer_epoch_ends_the_old_ownership() -> None:
    node = Node()
    await node.own(epoch=1)
    old = await node.table.open("events", 0)
    await node.own(epoch=1)
    assert node.table.get("events", 0) is old
    await node.own(epoch=2)
    assert old.is_closed
    assert (await node.table.open("events", 0)).leader_epoch == 2


async def test_open__of_what_was_given_up_meanwhile_opens_nothing() -> None:
    """Whoever found the partition before it left and came back, such as a pass of retention, still has what it was:
    opening the log for that would end the ownership of now in storage, and what is acknowledged from then on is lost.
    """
    node = Node()
    await node.own()
    before = node.table.get("events", 0)
    await node.table.release(PartitionId(TOPIC, 0))
    await node.own(epoch=2)
    partition = await node.table.open("events", 0)
    with pytest.raises(KafkaError) as caught:
        await node.table.opened(before)
    assert caught.value.code is ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert node.storage.opened == 1
    assert node.table.get("events", 0) is partition


async def test_delete__frees_the_storage_and_the_name() -> None:
    node = Node()
    await node.own()
    partition = await node.table.open("events", 0)
    answer = Answer()
    partition.append(memoryview(batch()), answer)
    await node.table.delete(partition.pid)
    assert answer.result.error is ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert partition.pid not in node.storage.disk.logs
    again = PartitionId(TopicId(b"b" * 16), 0)
    await node.table.own(again, "events", 0, CONFIG)
    await node.table.delete(partition.pid)
    assert (await node.table.open("events", 0)).pid == again, "the old topic's end does not touch its successor"


async def test_reconfigure__reaches_open_partitions_and_those_to_come() -> None:
    node = Node()
    await node.own(2)
    await node.table.open("events", 0)
    config = topic_config(max_message_bytes="123")
    for index in range(2):
        node.table.reconfigure(PartitionId(TOPIC, index), config)
        assert (await node.table.open("events", index)).config is config


async def test_apply_retention__passes_over_partitions_whose_storage_fails() -> None:
    node = Node()
    await node.own(2)
    for index in range(2):
        partition = await node.table.open("events", index)
        partition.append(memoryview(batch(timestamp_ms=NOW_MS - 10 * 86_400_000)), Answer())
    node.storage.settle()
    failures = [Unavailable("away")]

    async def fail_once() -> None:
        if failures:
            raise failures.pop()

    node.storage.wait = fail_once  # type: ignore[method-assign]
    await node.table.apply_retention()
    assert [partition.log_start_offset for partition in node.table.open_partitions()] == [0, 1]
    await node.table.apply_retention()
    assert [partition.log_start_offset for partition in node.table.open_partitions()] == [1, 1]


async def test_apply_retention__opens_only_what_may_have_expired() -> None:
    node = Node()
    await node.own(1_000)
    for index, age_days in ((7, 10), (8, 1)):
        partition = await node.table.open("events", index)
        partition.append(memoryview(batch(timestamp_ms=NOW_MS - age_days * 86_400_000)), Answer())
        node.storage.settle()
        await node.table.release(partition.pid)
    await node.own(1_000)
    await node.table.apply_retention()
    assert [(partition.pid.index, partition.log_start_offset) for partition in node.table.open_partitions()] == [(7, 1)]


async def test_apply_retention__asks_for_nothing_that_was_given_up_meanwhile() -> None:
    node = Node()
    await node.own(3)
    asked: list[int] = []

    async def segments_of(pid: PartitionId) -> tuple[()]:
        asked.append(pid.index)
        await node.table.release(PartitionId(TOPIC, 1))
        return ()

    node.storage.segments_of = segments_of  # type: ignore[method-assign, method-assign]
    await node.table.apply_retention()
    assert asked == [0, 2]


async def test_adopt__opens_what_was_handed_over_with_more_than_its_segments_hold() -> None:
    node = Node()
    node.storage.held_logs = ()
    await node.own(4)
    for index in range(4):
        partition = await node.table.open("events", index)
        partition.append(memoryview(batch()), Answer())
    node.storage.settle()
    ends = [await node.table.release(PartitionId(TOPIC, index)) for index in range(4)]
    asked: list[int] = []
    segments_of = node.storage.segments_of

    async def in_write_ahead_log(pid: PartitionId) -> Sequence[SegmentInfo]:
        asked.append(pid.index)
        if pid.index == 0:
            raise Corrupt("its manifest is damaged")
        return () if pid.index == 1 else await segments_of(pid)

    node.storage.segments_of = in_write_ahead_log  # type: ignore[method-assign]
    for index, end_offset in enumerate(ends):
        await node.table.own(PartitionId(TOPIC, index), "events", 1, CONFIG, least_end_offset=end_offset)
    assert (await node.table.open("events", 3)).end_offset == 1
    assert await node.table.handed_over() == [PartitionId(TOPIC, 1)]
    task = asyncio.ensure_future(adopt(node.table, node.clock))
    for _ in range(3):
        for _ in range(20):
            await asyncio.sleep(0)
        node.clock.advance(INTERVAL_S)
    task.cancel()
    assert sorted(partition.pid.index for partition in node.table.open_partitions()) == [1, 3]
    assert asked.count(2) == 1, "what it was told does not change"


async def test_close__releases_everything() -> None:
    node = Node()
    await node.own(3)
    partition = await node.table.open("events", 1)
    await node.table.close()
    assert partition.is_closed
    assert list(node.table.entries()) == []


async def test_idle_partitions__cost_little_memory() -> None:
    node = Node()
    count = 500
    gc.collect()
    tracemalloc.start()
    await node.own(count)
    owned = tracemalloc.get_traced_memory()[0]
    for index in range(count):
        await node.table.open("events", index)
    gc.collect()
    opened = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert owned / count < 512
    assert opened / count < 4_096, "2 KiB for the log, the rest is the storage of this test"
