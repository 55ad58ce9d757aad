from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from bytemq.errors import Fenced, Invalid, Unavailable
from bytemq.metadata import keys, values
from bytemq.metadata.embedded import EmbeddedStore
from bytemq.metadata.follower import ImageFollower
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.loads import IDLE, LoadReport, encode_load
from bytemq.metadata.moves import RecordedMove
from bytemq.metadata.store import MetadataStore, Put, Txn
from bytemq.runtime.steps import Steps
from bytemq.scheduler import controller
from bytemq.scheduler.controller import START_GRACE_S, Controller
from bytemq.scheduler.lateness import RELEASE_TIMEOUT_S
from bytemq.scheduler.membership import Membership, check_clock
from bytemq.scheduler.planner import Plan, plan
from bytemq.scheduler.reports import last_moves, load_reports
from tests.support.metadata import broker_value, embedded_store, topic_id, topic_puts
from tests.support.virtual_time import VirtualClock

T1 = topic_id(1)
TTL_S = 3.0


class Cluster:
    """Brokers of one store, each with its own follower and controller, as in as many processes."""

    def __init__(self, store: EmbeddedStore) -> None:
        self.store = store
        self.clock = VirtualClock()
        self.moves: list[RecordedMove] = []
        self.observer = ImageFollower(store, self.clock)
        self.controllers: dict[int, Controller] = {}
        self._tasks = [asyncio.ensure_future(self.observer.run())]

    async def add(self, broker_id: int, *, may_control: bool = True) -> Membership:
        member = await Membership.join(self.store, self.clock, broker_id, broker_value(), TTL_S)
        follower = ImageFollower(self.store, self.clock)
        await follower.load()
        controller = Controller(self.store, follower, member, self.clock, may_control=may_control)
        self.controllers[broker_id] = controller
        for work in (follower.run, controller.run, controller.run_looks):
            self._tasks.append(asyncio.ensure_future(work()))
        await asyncio.sleep(0)
        return member

    async def until(self, seen: object) -> None:
        """Waits until `seen()` holds of the observer's image."""
        assert callable(seen)
        changed = asyncio.Event()
        self.observer.subscribe(lambda change: changed.set())
        async with asyncio.timeout(30):
            while not seen():
                changed.clear()
                await changed.wait()

    async def look(self) -> None:
        """A second passes: every controller looks at the load once."""
        self.clock.advance(1.0)
        for _ in range(20):
            await asyncio.sleep(0.001)
        self.moves = (await last_moves(self.store)).moves

    async def look_until(self, seen: Callable[[], bool]) -> None:
        for _ in range(100):
            if seen():
                return
            await self.look()
        raise AssertionError("it never came to that")

    def assigned(self) -> list[int]:
        topic = self.observer.image.topics.get("t")
        return [] if topic is None else [partition.assigned for partition in topic.partitions]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with embedded_store(tmp_path) as store:
        made = Cluster(store)
        yield made
        await made.close()


async def drain_2_of(cluster: Cluster) -> None:
    """Of four partitions it has two; both are moved, and the moves recorded."""
    await cluster.store.txn([], topic_puts("t", T1, [1, 2, 1, 2]))
    await cluster.until(lambda: cluster.assigned() == [1, 2, 1, 2])
    await cluster.store.txn([], [Put(keys.config("broker", "2"), values.encode_configs({"bytemq.drained": "true"}))])
    await cluster.until(lambda: cluster.observer.image.drained == {2})
    await cluster.look_until(lambda: cluster.assigned() == [1, 1, 1, 1])
    await cluster.look_until(lambda: bool(cluster.moves))


async def test_controller__assigns_what_nobody_is_to_own(cluster: Cluster) -> None:
    await cluster.add(1)
    await cluster.store.txn([], topic_puts("t", T1, [-1, 9, 1]))
    await cluster.look_until(lambda: cluster.assigned() == [1, 1, 1])


