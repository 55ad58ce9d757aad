"""An event loop in virtual time whose processes can die between any two steps.

Nothing sleeps: when nothing is ready, time jumps to what is due next. Everything that runs belongs to a `Process`, or
to nobody (the world and its clients), by the context that asyncio hands from task to task and from callback to
callback. A process that was killed takes no step any more: neither its tasks nor its timers, no `finally`, nothing; so
a crash falls on every await in turn, as the seed has it.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any


class Process:
    """What dies at once."""

    __slots__ = ("_context", "alive", "name", "steps_left")

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.steps_left: int | None = None
        """Steps until it dies by itself; None: it does not."""
        self._context = copy_context()
        self._context.run(_PROCESS.set, self)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls the function as a step of this process."""
        return self._context.copy().run(function, *arguments)

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(work, context=self._context.copy())


_PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)
NOBODY: Context = copy_context()
"""For what outlives a process: answers on the wire."""


class NothingLeft(Exception):
    """Everybody waits for somebody else."""


class SimulationLoop(asyncio.BaseEventLoop):
    """`died` is called with a process whose steps are used up."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._now = 0.0
        self.steps = 0
        self.died: Callable[[Process], None] = lambda process: None
        self._buried: list[Any] = []
        """What dead processes would have done. Kept, for what is thrown away has a last word: it runs its `finally`."""

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        if not ready:
            while scheduled and scheduled[0]._cancelled:
                heapq.heappop(scheduled)._scheduled = False
            if not scheduled:
                raise NothingLeft
            self._now = max(self._now, scheduled[0]._when)
        while scheduled and scheduled[0]._when <= self._now:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            ready.append(handle)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                self._step(handle)

    def _step(self, handle: Any) -> None:
        process = handle._context.get(_PROCESS)
        if process is not None:
            if not process.alive:
                self._buried.append(handle)
                return
            if process.steps_left is not None:
                process.steps_left -= 1
                if process.steps_left < 0:
                    self._buried.append(handle)
                    self.died(process)
                    return
        self.steps += 1
        handle._run()

    def _write_to_self(self) -> None:
        """Nothing sleeps in a selector."""

    def _process_events(self, event_list: Any) -> None:
        """There are no sockets."""


def run_simulated(main: Callable[[SimulationLoop], Coroutine[Any, Any, Any]]) -> Any:
    """Runs `main` in a loop of its own. What still waits at the end, of dead processes too, is thrown away unheard."""
    loop = SimulationLoop()
    collects = gc.isenabled()
    gc.disable()
    try:
        return loop.run_until_complete(main(loop))
    finally:
        if collects:
            gc.enable()
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
