"""A session that somebody else ends: in time, never while its broker may still answer for what it owns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from bytemq.errors import Fenced, NotFound, Unavailable
from bytemq.metadata import keys
from bytemq.metadata.doubts import ENDING_S, Doubts
from bytemq.metadata.image import BrokerImage
from bytemq.metadata.store import Compare, Put
from bytemq.metadata.values import DoubtStage, decode_doubt, encode_number
from bytemq.scheduler.membership import Membership, SessionLost
from tests.support.metadata import broker_value
from tests.support.power_cut_store import MemoryMetadata, Power
from tests.support.virtual_time import LoopClock, run_virtual

TTL_S = 3.0
STANDS_S, GONE_S, MISSED_S = 0.9 * TTL_S, 0.95 * TTL_S, 0.4 * TTL_S


class Store(MemoryMetadata):
    """Leases never end by themselves here: what is seen is the work of doubts."""

    leases_time_out = True

    def __init__(self) -> None:
        super().__init__(Power(None))
        self.leases = 0

    async def grant_lease(self, ttl_s: float) -> int:
        self.leases += 1
        return self.leases

    async def keep_alive(self, lease: int) -> None:
        return None

    async def revoke(self, lease: int) -> None:
        return None


class Cluster:
    def __init__(self) -> None:
        self.store, self.clock = Store(), LoopClock()

    async def join(self, broker_id: int) -> Membership:
        value = replace(broker_value(str(broker_id)), session_timeout_s=TTL_S)
        return await Membership.join(self.store, self.clock, broker_id, value, TTL_S)

    def doubts(self, broker_id: int) -> Doubts:
        return Doubts(self.store, self.clock, broker_id, 0)

    def stage(self, broker_id: int = 1) -> DoubtStage | None:
        entry = self.store.entries.get(keys.doubt(broker_id))
        return None if entry is None else decode_doubt(entry.value).stage

    def lives(self, broker_id: int = 1) -> bool:
        return keys.broker(broker_id) in self.store.entries


def image(member: Membership, ttl_s: float | None = TTL_S) -> BrokerImage:
    return BrokerImage(member.broker_id, None, {}, member.session_id, session_timeout_s=ttl_s)


@asynccontextmanager
async def running(*works: Coroutine[Any, Any, Any]) -> AsyncIterator[list[asyncio.Task[Any]]]:
    tasks = [asyncio.ensure_future(work) for work in works]
    yield tasks
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def in_virtual_time(test: Callable[[Cluster], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            async with asyncio.timeout(10 * TTL_S):
                await test(Cluster())

        run_virtual(main())

    run.__name__ = test.__name__
    return run


@in_virtual_time
async def test_doubt__that_nobody_takes_back_ends_the_session_when_it_stands_no_more(cluster: Cluster) -> None:
    dead = await cluster.join(1)
    await cluster.store.txn([], [Put(keys.CONTROLLER, encode_number(1))])
    async with running(cluster.doubts(2).end_unless_it_objects(image(dead))) as [ending]:
        seen: list[DoubtStage | None] = []
        for at in (0.01, MISSED_S - 0.01, MISSED_S + 0.01, GONE_S - ENDING_S + 0.01, GONE_S - 0.01):
            await asyncio.sleep(at - cluster.clock.monotonic())
            seen.append(cluster.stage())
            assert cluster.lives()
            assert (keys.CONTROLLER in cluster.store.entries) is (at < MISSED_S), "its office goes when it is missed"
        assert seen == [DoubtStage.RAISED, DoubtStage.RAISED, DoubtStage.MISSED, DoubtStage.ENDING, DoubtStage.ENDING]
        assert not dead.standing.holds()
        assert await ending and not cluster.lives() and cluster.stage() is None
        assert cluster.clock.monotonic() < GONE_S + 0.1


@in_virtual_time
async def test_doubt__is_taken_back_by_a_broker_that_lives_and_nobody_notices(cluster: Cluster) -> None:
    alive = await cluster.join(1)
    await cluster.store.txn([], [Put(keys.CONTROLLER, encode_number(1))])
    async with running(alive.run(), cluster.doubts(2).end_unless_it_objects(image(alive))) as [_, ending]:
        while not ending.done():
            assert alive.standing.holds() and cluster.stage() in (None, DoubtStage.RAISED)
            await asyncio.sleep(0.05)
        assert not ending.result() and cluster.lives() and keys.CONTROLLER in cluster.store.entries
        await asyncio.sleep(2 * TTL_S)
        assert alive.standing.holds()


@in_virtual_time
async def test_renewal__does_not_count_while_there_is_a_doubt(cluster: Cluster) -> None:
    """What may be said in the broker's name ends before its session does, also if it renews its lease all the time."""
    alive = await cluster.join(1)

    async def refuse(*_: Any) -> Any:
        raise Unavailable("it cannot object")

    alive._store = SilentStore(cluster.store, refuse)  # type: ignore[assignment]
    async with running(alive.run(), cluster.doubts(2).end_unless_it_objects(image(alive))):
        stood_at = 0.0
        while cluster.lives():
            stood_at = cluster.clock.monotonic() if alive.standing.holds() else stood_at
            await asyncio.sleep(0.01)
        assert stood_at < cluster.clock.monotonic() - 0.1
        assert not alive.standing.holds()