async def test_controller__waits_a_while_for_brokers_that_it_has_not_seen_yet(cluster: Cluster) -> None:
    await cluster.add(1)
    await cluster.store.txn([], topic_puts("t", T1, [1, 2, -1, 3]))
    await cluster.until(lambda: cluster.assigned() == [1, 2, 1, 3])
    third = await cluster.add(3)
    for _ in range(int(START_GRACE_S) - 1):
        await cluster.look()
    assert cluster.assigned() == [1, 2, 1, 3]
    await third.leave()
    await cluster.until(lambda: cluster.assigned() == [1, 2, 1, 1])
    await cluster.look_until(lambda: cluster.assigned() == [1, 1, 1, 1])


async def test_controller__is_one_of_the_brokers_and_another_when_it_goes(cluster: Cluster) -> None:
    first = await cluster.add(1)
    await cluster.until(lambda: cluster.observer.image.controller_id == 1)
    await cluster.add(2)
    await cluster.store.txn([], topic_puts("t", T1, [1, 2]))
    await first.leave()
    await cluster.until(lambda: cluster.observer.image.controller_id == 2 and cluster.assigned() == [2, 2])


async def test_controller__is_nobody_without_the_role(cluster: Cluster) -> None:
    await cluster.add(1, may_control=False)
    await cluster.store.txn([], topic_puts("t", T1, [-1]))
    await cluster.look()
    assert (cluster.observer.image.controller_id, cluster.assigned()) == (-1, [-1])
    second = await cluster.add(2)
    await cluster.until(lambda: cluster.observer.image.controller_id == 2 and cluster.assigned() != [-1])
    await second.leave()
    await cluster.until(lambda: cluster.observer.image.controller_id == -1)
    await cluster.look()
    assert cluster.observer.image.controller_id == -1


async def test_controller__that_is_not_elected_remembers_no_deleted_topics(cluster: Cluster) -> None:
    await cluster.add(1)
    await cluster.until(lambda: cluster.observer.image.controller_id == 1)
    await cluster.add(2)
    puts = topic_puts("t", T1, [1])
    await cluster.store.txn([], puts)
    await cluster.until(lambda: cluster.assigned() == [1])
    await cluster.look()
    assert cluster.controllers[2]._unplanned == {T1}, "it may be elected before the other one has planned it"
    await cluster.store.txn([], [], [put.key for put in puts])
    await cluster.until(lambda: cluster.assigned() == [])
    await cluster.look()
    assert cluster.controllers[2]._unplanned == set()


@pytest.mark.parametrize(("apart_s", "word"), [(3600, "behind"), (-3600, "ahead of")])
async def test_membership__of_a_machine_whose_clock_is_far_off_is_refused(
    cluster: Cluster, apart_s: int, word: str
) -> None:
    now_ms = cluster.clock.wall_ms()
    await cluster.store.txn([], [Put(keys.load(7), encode_load(LoadReport(now_ms - 20_000, IDLE)))])
    await check_clock(cluster.store, cluster.clock)
    await cluster.store.txn([], [Put(keys.load(7), encode_load(LoadReport(now_ms + apart_s * 1000, IDLE)))])
    with pytest.raises(Invalid, match=rf"3600 s {word} .*broker 7"):
        await check_clock(cluster.store, cluster.clock)


@pytest.mark.parametrize(
    "unreadable",
    [
        b"\x01",
        b"[]",
        b'{"wall_ms":1}',
        b'{"wall_ms":0,"total":[],"topics":[1]}',
        b'{"wall_ms":0,"total":[0,0,null],"topics":{},"lag_ms":0,"commit_ms":0,"wal_bytes":0,"problem":""}',
        b'{"wall_ms":0,"total":[],"topics":{},"lag_ms":null,"commit_ms":0,"wal_bytes":0,"problem":""}',
        b'{"wall_ms":0,"total":[],"topics":{},"lag_ms":0,"commit_ms":{},"wal_bytes":0,"problem":""}',
    ],
)
async def test_reports__of_a_version_that_writes_them_otherwise_stop_nobody(
    cluster: Cluster, unreadable: bytes
) -> None:
    now_ms = cluster.clock.wall_ms()
    readable = LoadReport(now_ms, IDLE)
    puts = [Put(keys.load(7), unreadable), Put(keys.load(8), encode_load(readable)), Put(keys.MOVES, unreadable[:-1])]
    puts.append(Put(f"{keys.LOADS}of-all", encode_load(readable)))
    await cluster.store.txn([], puts)
    await check_clock(cluster.store, cluster.clock)
    assert await load_reports(cluster.store) == {8: readable}
    await cluster.add(1)
    await cluster.add(2)
    await drain_2_of(cluster)
    assert [move.partition for move in cluster.moves] == [1, 3]


