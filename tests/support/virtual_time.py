"""Virtual time for tests: nothing sleeps, time jumps to the next thing that is due.

`VirtualClock` is a Clock moved by hand, for logic that is driven by calls. `run_virtual(coroutine)` runs asyncio code
on a loop whose time jumps whenever nothing is ready; real sockets work under it too, as long as nothing waits for them
alone. `LoopClock` is the Clock of code under it.
"""

import asyncio
import heapq
import itertools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

START_WALL_MS = 1_700_000_000_000


class _Timer:
    __slots__ = ("callback", "due")

    def __init__(self, due: float, callback: Callable[[], object]) -> None:
        self.due = due
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualClock:
    """Stands still until `advance`. Callbacks run inside `advance` by time; sleepers on the loop's next turn."""

    def __init__(self, wall_ms: int = START_WALL_MS) -> None:
        self._start_wall_ms = wall_ms
        self._now = 0.0
        self._timers: list[tuple[float, int, _Timer]] = []
        self._sequence = itertools.count()

    def wall_ms(self) -> int:
        return self._start_wall_ms + int(self._now * 1000)

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        self.call_later(seconds, lambda: woken.done() or woken.set_result(None))
        await woken

    def call_later(self, seconds: float, callback: Callable[[], object]) -> _Timer:
        timer = _Timer(self._now + max(0.0, seconds), callback)
        heapq.heappush(self._timers, (timer.due, next(self._sequence), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Moves time on and runs what becomes due, timers set meanwhile included."""
        end = self._now + seconds
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, due)
            if timer.callback is not None:
                timer.callback()
        self._now = end

    @property
    def pending(self) -> int:
        """Timers that wait and were not cancelled."""
        return sum(1 for _, _, timer in self._timers if timer.callback is not None)


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits for a time-out: looks whether a socket is ready, else lets the time jump."""

    loop: "VirtualTimeLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            return super().select(None)  # only a socket or a thread can wake the loop
        # A thread or a socket may be about to answer: real milliseconds first, the jump after.
        ready = super().select(0.001) if len(self.get_map()) > 1 else []
        if not ready:
            self.loop.jump(timeout)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual_now = 0.0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self._virtual_now

    def jump(self, seconds: float) -> None:
        # The clock's resolution is added as asyncio does: a timer due exactly now must run.
        self._virtual_now += seconds


class LoopClock:
    """A Clock on the running loop's time, for code under `run_virtual`."""

    def wall_ms(self) -> int:
        return START_WALL_MS + int(asyncio.get_running_loop().time() * 1000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, callback)


def run_virtual(main: Coroutine[Any, Any, Any]) -> Any:
    """Runs `main` under virtual time and returns its result."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