class SilentStore:
    """Reads and renewals get through, transactions do not."""

    def __init__(self, store: Store, txn: Callable[..., Any]) -> None:
        self.leases_time_out = True
        self.get, self.keep_alive, self.txn = store.get, store.keep_alive, txn


@in_virtual_time
async def test_doubt__that_is_final_is_the_end_of_a_broker_that_lives(cluster: Cluster) -> None:
    late = await cluster.join(1)
    async with running(late.run(), cluster.doubts(2).end(image(late), [])) as [renewing, ending]:
        with pytest.raises(SessionLost):
            await renewing
        assert not late.standing.holds() and cluster.lives(), "it stops first"
        assert await ending and not cluster.lives()


@in_virtual_time
async def test_doubt__of_somebody_who_is_not_in_office_any_more_is_not_raised(cluster: Cluster) -> None:
    late = await cluster.join(1)
    assert not await cluster.doubts(2).end(image(late), [Compare(keys.CONTROLLER, 77)])
    assert cluster.stage() is None and cluster.lives()


@in_virtual_time
async def test_doubt__is_raised_by_one_and_of_this_session_only(cluster: Cluster) -> None:
    dead = await cluster.join(1)
    first, second = cluster.doubts(2), cluster.doubts(3)
    async with running(first.end_unless_it_objects(image(dead))) as [ending]:
        await asyncio.sleep(0.1)
        assert not await second.end_unless_it_objects(image(dead))
        assert await ending
    again = await cluster.join(1)
    assert not await second.end_unless_it_objects(image(dead)), "that session is over"
    async with running(second.end_unless_it_objects(image(again))) as [ending]:
        assert await ending


@in_virtual_time
async def test_doubt__in_a_broker_that_does_not_look_for_doubts_is_not_raised(cluster: Cluster) -> None:
    older = await cluster.join(1)
    assert not await cluster.doubts(2).end_unless_it_objects(image(older, None))
    assert cluster.stage() is None and cluster.lives()
    assert await cluster.doubts(2).end(image(older, None), []) and not cluster.lives(), "it cannot be asked"


@in_virtual_time
async def test_doubt__whose_transactions_are_not_answered_goes_on(cluster: Cluster) -> None:
    dead = await cluster.join(1)
    answers = iter(range(1_000))
    cluster.store.fault_after = lambda: Unavailable("no answer") if next(answers) % 2 == 0 else None
    await cluster.doubts(2).end_unless_it_objects(image(dead))
    assert not cluster.lives() and cluster.clock.monotonic() < GONE_S + 0.5


@in_virtual_time
async def test_renewal__of_a_session_whose_key_is_gone_is_its_end(cluster: Cluster) -> None:
    removed = await cluster.join(1)
    await cluster.store.txn([], [], [keys.broker(1)])
    with pytest.raises(Fenced):
        await removed.run()
    assert not removed.standing.holds()


@in_virtual_time
async def test_doubt__of_somebody_whose_own_lease_has_ended_is_over(cluster: Cluster) -> None:
    dead = await cluster.join(1)
    cluster.store.fault = lambda: NotFound("the lease has ended")
    assert not await cluster.doubts(2).end_unless_it_objects(image(dead))
    cluster.store.fault = None
    async with running(cluster.doubts(2).end_unless_it_objects(image(dead))) as [ending]:
        await asyncio.sleep(0.1)
        cluster.store.fault = lambda: NotFound("the lease has ended")
        assert not await ending
    assert cluster.lives()
