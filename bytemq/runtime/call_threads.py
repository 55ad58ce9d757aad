"""Threads that sit in system calls for the event loop.

Owns a queue, some threads and how an outcome comes back. Must not: be given calls that run Python for long.

What `run_in_executor` does, without what it does beyond that: no future of another kind with a lock of its own, no
chain of callbacks between the two. A flush of the write-ahead log goes through here, a thousand times a second.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")

_Job = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[], None] | None]


class CallThreads:
    """Up to `count` threads, started when they are needed."""

    __slots__ = ("_closed", "_count", "_idle", "_jobs", "_name", "_threads")

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        """Threads that wait for a job, less the jobs that wait for them. Changed on the loop only."""
        self._closed = False

    async def run(self, call: Callable[[], Result], over: Callable[[], None] | None = None) -> Result:
        """Calls in a thread; returns and raises what the call does. Cancelled, it is called all the same: `over` is
        called on the loop when nothing of it is to come any more, before this returns if that waits.
        """
        if self._closed:
            if over is not None:
                over()
            raise RuntimeError(f"the threads {self._name} have ended")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        if not self._idle and len(self._threads) < self._count:
            number = len(self._threads)
            thread = threading.Thread(target=self._work, name=f"{self._name}_{number}", daemon=True)
            self._threads.append(thread)
            thread.start()
            self._idle += 1
        self._idle -= 1
        self._jobs.put((call, loop, future, over))
        return await future

    def close(self) -> None:
        """Returns when all that was asked for is done. Blocks: not to be called on the loop."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            call, loop, future, over = job
            result: Any = None
            failure: BaseException | None = None
            try:
                result = call()
            except BaseException as error:
                failure = error
            with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
                loop.call_soon_threadsafe(self._done, future, over, result, failure)
            del job, call, loop, future, over, result, failure  # what was written belongs to somebody else again

    def _done(
        self,
        future: asyncio.Future[Any],
        over: Callable[[], None] | None,
        result: Any,
        failure: BaseException | None,
    ) -> None:
        self._idle += 1
        if over is not None:
            over()
        if future.done():
            return  # cancelled
        if failure is None:
            future.set_result(result)
        else:
            future.set_exception(failure)
