"""Several stores as one: names lead to one of them, what is new goes to the best, and leaves one that turns sick."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from bytemq.errors import Corrupt, Invalid, NotFound, Unavailable
from bytemq.storage.pools.health import Rank
from bytemq.storage.pools.names import PRIMARY, in_pool, may_be_called, plain_name, pool_of
from bytemq.storage.pools.pooled_store import PooledStore
from bytemq.storage.stores.remote import RemoteStore, RetryPolicy
from tests.support.failing_driver import FailingDriver
from tests.support.virtual_time import LoopClock, run_virtual

POLICY = RetryPolicy(attempts=3, timeout_s=15.0)


class Bench:
    """The primary and the pools b and c."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.drivers = {name: FailingDriver() for name in (PRIMARY, "b", "c")}
        self.unreachable: set[str] = set()
        self.store = PooledStore(self._store(PRIMARY), self.clock, self._open)
        self.store.set_pools({"b": False, "c": False})
        self.discarded: list[str] = []

    def _store(self, name: str) -> RemoteStore:
        return RemoteStore(self.drivers[name], self.clock, Random(1), POLICY)

    async def _open(self, name: str) -> RemoteStore:
        if name not in self.drivers:
            raise Corrupt(f"no pool {name}")
        if name in self.unreachable:
            raise Unavailable("connection refused")
        return self._store(name)

    async def place(self, name: str, data: bytes = b"data") -> str:
        return await self.store.place(name, [data], self.discarded.extend)

    async def open_all(self) -> None:
        for name in ("b", "c"):
            await self.store.opened(name)

    def goes_dark(self, pool: str) -> None:
        """Nothing is answered, and nothing happens any more."""

        async def never(*anything: object) -> None:
            await asyncio.Event().wait()

        self.drivers[pool].put = self.drivers[pool].get = never  # type: ignore[method-assign,assignment]

    def rank(self, pool: str) -> Rank:
        return self.store.pools[pool].health.rank


