"""A log storage that does whatever its contract allows: takes its time, fails, and at a crash keeps more than it said.

Appends of one moment share a flush; one flush is under way at a time. When a flush fails, a prefix of it may still be
durable; everything after that fails, in order. At a crash a prefix of what was in flight turns out to be durable
although nobody was told.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from random import Random

from bytemq.errors import BytemqError, Full, Unavailable
from bytemq.protocol.records.batch import RecordBatch
from bytemq.types import PartitionId
from tests.simulation.transcript import Transcript
from tests.support.fake_log_storage import Disk, FakeLogFiles, FakeLogStorage, OnDurable, fail_together


class FailingLogStorage(FakeLogStorage):
    """One session. `sickness` is the chance of a flush, or any other wait, to fail; 0 heals it."""

    def __init__(self, disk: Disk, random: Random, history: Transcript, sickness: float) -> None:
        super().__init__(disk)
        self.sickness = sickness
        self.crashed = False
        self._random = random
        self._history = history
        self._flush_due: asyncio.TimerHandle | None = None
        self._flush_size = 0

    def append(self, log: FakeLogFiles, batches: Sequence[RecordBatch], on_durable: OnDurable) -> None:
        super().append(log, batches, on_durable)
        if self._flush_due is None and not self.crashed:
            self._start_flush()

    async def open_log(self, pid: PartitionId, leader_epoch: int, *, least_end_offset: int = -1) -> FakeLogFiles:
        files = await super().open_log(pid, leader_epoch, least_end_offset=least_end_offset)
        files.cached = self._random.random() < 0.7  # else every read waits
        return files

    async def wait(self) -> None:
        await asyncio.sleep(self._random.choice((0, 0, 0.001, 0.02)))
        if self._random.random() < self.sickness:
            raise Unavailable("storage did not answer")

    def crash(self) -> None:
        """The process dies now. Some of what was in flight is durable; nobody will ever be told."""
        self.crashed = True
        if self._flush_due is not None:
            self._flush_due.cancel()
        kept = self._random.randint(0, len(self.in_flight))
        for _ in range(kept):
            self.persist(self.in_flight.popleft())
        self._history.note(f"storage: {kept} unanswered appends are durable, {len(self.in_flight)} are lost")
        self.in_flight.clear()

    def _start_flush(self) -> None:
        delay_s = self._random.choice((0.0, 0.001, 0.005, 0.03))
        self._flush_due = asyncio.get_running_loop().call_later(delay_s, self._flushed)
        self._flush_size = len(self.in_flight) if self._random.random() < 0.7 else 1

    def _flushed(self) -> None:
        """The flush is over. More may have come meanwhile: they are in the next one, or fail with this one."""
        size = min(max(1, self._flush_size), len(self.in_flight))
        failing = self._random.random() < self.sickness
        durable = self._random.randint(0, size - 1) if failing else size
        self._history.note(
            f"storage: {durable} of {len(self.in_flight)} appends are durable{', flush failed' * failing}"
        )
        settled = [self.in_flight.popleft() for _ in range(durable)]
        failed, self.in_flight = (self.in_flight, deque()) if failing else (deque(), self.in_flight)
        for flight in settled:
            self.persist(flight)
        for flight in settled:
            flight.on_durable(None)
        error: BytemqError = Full("no space") if self._random.random() < 0.3 else Unavailable("write failed")
        fail_together(failed, error)
        self._flush_due = None
        if self.in_flight and not self.crashed:
            self._start_flush()
