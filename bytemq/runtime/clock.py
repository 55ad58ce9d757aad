"""Time as a constructor argument.

Owns the one place where the program reads a clock. Logic takes a `Clock` and never calls `time` itself, so that it runs
under virtual time in tests (tests/support/virtual_time.py).
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class TimerHandle(Protocol):
    """A callback that has not run yet."""

    def cancel(self) -> None:
        """Forgets the callback; harmless when it has run."""


class Clock(Protocol):
    """Wall clock for what users see (record timestamps), monotonic clock for durations."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970, UTC. May jump."""

    def monotonic(self) -> float:
        """Seconds since some moment. Never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Waits that long."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> TimerHandle:
        """Runs `callback` on the event loop after that time; an exception in it goes to the loop's handler."""


class SystemClock:
    """The machine's clocks and the running event loop's timers."""

    __slots__ = ()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    monotonic = staticmethod(time.monotonic)  # asked several times for each request: no frame of ours in between

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, callback)
