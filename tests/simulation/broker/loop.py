"""An event loop in virtual time whose processes can die between any two steps.

Nothing sleeps: when nothing is ready, time jumps to what is due next. Everything that runs belongs to a `Process`, or
to nobody (the world and its clients), by the context that asyncio hands from task to task and from callback to
callback. A process that was killed takes no step any more: neither its tasks nor its timers, no `finally`, nothing; so
a crash falls on every await in turn, as the seed has it. One that is paused takes its steps later, in the same order;
it has no notion of the time between.
"""

from __future__ import annotations

import asyncio
import gc
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from functools import partial
from heapq import heappop, heappush
from operator import itemgetter
from typing import Any

from tests.support.virtual_time import START_WALL_MS


class Process:
    """What dies at once, or stands still."""

    __slots__ = ("_context", "alive", "held", "name", "pauses", "steps_left")

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.steps_left: int | None = None
        """Steps until it dies by itself, or is paused if `pauses`; None: it does not."""
        self.pauses = False
        self.held: list[_Step] | None = None
        """What it would have done since it was paused."""
        self._context = copy_context()
        self._context.run(_PROCESS.set, self)

    def run(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Calls the function as a step of this process: now, or when it goes on."""
        if self.held is not None:
            self.held.append(_Step(function, arguments, self._context.copy(), 0.0))
        else:
            self._context.copy().run(function, *arguments)

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(work, context=self._context.copy())

    @property
    def is_paused(self) -> bool:
        return self.held is not None

    def pause(self) -> None:
        self.held = []

    def hold(self, step: _Step) -> None:
        """For the loop, while it is paused."""
        assert self.held is not None
        self.held.append(step)

    def go_on(self) -> list[_Step]:
        """What it has to do now."""
        held, self.held = self.held or [], None
        return held


_PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)
NOBODY: Context = copy_context()
"""For what outlives a process: answers on the wire."""


class NothingLeft(Exception):
    """Everybody waits for somebody else."""


class _Step:
    """What asyncio calls a handle, without what only debugging and sockets need."""

    __slots__ = ("_due", "arguments", "call", "context", "is_cancelled")

    def __init__(self, call: Callable[..., Any], arguments: tuple[Any, ...], context: Context, due: float) -> None:
        self.call = call
        self.arguments = arguments
        self.context = context
        self._due = due
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled

    def when(self) -> float:
        return self._due


class SimulationLoop(asyncio.BaseEventLoop):
    """`died` and `paused` are called with a process whose steps are used up."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._next: deque[_Step] = deque()
        self._timers: list[tuple[float, int, _Step]] = []
        self._timer_count = 0
        self.steps = 0
        self.died: Callable[[Process], None] = lambda process: None
        self.paused: Callable[[Process], None] = lambda process: None
        self._buried: list[_Step] = []
        """What dead processes would have done. Kept, for what is thrown away has a last word: it runs its `finally`."""
        self.create_future = partial(asyncio.Future, loop=self)  # type: ignore[method-assign]
        self.get_debug = bool  # type: ignore[method-assign]  # False, and each future asks for it

    def create_task(self, coro: Any, *, name: Any = None, context: Context | None = None) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override]
        step = _Step(callback, args, copy_context() if context is None else context, self._now)
        self._next.append(step)
        return step

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override]
        step = _Step(callback, args, copy_context() if context is None else context, self._now + delay)
        self._timer_count += 1
        heappush(self._timers, (self._now + delay, self._timer_count, step))
        return step

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override]
        step = _Step(callback, args, copy_context() if context is None else context, when)
        self._timer_count += 1
        heappush(self._timers, (when, self._timer_count, step))
        return step

    def _run_once(self) -> None:
        """What asyncio calls between two looks at whether to stop."""
        ready, timers = self._next, self._timers
        while not self._stopping:  # type: ignore[attr-defined]
            if not ready:
                while timers and timers[0][2].is_cancelled:
                    heappop(timers)
                if not timers:
                    raise NothingLeft
                self._now = max(self._now, timers[0][0])
            while timers and timers[0][0] <= self._now:
                ready.append(heappop(timers)[2])
            for _ in range(len(ready)):
                step = ready.popleft()
                if step.is_cancelled:
                    continue
                context = step.context
                process = context.get(_PROCESS)
                if (
                    process is not None
                    and (process.steps_left is not None or process.held is not None or not process.alive)
                    and not self._may_take(process, step)  # of others, whose most steps are, nobody need ask
                ):
                    continue
                self.steps += 1
                try:
                    context.run(step.call, *step.arguments)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    self.call_exception_handler({"message": "a callback failed", "exception": error})

    def _may_take(self, process: Process, step: _Step) -> bool:
        """Else the step was put where it belongs."""
        if not process.alive:
            self._buried.append(step)
            return False
        if process.is_paused:
            process.hold(step)
            return False
        if process.steps_left is not None:
            process.steps_left -= 1
            if process.steps_left < 0:
                self._used_up(process, step)
                return False
        return True

    def _used_up(self, process: Process, step: _Step) -> None:
        process.steps_left = None
        if process.pauses:
            process.pause()
            process.hold(step)
            self.paused(process)
        else:
            self._buried.append(step)
            self.died(process)

    def go_on(self, process: Process) -> None:
        """A paused process does what it would have done."""
        self._next.extend(process.go_on())

    def _write_to_self(self) -> None:
        """Nothing sleeps in a selector."""

    def _process_events(self, event_list: Any) -> None:
        """There are no sockets."""


class SimulationClock:
    """The Clock of code on such a loop."""

    def __init__(self, loop: SimulationLoop) -> None:
        self.monotonic = loop.time
        self.call_later = loop.call_later
        self._loop = loop

    def wall_ms(self) -> int:
        return START_WALL_MS + int(self._loop.time() * 1000)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


_FIRST = itemgetter(0)
_LEFT_BEHIND: list[SimulationLoop] = []
"""By a process that collects no garbage."""


def run_simulated(main: Callable[[SimulationLoop], Coroutine[Any, Any, Any]]) -> Any:
    """Runs `main` in a loop of its own. What still waits at the end, of dead processes too, is thrown away unheard; or
    goes with this process, if that is one that collects no garbage.
    """
    loop = SimulationLoop()
    collects = gc.isenabled()
    gc.disable()
    try:
        with _no_other_loop_than(loop):
            return loop.run_until_complete(main(loop))
    finally:
        if collects:
            gc.enable()
            _throw_everything_away(loop)
        else:
            _LEFT_BEHIND.append(loop)


@contextmanager
def _no_other_loop_than(loop: SimulationLoop) -> Iterator[None]:
    """Nobody need ask the kernel for that: Python 3.11 looks each time whether the process has forked."""
    before = events.get_running_loop
    asyncio.get_running_loop = events.get_running_loop = partial(_FIRST, (loop,))
    try:
        yield
    finally:
        asyncio.get_running_loop = events.get_running_loop = before


def _throw_everything_away(loop: SimulationLoop) -> None:
    loop.set_exception_handler(lambda *_: None)
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        _throw_away(task.get_coro())
    loop.close()


def _throw_away(coroutine: Any) -> None:
    try:
        coroutine.close()
    except (RuntimeError, ValueError):
        return  # it would wait once more, or is under way