async def test_membership__of_one_broker_id_is_one_session(cluster: Cluster) -> None:
    first = await cluster.add(1)
    with pytest.raises(Unavailable, match=r"broker id 1 is in use by another node at localhost:9092.*--id"):
        await Membership.join(cluster.store, cluster.clock, 1, broker_value(incarnation="other"), TTL_S)
    await first.leave()
    second = await Membership.join(cluster.store, cluster.clock, 1, broker_value(), TTL_S)
    assert second.session_id > first.session_id


async def test_membership__of_an_id_that_was_claimed_before_takes_another_when_it_is_gone(cluster: Cluster) -> None:
    again = await Membership.join(cluster.store, cluster.clock, 1, broker_value(), TTL_S, or_any=True)
    assert again.broker_id == 1
    other = broker_value(incarnation="other")
    assert (await Membership.join(cluster.store, cluster.clock, 1, other, TTL_S, or_any=True)).broker_id == 0


async def test_membership__ends_fenced_when_its_session_is_gone(cluster: Cluster) -> None:
    member = await Membership.join(cluster.store, cluster.clock, 1, broker_value(), TTL_S)
    running = asyncio.ensure_future(member.run())
    await asyncio.sleep(0)
    await member.leave()
    assert await cluster.store.get(keys.broker(1)) is None
    cluster.clock.advance(TTL_S)
    with pytest.raises(Fenced):
        await asyncio.wait_for(running, 30)


async def test_membership__whose_registration_had_no_answer_reads_it_back(cluster: Cluster) -> None:
    class LosesAnswers:
        def __getattr__(self, name: str) -> object:
            return getattr(cluster.store, name)

        async def txn(self, *args: Any) -> Txn:
            await cluster.store.txn(*args)
            raise Unavailable("the answer was lost")

    member = await Membership.join(cast(MetadataStore, LosesAnswers()), cluster.clock, 1, broker_value(), TTL_S)
    held = await cluster.store.get(keys.broker(1))
    assert held is not None and member.session_id == held.revision
    await member.leave()
    assert await cluster.store.get(keys.broker(1)) is None


async def test_controller__moves_everything_off_a_drained_broker_and_records_why(cluster: Cluster) -> None:
    await cluster.add(1)
    await cluster.add(2)
    await drain_2_of(cluster)
    assert [move[1:] for move in cluster.moves] == [
        ("t", 1, 2, 1, "broker 2 is drained"),
        ("t", 3, 2, 1, "broker 2 is drained"),
    ]


async def test_controller__ends_the_session_of_an_owner_that_does_not_release(cluster: Cluster) -> None:
    first, second = await cluster.add(1), await cluster.add(2)
    facts = values.OwnersValue([2], [second.session_id], [0])
    await cluster.store.txn([], topic_puts("t", T1, [1], facts))
    await cluster.until(lambda: cluster.assigned() == [1])
    seconds = 0
    while 2 in cluster.observer.image.brokers:
        seconds += 1
        await cluster.look()
        assert seconds < 60
    assert seconds > RELEASE_TIMEOUT_S, "it had its time"
    assert first.broker_id in cluster.observer.image.brokers


async def test_controller__that_was_replaced_in_the_middle_of_a_plan_writes_nothing_of_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = asyncio.Event()

    def slowly(image: ClusterImage, *rest: Any) -> Steps[Plan]:
        made = yield from plan(image, *rest)
        while made.wishes and image.controller_id == 1:
            planned.set()
            yield
        return made

    monkeypatch.setattr(controller, "plan", slowly)
    await cluster.add(1)
    await cluster.store.txn([], topic_puts("t", T1, [-1]))
    await planned.wait()
    await cluster.store.txn([], [Put(keys.CONTROLLER, values.encode_number(7))])
    await cluster.until(lambda: cluster.observer.image.controller_id == 7)
    await cluster.look()
    assert cluster.assigned() == [-1]
