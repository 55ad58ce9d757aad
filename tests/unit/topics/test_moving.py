"""A partition moves from broker to broker: who may append when, and what the metadata say of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from bytemq.broker.departures import IDLE_AT_ONCE
from bytemq.broker.holding import State
from bytemq.broker.log.partition import Partition
from bytemq.broker.log.partitions import PartitionTable
from bytemq.broker.log.services import LogServices
from bytemq.broker.ownership import Ownership, Unfinished
from bytemq.config import BrokerConfig
from bytemq.errors import Unavailable
from bytemq.metadata import keys, values
from bytemq.metadata.claims import claims
from bytemq.metadata.embedded import EmbeddedStore
from bytemq.metadata.follower import ImageFollower
from bytemq.metadata.image import PartitionImage
from bytemq.metadata.store import Put
from bytemq.metadata.topic_names import OFFSETS_TOPIC
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.runtime.steps import STEP_ITEMS, finished
from bytemq.scheduler.membership import Membership
from bytemq.types import PartitionId
from tests.support.fake_log_storage import Disk, FakeLogStorage
from tests.support.metadata import broker_value, embedded_store, topic_id, topic_puts
from tests.support.virtual_time import VirtualClock
from tests.unit.log.harness import Answer, batch
from tests.unit.topics.world import FakeGroups

T1, T2 = topic_id(1), topic_id(2)


class Member:
    """One broker of several that share a store and a disk."""

    def __init__(self, store: EmbeddedStore, disk: Disk, membership: Membership, clock: VirtualClock) -> None:
        self.membership = membership
        self.follower = ImageFollower(store, clock)
        self.storage = FakeLogStorage(disk)
        self.executor = ThreadPoolExecutor(1)
        services = LogServices(cast(Any, self.storage), clock, self.executor)
        self.partitions = PartitionTable(services, membership.standing)
        config = BrokerConfig({})
        self.ownership = Ownership(
            broker_id=membership.broker_id,
            session_id=membership.session_id,
            lease=membership.lease,
            store=store,
            follower=self.follower,
            partitions=self.partitions,
            coordinators={},
            topic_config=lambda topic: config.topic_config(topic.configs),
            clock=clock,
        )
        self.tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        await self.follower.load()
        self.tasks = [asyncio.ensure_future(work()) for work in (self.follower.run, self.ownership.run)]

    async def append(self, index: int, answer: Answer) -> Partition:
        partition = await self.partitions.open("t", index)
        partition.append(memoryview(batch()), answer)
        return partition

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.executor.shutdown()


def held_states(member: Member) -> Counter[State]:
    return Counter(holding.state for held in member.ownership._held.values() for holding in held.values())


class Cluster:
    def __init__(self, store: EmbeddedStore, disk: Disk, members: list[Member]) -> None:
        self.store = store
        self.disk = disk
        self.members = members

    async def wish(self, brokers: list[int]) -> None:
        await self.store.txn([], [Put(keys.assignments(T1, 0), values.encode_assignments(brokers))])

    def fact(self, index: int) -> PartitionImage:
        topic = self.members[0].follower.image.topics.get("t")
        return topic.partitions[index] if topic is not None else PartitionImage(-1, -1, -1, -1)

    async def until(self, seen: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not seen():  # noqa: ASYNC110  (several followers, each with changes of its own)
                await asyncio.sleep(0.001)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(embedded_store(tmp_path))
        clock, disk = VirtualClock(), Disk()
        members = []
        for broker_id in (0, 1):
            membership = await Membership.join(store, clock, broker_id, broker_value(str(broker_id)), 3.0)
            members.append(Member(store, disk, membership, clock))
        for member in members:
            await member.run()
            stack.push_async_callback(member.close)
        made = Cluster(store, disk, members)
        await store.txn([], topic_puts("t", T1, [0, 0]))
        await made.until(lambda: made.fact(0).owner == 0 and made.fact(1).owner == 0)
        yield made


async def test_move__waits_for_what_is_on_its_way_and_tells_where_the_log_ends(cluster: Cluster) -> None:
    old, new = cluster.members
    answer = Answer()
    await old.append(0, answer)
    await cluster.wish([1, 0])
    await cluster.until(lambda: old.partitions.get("t", 0) is None)
    await asyncio.sleep(0.01)
    assert cluster.fact(0).owner == 0, "the last append is not decided yet"
    old.storage.settle()
    await cluster.until(lambda: cluster.fact(0).owner == 1)
    assert answer.result.error is ErrorCode.NONE
    assert cluster.fact(0)[1:] == (1, new.membership.session_id, 1, answer.result.base_offset + 1)
    await cluster.until(lambda: new.partitions.get("t", 0) is not None)
    partition = await new.partitions.open("t", 0)
    assert partition.high_watermark == 1 and partition.leader_epoch == 1
    assert cluster.fact(1).owner == 0, "the other one stays"
    with pytest.raises(KafkaError, match="NOT_LEADER_OR_FOLLOWER"):
        await old.partitions.open("t", 0)


async def test_move__to_a_broker_that_does_not_live_leaves_the_owner_alone(cluster: Cluster) -> None:
    await cluster.wish([7, 1])
    await cluster.until(lambda: cluster.fact(1).owner == 1)
    assert cluster.fact(0).owner == 0
    assert cluster.members[0].partitions.get("t", 0) is not None


async def test_move__back_before_it_was_over_is_a_new_epoch(cluster: Cluster) -> None:
    old, _ = cluster.members
    answer = Answer()
    await old.append(0, answer)
    await cluster.wish([1, 0])
    await cluster.until(lambda: old.partitions.get("t", 0) is None)
    await cluster.wish([0, 0])
    old.storage.settle()
    await cluster.until(lambda: cluster.fact(0).leader_epoch == 1)
    await cluster.until(lambda: old.partitions.get("t", 0) is not None)
    assert (await old.partitions.open("t", 0)).leader_epoch == 1


async def test_takeover__of_a_broker_that_died_needs_no_release(cluster: Cluster) -> None:
    old, new = cluster.members
    await old.close()
    await old.membership.leave()
    await cluster.wish([1, 1])
    await cluster.until(lambda: new.partitions.get("t", 0) is not None and new.partitions.get("t", 1) is not None)


async def test_opening__of_a_log_that_ends_before_its_release_is_refused(cluster: Cluster) -> None:
    old, new = cluster.members
    await old.append(0, Answer())
    old.storage.settle()
    await cluster.wish([1, 0])
    await cluster.until(lambda: new.partitions.get("t", 0) is not None)
    del cluster.disk.logs[PartitionId(T1, 0)]
    with pytest.raises(KafkaError, match="KAFKA_STORAGE_ERROR"):
        await new.partitions.open("t", 0)


async def test_claim__that_failed_for_one_topic_is_made_again_for_the_others(tmp_path: Path) -> None:
    """Claims of several topics share a transaction: what has not changed is not told of again."""
    async with embedded_store(tmp_path) as store:
        clock = VirtualClock()
        membership = await Membership.join(store, clock, 0, broker_value(), 3.0)
        t2 = topic_id(2)
        await store.txn([], [*topic_puts("t", T1, [0]), *topic_puts("u", t2, [0])])
        member = Member(store, Disk(), membership, clock)
        await member.follower.load()
        member.ownership._dirty |= {T1, t2}
        await store.txn([], [Put(keys.assignments(t2, 0), values.encode_assignments([1]))])
        assert not await member.ownership.settle(), "made from an image that is out of date"
        await member.run()
        assert await member.ownership.settle()
        await member.follower.load()
        owners = {name: topic.partitions[0].owner for name, topic in member.follower.image.topics.items()}
        assert owners == {"t": 0, "u": -1}
        await member.close()


class Storage(FakeLogStorage):
    """One that does not let go of logs while `refuses`."""

    refuses = False

    async def release_log(self, partition: PartitionId) -> None:
        if self.refuses:
            raise Unavailable("the store is down")


async def held_by_storage(cluster: Cluster) -> Storage:
    """Partition 0 of the first broker is wished to the second one, and the storage does not let go of it."""
    old, _ = cluster.members
    storage = old.partitions.services.storage = cast(Any, Storage(cluster.disk))
    await old.append(0, Answer())
    storage.settle()
    storage.refuses = True
    await cluster.wish([1, 0])
    await cluster.until(lambda: bool(held_states(old)[State.STUCK]))
    return cast(Storage, storage)


async def test_move__of_a_partition_that_crashes_keeps_no_other(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _ = cluster.members
    release = old.partitions.release

    async def crash(pid: PartitionId) -> int:
        if pid.index == 0:
            raise ZeroDivisionError
        return await release(pid)

    monkeypatch.setattr(old.partitions, "release", crash)
    await cluster.wish([1, 1])
    await cluster.until(lambda: cluster.fact(1).owner == 1)
    with pytest.raises(ZeroDivisionError):  # counted and tried again by whoever runs this
        await old.tasks[1]
    assert cluster.fact(0).owner == 0


async def test_move__of_a_log_that_storage_lets_go_of_late_tells_where_it_ends(cluster: Cluster) -> None:
    old, _ = cluster.members
    storage = await held_by_storage(cluster)
    assert old.partitions.get("t", 0) is None and cluster.fact(0).owner == 0
    storage.refuses = False
    assert await old.ownership.settle()
    await cluster.until(lambda: cluster.fact(0).owner == 1)
    assert cluster.fact(0).end_offset == 1, "closing it was done at the first try"


async def test_move__that_storage_has_not_let_go_of_and_nobody_wishes_any_more_is_served_again(
    cluster: Cluster,
) -> None:
    old, _ = cluster.members
    storage = await held_by_storage(cluster)
    await cluster.wish([0, 0])
    await cluster.until(lambda: old.partitions.get("t", 0) is not None)
    storage.refuses = False
    assert (await old.partitions.open("t", 0)).high_watermark == 1
    assert cluster.fact(0)[:2] == (0, 0)


async def test_move__that_storage_has_not_let_go_of_before_its_next_owner_died_is_served_again(
    cluster: Cluster,
) -> None:
    old, new = cluster.members
    storage = await held_by_storage(cluster)
    await new.close()
    await new.membership.leave()
    await cluster.until(lambda: 1 not in old.follower.image.brokers)
    await old.ownership.settle()
    storage.refuses = False
    await cluster.wish([0, 0])
    await cluster.until(lambda: old.partitions.get("t", 0) is not None)
    assert (await old.partitions.open("t", 0)).high_watermark == 1


async def test_move__that_is_over_and_back_before_anybody_looked_is_a_new_ownership(cluster: Cluster) -> None:
    """The image goes from an ownership to the next one of the same session in one step."""
    old, new = cluster.members
    await old.append(0, Answer())
    old.storage.settle()
    old.tasks[0].cancel()  # its image stands still
    await cluster.wish([1, 0])
    await cluster.until(lambda: new.follower.image.prepared.get(1, 0) > 0)
    await old.follower.load()
    releasing = asyncio.ensure_future(old.ownership.settle())
    await cluster.until(lambda: new.follower.image.topics["t"].partitions[0].owner == 1)
    sessions = [old.membership.session_id] * 2
    again = values.OwnersValue([0, 0], sessions, [2, 0], {0: 1})
    await cluster.store.txn([], topic_puts("t", T1, [0, 0], again))
    await old.follower.load()
    await releasing
    await old.ownership.settle()
    assert not held_states(old)[State.LEFT]
    assert (await old.partitions.open("t", 0)).leader_epoch == 2


class HesitantGroups(FakeGroups):
    """Has something under way that is never decided."""

    async def leave(self, index: int) -> None:
        self.release(index)
        await asyncio.Event().wait()


async def test_move__that_is_called_off_and_not_wished_any_more_leaves_nothing_without_a_coordinator(
    cluster: Cluster,
) -> None:
    old, _ = cluster.members
    groups = HesitantGroups()
    old.ownership._coordinators = {OFFSETS_TOPIC: cast(Any, groups)}
    await cluster.store.txn([], topic_puts(OFFSETS_TOPIC, topic_id(0), [0], is_internal=True))
    await cluster.until(lambda: groups.owned == [0])
    released = len(groups.released)
    await cluster.store.txn([], [Put(keys.assignments(topic_id(0), 0), values.encode_assignments([1]))])
    await cluster.until(lambda: len(groups.released) > released)
    old.tasks[1].cancel()  # as when what runs beside it fails: it is run again
    await asyncio.gather(old.tasks[1], return_exceptions=True)
    await cluster.store.txn([], [Put(keys.assignments(topic_id(0), 0), values.encode_assignments([0]))])
    await cluster.until(lambda: old.follower.image.topics[OFFSETS_TOPIC].partitions[0].assigned == 0)
    old.tasks[1] = asyncio.ensure_future(old.ownership.run())
    await cluster.until(lambda: groups.owned == [0, 0])


class StoppingStorage(FakeLogStorage):
    """Never lets go of a log."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        self.asked = asyncio.Event()

    async def release_log(self, pid: PartitionId) -> None:
        self.asked.set()
        await asyncio.Event().wait()


