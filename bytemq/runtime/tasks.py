"""Supervised background tasks: one that crashes is logged, counted and restarted, or brings the node down; never lost.

Owns the life of tasks, not what they do. Every task that nobody awaits is started here, under a name; one that answers
a request (a handler, a partition being opened) belongs to whoever started it and answers for its failure.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from bytemq.errors import BytemqError
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger

log = get_logger("runtime.tasks")

FIRST_RESTART_DELAY_S = 0.1
MAX_RESTART_DELAY_S = 10.0


class Supervisor:
    """Starts tasks and answers for them until `close`.

    `on_fatal(name, error)` is called when a task that the node cannot live without has crashed.
    """

    def __init__(self, clock: Clock, on_fatal: Callable[[str, BaseException], None]) -> None:
        self._clock = clock
        self._on_fatal = on_fatal
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self.crashes: dict[str, int] = {}

    def start(self, name: str, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Runs `work` once. A crash is logged and counted, and stays visible to whoever awaits the task."""
        return self._spawn(name, self._once(name, work), work)

    def keep_running(self, name: str, work: Callable[[], Awaitable[object]]) -> asyncio.Task[Any]:
        """Runs `work()` again after each crash, at growing intervals; ends when `work()` returns."""
        return self._spawn(name, self._restarting(name, work))

    def start_essential(self, name: str, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Runs `work`; a crash of it is the node's end."""
        return self._spawn(name, self._essential(name, work), work)

    async def close(self, timeout_s: float = 2.0) -> None:
        """Cancels what still runs and waits for it. Tasks that ignore their cancellation are named in the log."""
        self._closed = True
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if not tasks:
            return
        _, stuck = await asyncio.wait(tasks, timeout=timeout_s)
        for task in stuck:
            log.error("task does not stop", task=task.get_name())

    def _spawn(
        self, name: str, watched: Coroutine[Any, Any, object], work: Coroutine[Any, Any, object] | None = None
    ) -> asyncio.Task[Any]:
        """Runs `watched`, which awaits `work`."""

        def finished(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            if work is not None:
                work.close()  # of a task that was cancelled before its first step it never ran
            retrieved(task)  # it has been logged where it happened: asyncio need not repeat it

        if self._closed:
            watched.close()
            if work is not None:
                work.close()
            raise RuntimeError(f"task {name} started after the supervisor was closed")
        task = asyncio.get_running_loop().create_task(watched, name=name)
        self._tasks.add(task)
        task.add_done_callback(finished)
        return task

    async def _once(self, name: str, work: Coroutine[Any, Any, object]) -> object:
        try:
            return await work
        except Exception as error:
            self._crashed(name, error)
            raise

    async def _essential(self, name: str, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except Exception as error:
            self._crashed(name, error)
            self._on_fatal(name, error)

    async def _restarting(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        delay_s = FIRST_RESTART_DELAY_S
        while True:
            started = self._clock.monotonic()
            try:
                await work()
                return
            except Exception as error:
                self._crashed(name, error)
            if self._clock.monotonic() - started > MAX_RESTART_DELAY_S:
                delay_s = FIRST_RESTART_DELAY_S
            await self._clock.sleep(delay_s)
            delay_s = min(delay_s * 2, MAX_RESTART_DELAY_S)

    def _crashed(self, name: str, error: Exception) -> None:
        """What is expected, if not wished for, has a sentence; anything else is told with where it happened."""
        self.crashes[name] = self.crashes.get(name, 0) + 1
        if isinstance(error, BytemqError):
            log.error("background task ended", task=name, reason=str(error), crashes=self.crashes[name])
            return
        log.error("background task crashed", task=name, error=error, crashes=self.crashes[name])


def retrieved(future: asyncio.Future[Any]) -> None:
    """For `add_done_callback`: perhaps nobody waits for it any more, and asyncio need not tell of its failure."""
    if not future.cancelled():
        future.exception()