def run(test: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        bench = Bench()
        await bench.open_all()
        await test(bench)
        await bench.store.close()

    run_virtual(main())


def test_names__say_in_which_pool() -> None:
    assert in_pool("b", "wal/1/x") == "@b/wal/1/x" and in_pool(PRIMARY, "wal/1/x") == "wal/1/x"
    for name in ("wal/1/x", "@b/wal/1/x"):
        assert in_pool(pool_of(name), plain_name(name)) == name
    assert may_be_called("b-2")
    assert not any(map(may_be_called, ("", "primary", "B", "a/b", "@", "-b", "x" * 33)))


def test_names__lead_to_one_store_and_nothing_is_looked_for_elsewhere() -> None:
    async def test(bench: Bench) -> None:
        for pool in ("b", "c"):
            await bench.store.create(in_pool(pool, "a/1"), [pool.encode()])
        assert await bench.store.read("@b/a/1") == b"b"
        assert await bench.store.read_range("@c/a/1", 0, 1) == b"c"
        with pytest.raises(NotFound):
            await bench.store.read("a/1")
        assert [name for operation, name in bench.drivers[PRIMARY].calls if operation == "get"] == ["a/1"]
        assert [info.name for info in await bench.store.list("@b/a/")] == ["@b/a/1"]
        await bench.store.delete(["@b/a/1", "a/1"])
        assert not bench.drivers["b"].objects and "a/1" in bench.drivers["c"].objects

    run(test)


def test_names__in_a_pool_that_nobody_has_told_of_yet_are_found_and_in_none_are_an_error() -> None:
    async def test(bench: Bench) -> None:
        bench.drivers["new"] = FailingDriver(objects={"a/1": (b"new", "")})
        assert await bench.store.read("@new/a/1") == b"new"
        assert "new" not in bench.store.pools, "nothing is placed there before the metadata say so"
        bench.store.set_pools({"b": False})
        assert await bench.store.read("@new/a/1") == b"new"
        with pytest.raises(Corrupt):
            await bench.store.read("@no/a/1")

    run(test)


def test_create__in_a_pool_works_for_a_process_that_was_only_told_where_pools_are() -> None:
    """As the worker that cleans logs: nothing is placed there, names are given."""

    async def main() -> None:
        bench = Bench()
        worker = PooledStore(bench._store(PRIMARY), bench.clock, bench._open)
        for name in ("a/1", "@b/a/1"):
            await worker.create(name, [name.encode()])
            assert await worker.read(name) == name.encode()
        assert "a/1" in bench.drivers["b"].objects

    run_virtual(main())


def test_place__prefers_the_primary_while_it_is_well() -> None:
    async def test(bench: Bench) -> None:
        assert [await bench.place(f"a/{n}") for n in range(20)] == [f"a/{n}" for n in range(20)]
        assert not bench.drivers["b"].calls and not bench.discarded

    run(test)


def test_place__leaves_a_store_that_does_not_answer_within_seconds_and_later_writes_do_not_go_there() -> None:
    async def test(bench: Bench) -> None:
        bench.goes_dark(PRIMARY)
        began = bench.clock.monotonic()
        names = await asyncio.gather(*(bench.place(f"a/{n}") for n in range(8)))
        assert names == [f"@b/a/{n}" for n in range(8)]
        assert 1.0 < bench.clock.monotonic() - began < 2.5
        assert sorted(bench.discarded) == [f"a/{n}" for n in range(8)], "what may come to be there all the same"
        began = bench.clock.monotonic()
        assert await bench.place("a/9") == "@b/a/9"
        assert bench.clock.monotonic() == began

    run(test)


def test_place__takes_the_next_store_at_once_where_one_refuses() -> None:
    async def test(bench: Bench) -> None:
        for pool in (PRIMARY, "b"):
            bench.drivers[pool].fault = lambda operation, name: "refused"
        began = bench.clock.monotonic()
        assert await bench.place("a/1") == "@c/a/1"
        assert bench.clock.monotonic() - began < 1.0
        assert (bench.rank(PRIMARY), bench.rank("b"), bench.rank("c")) == (Rank.FAILING, Rank.FAILING, Rank.WELL)
        assert await bench.place("a/2") == "@c/a/2"

    run(test)


def test_place__fails_when_all_have_and_says_what_may_be_there() -> None:
    async def test(bench: Bench) -> None:
        for driver in bench.drivers.values():
            driver.fault = lambda operation, name: "late"
        with pytest.raises(Unavailable):
            await bench.place("a/1")
        assert sorted(bench.discarded) == ["@b/a/1", "@c/a/1", "a/1"]
        for driver in bench.drivers.values():
            driver.fault = lambda operation, name: None
        assert await bench.place("a/2") == "a/2", "none is better than another: the first one, as ever"

    run(test)


def test_place__goes_nowhere_else_when_everything_is_late() -> None:
    """A machine that is too busy to hear answers must not write everything twice."""

    async def test(bench: Bench) -> None:
        for driver in bench.drivers.values():
            driver.latency_s = 1.6
        for n in range(6):
            await bench.place(f"a/{n}")
        puts = {pool: sum(operation == "put" for operation, _ in d.calls) for pool, d in bench.drivers.items()}
        for n in range(6, 26):
            await bench.place(f"a/{n}")
        later = {pool: sum(operation == "put" for operation, _ in d.calls) for pool, d in bench.drivers.items()}
        assert sum(later.values()) - sum(puts.values()) == 20
        assert all(bench.rank(pool) is Rank.SLOW for pool in bench.drivers)

    run(test)


def test_place__never_goes_to_a_pool_that_is_drained() -> None:
    async def test(bench: Bench) -> None:
        bench.store.set_pools({"b": True, "c": False})
        bench.goes_dark(PRIMARY)
        assert await bench.place("a/1") == "@c/a/1"
        bench.store.set_pools({PRIMARY: True, "b": True, "c": False})
        assert await bench.place("a/2") == "@c/a/2"
        assert not bench.drivers["b"].calls

    run(test)


def test_place__leaves_a_store_that_is_drained_alone_from_the_next_write_on() -> None:
    async def test(bench: Bench) -> None:
        bench.store.set_pools({PRIMARY: True, "b": False, "c": False})
        assert await bench.place("a/1") == "@b/a/1"
        bench.store.set_pools({"b": False, "c": False})
        assert await bench.place("a/2") == "a/2"

    run(test)


def test_place__passes_over_a_pool_that_cannot_be_opened() -> None:
    async def test(bench: Bench) -> None:
        bench.unreachable.add("a0")
        bench.drivers["a0"] = FailingDriver()
        bench.store.set_pools({"a0": False, "b": False})
        bench.goes_dark(PRIMARY)
        assert await bench.place("a/1") == "@b/a/1"
        with pytest.raises(Unavailable, match="pool a0 cannot be reached: connection refused"):
            await bench.store.read("@a0/x/1")
        bench.unreachable.clear()
        await bench.store.opened("a0")
        assert await bench.place("a/2") == "@a0/a/2"

    run(test)


def test_place__that_nobody_waits_for_any_more_leaves_nothing_running_and_says_so() -> None:
    async def test(bench: Bench) -> None:
        bench.goes_dark(PRIMARY)
        placing = asyncio.ensure_future(bench.place("a/1"))
        await bench.clock.sleep(0.5)
        placing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await placing
        assert bench.discarded == ["a/1"]
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    run(test)


def test_place__where_there_is_one_store_is_one_request_and_no_task() -> None:
    async def main() -> None:
        driver, clock = FailingDriver(), LoopClock()
        store = PooledStore(RemoteStore(driver, clock, Random(1), POLICY), clock)
        driver.latency_s = 5.0
        placing = asyncio.ensure_future(store.place("a/1", [b"x"], lambda names: None))
        await clock.sleep(0.1)
        assert len(asyncio.all_tasks()) == 2
        assert await placing == "a/1"
        assert driver.calls == [("put", "a/1")]

    run_virtual(main())


def test_place__does_not_take_somebody_elses_object_for_its_own() -> None:
    async def test(bench: Bench) -> None:
        for driver in bench.drivers.values():
            driver.objects["a/1"] = (b"other", "token")
        with pytest.raises(Invalid):
            await bench.place("a/1")
        assert all(bench.rank(pool) is Rank.WELL for pool in bench.drivers), "they have answered"

    run(test)