async def test_move__that_is_called_off_while_storage_lets_go_leaves_no_partition_unserved(cluster: Cluster) -> None:
    old, _ = cluster.members
    storage, sound = StoppingStorage(cluster.disk), old.partitions.services.storage
    old.partitions.services.storage = cast(Any, storage)
    await cluster.wish([1, 0])
    await storage.asked.wait()
    old.tasks[1].cancel()
    await asyncio.gather(old.tasks[1], return_exceptions=True)
    old.partitions.services.storage = sound
    await cluster.wish([0, 0])
    await cluster.until(lambda: cluster.fact(0).assigned == 0)
    old.tasks[1] = asyncio.ensure_future(old.ownership.run())
    await cluster.until(lambda: old.partitions.get("t", 0) is not None)
    assert (await old.partitions.open("t", 0)).high_watermark == 0


async def test_owner__of_tens_of_thousands_looks_at_them_in_steps_and_leaves_the_loop_alone_meanwhile(
    cluster: Cluster,
) -> None:
    old, new = cluster.members
    count = 3 * STEP_ITEMS
    await cluster.store.txn([], topic_puts("many", T2, [0] * count))
    await cluster.until(lambda: len(old.ownership._held.get(T2, {})) == count)
    assert len(list(old.ownership._look_at([T2]))) == 3
    left = sum(1 for change in claims(new.follower.image, 1, new.membership.session_id, [T2]) if change is None)
    assert left >= 3 - 1
    chunk = keys.CHUNK_PARTITIONS
    wishes = [
        Put(keys.assignments(T2, first // chunk), values.encode_assignments([1] * min(chunk, count - first)))
        for first in range(0, count, chunk)
    ]
    await cluster.store.txn([], wishes)
    await cluster.until(lambda: old.follower.image.topics["many"].partitions[0].assigned == 1)
    found: Unfinished = finished(old.ownership._look_at([T2]))
    assert len(found.leaving) > count - 2 * IDLE_AT_ONCE and len(found.others) <= IDLE_AT_ONCE


class SlowStorage(FakeLogStorage):
    """One that opens nothing before `go`."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        self.go = asyncio.Event()

    async def wait(self) -> None:
        await self.go.wait()


async def test_takeover__gives_all_partitions_an_owner_before_it_opens_what_is_coordinated(cluster: Cluster) -> None:
    old, new = cluster.members
    storage = SlowStorage(cluster.disk)
    new.partitions.services.storage = cast(Any, storage)
    groups = FakeGroups()
    new.ownership._coordinators = {OFFSETS_TOPIC: cast(Any, groups)}
    await old.close()
    await old.membership.leave()
    wish = Put(keys.assignments(T1, 0), values.encode_assignments([1, 1]))
    await cluster.store.txn([], [wish, *topic_puts(OFFSETS_TOPIC, topic_id(0), [1, 1], is_internal=True)])
    await cluster.until(lambda: new.partitions.get("t", 0) is not None and new.partitions.get("t", 1) is not None)
    assert groups.owned == []
    storage.go.set()
    await cluster.until(lambda: sorted(groups.owned) == [0, 1])
