"""Writing behind while appends go on: one pass at a time, begun when there is enough to write.

Owns: the task, the lock that keeps passes apart, and the stop. Must not: know what a pass writes, or when it is due.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from bytemq.errors import BytemqError
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import LogGate, get_logger
from bytemq.runtime.tasks import Supervisor

log = get_logger("storage.write_behind")


class BackgroundPasses(ABC):
    def __init__(self, supervisor: Supervisor, clock: Clock) -> None:
        self._supervisor = supervisor
        self._said = LogGate(clock.monotonic)
        self._lock = asyncio.Lock()
        """Held by whoever writes."""
        self._stopping = False
        self._task: asyncio.Task[object] | None = None

    @abstractmethod
    def _is_due(self) -> bool:
        """Whether the write-ahead log has grown too much."""

    @abstractmethod
    async def _run_due(self) -> None:
        """One pass, under the lock. Raises BytemqError; it is tried again when it is due the next time."""

    def consider(self) -> None:
        """Starts writing behind in the background if the write-ahead log has grown too much."""
        if self._task is None and not self._stopping and self._is_due():
            self._task = self._supervisor.start("write-behind", self._in_background())

    async def _in_background(self) -> None:
        try:
            await self._run_due()
        except BytemqError as error:
            kept_back = None if self._stopping else self._said.allow(type(error))
            if kept_back is not None:
                log.error("write-behind failed, it will be tried again", reason=str(error), not_logged_since=kept_back)
        finally:
            self._task = None

    async def stop(self) -> None:
        """Ends what runs, soon: what is written is published, what is not is left to whoever owns the logs next."""
        self._stopping = True
        async with self._lock:
            pass
        if self._task is not None:
            await asyncio.wait([self._task])
