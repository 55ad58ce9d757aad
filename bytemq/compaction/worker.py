"""The broker's end of a worker process: jobs go in, results come back.

Owns: the process's life. It is started for the first job, ended when it has been idle for a while, started again for
the next job after it died, and killed when the worker is closed. Must not: know a job, or repeat one that failed:
whoever asked decides.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from bytemq.compaction.frames import LENGTH, Created, Done, Failed, Setup, decode, encode
from bytemq.compaction.job import Job
from bytemq.compaction.worker_priority import IDLE, LOWEST, PriorityWatch, Range, niceness_of
from bytemq.errors import Unavailable
from bytemq.runtime import logging
from bytemq.runtime.child_process import ChildProcess
from bytemq.storage.pools.opening import PoolUrls

Result = TypeVar("Result")

IDLE_S = 60.0
"""A topic that is to be in its table within a minute needs a worker every half minute."""
ALLOCATION = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(16 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
"""All memory is glibc's: what Arrow's own allocator reserves counts as used, a fourth of what a worker may use, before
there is a row. Large buffers go back to the system at once, whichever thread had them; memory is limited there. What
zstd allocates for each page of a Parquet file (6 MiB at level 8) is used again: new memory took a tenth of the time.
"""
WORKER_PROCESS = "bytemq.compaction.worker_process"


class Worker:
    """One process, one job at a time, in the order in which they were asked for.

    A node may have several: one for work that takes minutes, in the idle class, another one for what a reader waits
    for.
    """

    def __init__(
        self,
        name: str,
        store_url: str,
        *,
        memory_bytes: int,
        niceness: int = IDLE,
        pools: Callable[[], PoolUrls] = tuple,
        scratch: Path | None = None,
    ) -> None:
        """`store_url`: as for `by_url.open_store`; `memory_bytes`: what a process may allocate; `pools`: those of this
        moment, a process that was told of others is ended before the next job. `scratch`: a folder for its temporary
        files, emptied by each process that starts, for one that was killed leaves them there; None: the system's.
        """
        self.name = name
        self.starts = self.deaths = 0
        """How often a process was started, and how often one ended, or was ended, in the middle of a job."""
        self._store_url = store_url
        self._pools = pools
        self._memory_bytes = memory_bytes
        self._niceness = niceness
        self._scratch = scratch
        self._turn = asyncio.Lock()
        self._process: _Process | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def process_id(self) -> int | None:
        return None if self._process is None else self._process.process_id

    @property
    def is_busy(self) -> bool:
        return self._turn.locked()

    async def run(self, job: Job[Result], created: list[str] | None = None) -> Result:
        """What the job gives. Raises what the job raised, Unavailable if the process died meanwhile.

        `created` gets the name of each object before the job creates it: if this raises, or is cancelled, those are
        garbage. A job that nobody waits for any more is killed.
        """
        async with self._turn:
            process = await self._running()
            try:
                answer = await process.answer(job, [] if created is None else created)
            except BaseException:  # it died, or the caller was cancelled: nothing may go on that nobody knows of
                self.deaths += 1
                await self._end()
                raise
            self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._let_go)
        if isinstance(answer, Failed):
            raise answer.error()
        result: Result = answer.result
        return result

    async def close(self) -> None:
        """Kills the process, whatever it does."""
        self._closed = True
        await self._end()

    async def _running(self) -> _Process:
        if self._closed:
            raise Unavailable(f"the worker {self.name} is closed")
        if self._idle is not None:
            self._idle.cancel()
        pools = tuple(self._pools())
        if self._process is not None and (self._process.pools != pools or self._process.has_ended):
            await self._end()
        if self._process is None:
            self.starts += 1
            setup = Setup(
                self._store_url,
                pools,
                self._memory_bytes,
                logging.levels(),
                logging.current_format(),
                self._made_scratch(),
            )
            child = await ChildProcess.start(WORKER_PROCESS, ALLOCATION, niceness=min(self._niceness, LOWEST))
            allowed = Range.below(niceness_of(os.getpid()), self._niceness)
            watch = PriorityWatch.over(child.process_id, allowed)
            self._process = _Process(child, setup, watch)
        return self._process

    def _made_scratch(self) -> str:
        """As a process is told of it, which empties it. Raises Unavailable."""
        if self._scratch is None:
            return ""
        try:
            self._scratch.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"{self._scratch} cannot be made: {error.strerror}") from error
        return str(self._scratch.absolute())

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.kill()

    def _let_go(self) -> None:
        """It has been idle for a while; its memory is of use to others."""
        process, self._process = self._process, None
        if process is not None:
            process.hang_up()


class _Process:
    """A process that was started, and was told how to work."""

    def __init__(self, child: ChildProcess, setup: Setup, watch: PriorityWatch) -> None:
        self._child = child
        self._watching = asyncio.ensure_future(watch.run())
        self.pools = setup.pools
        child.writer.write(encode(setup))

    @property
    def process_id(self) -> int:
        return self._child.process_id

    @property
    def has_ended(self) -> bool:
        return self._child.has_ended

    async def answer(self, job: Job[Any], created: list[str]) -> Done | Failed:
        """Raises Unavailable if the process ends before it answers."""
        reader = self._child.reader
        self._child.writer.write(encode(job))
        try:
            while True:
                (size_bytes,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                message: Created | Done | Failed = decode(await reader.readexactly(size_bytes))
                if not isinstance(message, Created):
                    return message
                created.append(message.name)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Unavailable(f"the worker process died while it did {type(job).__name__}") from error

    async def kill(self) -> None:
        self._watching.cancel()
        await self._child.kill()

    def hang_up(self) -> None:
        """It ends by itself then."""
        self._watching.cancel()
        self._child.writer.close()
