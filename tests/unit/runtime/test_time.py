"""Clocks, deadlines, and the virtual time that tests run on."""

import asyncio

import pytest

from bytemq.runtime.clock import SystemClock
from bytemq.runtime.deadlines import Deadlines
from tests.support.virtual_time import LoopClock, VirtualClock, run_virtual


class Item:
    def __init__(self) -> None:
        self.expirations = 0

    def expired(self) -> None:
        self.expirations += 1


def test_deadlines__expire_once_and_not_when_discarded() -> None:
    clock = VirtualClock()
    deadlines = Deadlines(clock)
    early, late, discarded = Item(), Item(), Item()
    deadlines.add(early, 1)
    deadlines.add(late, 5)
    deadlines.add(discarded, 1)
    deadlines.discard(discarded)
    clock.advance(0.9)
    assert early.expirations == 0
    clock.advance(0.3)
    assert (early.expirations, late.expirations) == (1, 0)
    clock.advance(60)
    assert (early.expirations, late.expirations, discarded.expirations) == (1, 1, 0)
    assert clock.pending == 0, "no timer while there is no deadline"


def test_deadlines__can_be_set_from_an_expiration() -> None:
    clock = VirtualClock()
    deadlines = Deadlines(clock)

    class Again(Item):
        def expired(self) -> None:
            super().expired()
            if self.expirations < 3:
                deadlines.add(self, 1)

    item = Again()
    deadlines.add(item, 1)
    clock.advance(60)
    assert item.expirations == 3


def test_deadlines__go_on_behind_one_whose_owner_crashes() -> None:
    """Else nobody would be told of a time-out any more."""
    clock = VirtualClock()
    deadlines = Deadlines(clock)

    class Crashing(Item):
        def expired(self) -> None:
            raise ValueError("a mistake of ours")

    behind, later = Item(), Item()
    deadlines.add(Crashing(), 1)
    deadlines.add(behind, 1)
    with pytest.raises(ValueError, match="mistake"):
        clock.advance(2)
    deadlines.add(later, 1)
    clock.advance(5)
    assert (behind.expirations, later.expirations) == (1, 1)


def test_virtual_clock__runs_callbacks_in_order_of_time() -> None:
    clock = VirtualClock()
    seen: list[tuple[str, float]] = []
    clock.call_later(2, lambda: seen.append(("b", clock.monotonic())))
    clock.call_later(1, lambda: seen.append(("a", clock.monotonic())))
    clock.call_later(3, lambda: seen.append(("never", 0))).cancel()
    start_ms = clock.wall_ms()
    clock.advance(10)
    assert seen == [("a", 1.0), ("b", 2.0)]
    assert clock.wall_ms() - start_ms == 10_000


def test_virtual_loop__jumps_over_sleeps() -> None:
    async def run() -> float:
        clock = LoopClock()
        await asyncio.gather(clock.sleep(3600), clock.sleep(7200))
        return clock.monotonic()

    assert 7200 <= run_virtual(run()) < 7201


async def test_system_clock__runs_callbacks() -> None:
    clock = SystemClock()
    called = asyncio.Event()
    clock.call_later(0, called.set)
    await asyncio.wait_for(called.wait(), 30)
    await clock.sleep(0)
    assert clock.wall_ms() > 1_600_000_000_000
    assert clock.monotonic() <= clock.monotonic()
