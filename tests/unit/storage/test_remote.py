"""A remote store whose answers get lost, come twice, late or not at all."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from random import Random

import pytest

from bytemq.errors import Invalid, NotFound, Unavailable
from bytemq.storage.stores.interface import Buffer
from bytemq.storage.stores.remote import START_PATIENCE_S, Refused, RemoteStore, RetryPolicy, within
from bytemq.storage.stores.self_test import self_test
from tests.support.failing_driver import FailingDriver
from tests.support.virtual_time import LoopClock, run_virtual

Test = Callable[[FailingDriver, RemoteStore], Awaitable[None]]


def run(test: Test, driver: FailingDriver | None = None, policy: RetryPolicy | None = None) -> None:
    async def main() -> None:
        used = driver or FailingDriver()
        await test(used, RemoteStore(used, LoopClock(), Random(1), policy))

    run_virtual(main())


def once(fault: str, operation: str) -> Callable[[str, str], str | None]:
    """The first attempt at the operation goes wrong."""
    numbers = itertools.count()
    return lambda of, name: fault if of == operation and next(numbers) == 0 else None


@pytest.mark.parametrize(
    ("fault", "keeps_tokens"),
    [("lost", True), ("lost", False), ("refused", True), ("refused", False), ("late", True), ("twice", True)],
)
def test_create__knows_its_own_object_when_an_answer_was_lost(fault: str, keeps_tokens: bool) -> None:
    async def test(driver: FailingDriver, store: RemoteStore) -> None:
        driver.fault = once(fault, "put")
        await store.create("a/1", [b"mine"])
        driver.settle()
        assert driver.objects["a/1"][0] == b"mine"

    run(test, FailingDriver(keeps_tokens=keeps_tokens))


def test_create__does_not_take_a_part_of_its_object_for_the_whole() -> None:
    """It would be named by the metadata, and its records would be lost."""

    async def test(driver: FailingDriver, store: RemoteStore) -> None:
        driver.fault = once("torn", "put")
        with pytest.raises(Unavailable, match="kept 2 of 4 bytes"):
            await store.create("a/1", [b"mine"])
        assert [operation for operation, _ in driver.calls] == ["put", "put", "head"], "and not until patience ends"
        await store.create("a/2", [b"mine"])

    run(test)


def test_create__does_not_take_somebody_elses_object_for_its_own() -> None:
    async def test(driver: FailingDriver, store: RemoteStore) -> None:
        other = RemoteStore(FailingDriver(objects=driver.objects), LoopClock(), Random(2))
        driver.fault = once("refused", "put")
        await other.create("a/1", [b"the same bytes"])
        with pytest.raises(Invalid):
            await store.create("a/1", [b"the same bytes"])

    run(test)


def test_create__gives_up_in_the_end_and_may_have_happened() -> None:
    async def test(driver: FailingDriver, store: RemoteStore) -> None:
        driver.fault = lambda operation, name: "late"
        with pytest.raises(Unavailable):
            await store.create("a/1", [b"x"])
        assert store.traffic.requests == {"put": 4}
        assert store.traffic.failures == {"put": 4}
        driver.settle()
        assert driver.objects["a/1"][0] == b"x"

    run(test, policy=RetryPolicy(attempts=4))


def test_read__is_tried_again_when_the_answer_breaks_off() -> None:
    async def test(driver: FailingDriver, store: RemoteStore) -> None:
        await store.create("a/1", [b"0123456789"])
        driver.fault = once("cut", "get")
        assert await store.read_range("a/1", 2, 3) == b"234"
        assert (store.traffic.requests["get"], store.traffic.read_bytes) == (2, 3)
        with pytest.raises(NotFound):
            await store.read("a/2")

    run(test)


def test_call__that_is_never_answered_ends() -> None:
    async def test(driver: FailingDriver, store: RemoteStore) -> None:
        clock = LoopClock()
        with pytest.raises(Unavailable):
            await within(clock, 5.0, clock.sleep(3600))
        assert clock.monotonic() == pytest.approx(5.0, abs=0.1)
        assert await within(clock, 5.0, store.list("a/")) == []

    run(test)


def unfit_stores() -> dict[str, type[RemoteStore]]:
    class Overwrites(RemoteStore):
        async def create(self, name: str, data: Sequence[Buffer]) -> None:
            with suppress(Invalid):
                await super().create(name, data)

    class Forgets(RemoteStore):
        async def read(self, name: str) -> bytes:
            raise NotFound(name)

    class IgnoresRanges(RemoteStore):
        async def read_range(self, name: str, position: int, size_bytes: int) -> bytes:
            return await self.read(name)

    class KeepsEverything(RemoteStore):
        async def delete(self, names: Sequence[str]) -> None:
            return None

    class ListsNothing(RemoteStore):
        async def list(self, prefix: str) -> list[object]:  # type: ignore[override]
            return []

    return {
        "created the same name": Overwrites,
        "right after it was written": Forgets,
        "part of an object": IgnoresRanges,
        "after it was deleted": KeepsEverything,
        "not listed": ListsNothing,
    }


def test_within__that_ends_what_takes_too_long_leaves_its_caller_alone() -> None:
    async def main() -> None:
        clock = LoopClock()
        for _ in range(2):
            with pytest.raises(Unavailable):
                await within(clock, 1.0, clock.sleep(10))
        await clock.sleep(10)
        task = asyncio.current_task()
        assert task is not None and not task.cancelling()

    run_virtual(main())


def test_within__is_ended_by_who_ends_its_caller() -> None:
    async def main() -> None:
        clock = LoopClock()
        for cancelled_after_s in (0.5, 1.0):  # at last in the same moment in which its time is over
            caller = asyncio.ensure_future(within(clock, 1.0, clock.sleep(10)))
            clock.call_later(cancelled_after_s, caller.cancel)
            with pytest.raises(asyncio.CancelledError):
                await caller

    run_virtual(main())


@pytest.mark.parametrize("sentence", unfit_stores())
def test_self_test__refuses_a_store_that_cannot_be_relied_upon(sentence: str) -> None:
    async def test(driver: FailingDriver, _: RemoteStore) -> None:
        store = unfit_stores()[sentence](driver, LoopClock(), Random(1))
        with pytest.raises(Invalid, match=sentence):
            await self_test(store, LoopClock(), "1")

    run(test)


def test_prepare__waits_out_a_store_that_is_away_for_a_moment() -> None:
    async def test(driver: FailingDriver, store: RemoteStore) -> None:
        clock, asked_at = LoopClock(), list[float]()
        back_at = clock.monotonic() + START_PATIENCE_S / 2

        def away(operation: str, name: str) -> str | None:
            asked_at.append(clock.monotonic())
            return "refused" if clock.monotonic() < back_at else None

        driver.fault = away
        await store.prepare()
        waited = [after - before for before, after in itertools.pairwise(asked_at)]
        assert len(set(waited)) == len(waited) > 3, "with jitter"

    run(test)


def test_prepare__gives_up_in_the_end_and_at_once_where_it_is_refused() -> None:
    async def away(driver: FailingDriver, store: RemoteStore) -> None:
        driver.fault = lambda operation, name: "refused"
        started_at = LoopClock().monotonic()
        with pytest.raises(Unavailable, match="503"):
            await store.prepare()
        assert START_PATIENCE_S <= LoopClock().monotonic() - started_at < START_PATIENCE_S + 3

    async def refused(driver: FailingDriver, store: RemoteStore) -> None:
        def refuse(operation: str, name: str) -> str | None:
            raise Refused("the store refuses these credentials")

        driver.fault = refuse
        with pytest.raises(Refused):
            await store.prepare()
        assert len(driver.calls) == 1

    run(away)
    run(refused)
