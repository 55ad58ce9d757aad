"""Looking into record batches: in threads, because it keeps a processor busy, and within a budget of memory.

Owns: how much memory may be in use for that at the same time, whatever clients send or ask for. What a batch
decompresses to is not known beforehand: it gets some room, and if that was too little it gives it back and asks for
four times as much. So nobody who holds room waits for more. Must not: know what is looked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Final, TypeVar

from bytemq.errors import BytemqError
from bytemq.protocol.error_codes import KafkaError
from bytemq.protocol.records.batch import RecordBatch
from bytemq.protocol.records.compression import MOST_DECOMPRESSED_BYTES, DecompressedTooLarge, first_room_bytes
from bytemq.runtime.budget import MemoryBudget, Waiter

Result = TypeVar("Result")
Work = Callable[[int], Result]
"""What is to be done in a thread, with room for so many bytes of decompressed records; raises DecompressedTooLarge."""

Outcome = Any
"""What the work gave, or the exception that it raised."""

DEFAULT_MEMORY_BYTES: Final = 256 * 1024 * 1024
_GROWTH: Final = 4


class BatchOpener:
    """All that a broker decompresses for its clients goes through one of these."""

    __slots__ = ("_executor", "memory")

    def __init__(self, executor: Executor, memory: MemoryBudget) -> None:
        self._executor = executor
        self.memory = memory

    def start(
        self, batch: RecordBatch, work: Work[Any], done: Callable[[Outcome, int], None], *, copies: int = 1
    ) -> Attempt:
        """`done` gets the outcome and how many bytes of `memory` are reserved for it: the caller's to release.

        `copies` is how many times the memory of the records the work takes at most. The batch's bytes must stay.
        """
        return Attempt(self, self._executor, batch, work, done, copies)

    async def run(self, batch: RecordBatch, work: Work[Result]) -> Result:
        """The result of `work`, of which nothing decompressed may be part; raises what it raises."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome, reserved_bytes: int) -> None:
            self.memory.release(reserved_bytes)
            if future.cancelled():
                return
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        attempt = self.start(batch, work, done)
        try:
            return await future
        finally:
            attempt.give_up()


class Attempt:
    """One batch that is being opened, as often as it takes."""

    __slots__ = ("_copies", "_done", "_executor", "_memory", "_most_bytes", "_room_bytes", "_waiter", "_work")

    def __init__(
        self,
        opener: BatchOpener,
        executor: Executor,
        batch: RecordBatch,
        work: Work[Any],
        done: Callable[[Outcome, int], None],
        copies: int,
    ) -> None:
        self._executor = executor
        self._memory = opener.memory
        self._work = work
        self._done = done
        self._copies = copies
        self._waiter: Waiter | None = None
        self._most_bytes = min(MOST_DECOMPRESSED_BYTES, self._memory.limit_bytes // copies)
        self._room_bytes = first_room_bytes(batch.compression, len(batch.records), self._most_bytes)
        self._begin()

    def give_up(self) -> None:
        """Harmless at any time. What runs already is finished, and `done` is told."""
        if self._waiter is not None:
            self._waiter.cancel()

    @property
    def _reserved_bytes(self) -> int:
        return self._copies * self._room_bytes

    def _begin(self) -> None:
        if self._memory.try_reserve(self._reserved_bytes):
            self._run()
        else:
            self._waiter = self._memory.wait(self._reserved_bytes, self._run)

    def _run(self) -> None:
        self._waiter = None
        try:
            running = asyncio.get_running_loop().run_in_executor(
                self._executor, outcome_of, self._work, self._room_bytes
            )
        except RuntimeError as error:  # the executor is gone
            self._done(error, self._reserved_bytes)
        else:
            running.add_done_callback(self._ran)

    def _ran(self, running: asyncio.Future[Outcome]) -> None:
        failed = asyncio.CancelledError() if running.cancelled() else running.exception()
        outcome = running.result() if failed is None else failed
        if isinstance(outcome, DecompressedTooLarge) and self._room_bytes < self._most_bytes:
            self._memory.release(self._reserved_bytes)
            self._room_bytes = min(_GROWTH * self._room_bytes, self._most_bytes)
            self._begin()
        else:
            self._done(outcome, self._reserved_bytes)


def outcome_of(work: Work[Any], room_bytes: int) -> Outcome:
    """What the work gives, or the error that it raised, without its past.

    What was raised refers to the frames that it passed, and they to all that was decompressed; kept until the
    collector comes by, a few refused batches would fill the memory.
    """
    try:
        return work(room_bytes)
    except (KafkaError, BytemqError) as error:
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return error
