"""What was handed to a write-ahead log and is not decided yet.

Owns: the checks of an append, the order of appends, gathering them into flushes, back-pressure by bytes, and telling
the appenders. Must not: write, or know how a log is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bytemq.errors import BytemqError, Invalid
from bytemq.protocol.records.batch import RecordBatch
from bytemq.runtime.logging import get_logger
from bytemq.storage.log_files import LogFiles
from bytemq.storage.settings import StorageConfig
from bytemq.storage.wal.format import ShareToWrite, shares_to_write

log = get_logger("storage.wal")

OnDurable = Callable[[BytemqError | None], None]


Append = tuple[LogFiles, Sequence[RecordBatch], OnDurable, int]
"""Where, what, whom to tell, how many bytes."""


class Flush(NamedTuple):
    appends: Sequence[Append]
    logs: Sequence[LogFiles]
    """Of each share."""
    shares: Sequence[ShareToWrite]
    size_bytes: int


class Staging:
    def __init__(self, config: StorageConfig) -> None:
        self._config = config
        self._staged: list[Append] = []
        self._drained: list[Callable[[], None]] = []
        self.staged_bytes = 0
        """Not in a flush yet."""
        self.pending_bytes = 0
        """Not decided yet: staged, or in a flush."""

    def __len__(self) -> int:
        return len(self._staged)

    @property
    def overloaded(self) -> bool:
        return self.pending_bytes > self._config.wal_pending_bytes

    def notify_when_drained(self, callback: Callable[[], None]) -> None:
        """Calls back once, when no longer overloaded."""
        self._drained.append(callback)

    def add(self, files: LogFiles, batches: Sequence[RecordBatch], on_durable: OnDurable) -> None:
        """Raises Invalid for batches that are not at the log's next offset, for none, and for a deleted log."""
        expected, size_bytes = files.staged_end, 0
        for batch in batches:
            if batch.base_offset != expected:
                raise Invalid(f"batch placed at offset {batch.base_offset}, the log's next offset is {expected}")
            expected += batch.last_offset_delta + 1
            size_bytes += batch.size_bytes
        if not size_bytes or files.deleted:
            raise Invalid("an append needs batches, and a log that was not deleted")
        files.staged_end = expected
        self._staged.append((files, batches, on_durable, size_bytes))
        self.staged_bytes += size_bytes
        self.pending_bytes += size_bytes

    def gather(self) -> Flush:
        """The oldest staged appends, up to the limit of a flush, by partition. There is at least one.

        What coordinators wrote comes first: whoever takes one over reads this and nothing else of the flush.
        """
        limit = self._config.wal_flush_bytes
        size_bytes = count = 0
        by_log: dict[LogFiles, list[RecordBatch]] = {}
        for files, batches, _, append_bytes in self._staged:
            if count and size_bytes + append_bytes > limit:
                break
            size_bytes += append_bytes
            count += 1
            gathered = by_log.get(files)
            if gathered is None:
                by_log[files] = list(batches)
            else:
                gathered.extend(batches)
        appends = self._staged[:count]
        del self._staged[:count]
        self.staged_bytes -= size_bytes
        logs: list[LogFiles] = []
        shares: list[ShareToWrite] = []
        for files in sorted(by_log, key=_comes_later):
            chunks = shares_to_write(files.partition, by_log[files], self._config.chunk_bytes)
            logs.extend([files] * len(chunks))
            shares.extend(chunks)
        return Flush(appends, logs, shares, size_bytes)

    def take_all(self) -> list[Append]:
        """Everything that is in no flush yet."""
        staged, self._staged, self.staged_bytes = self._staged, [], 0
        return staged

    def fail(self, appends: Sequence[Append], error: BytemqError | None) -> None:
        """Rolls back the offsets of all logs involved to what is committed, then tells the appenders."""
        for files, _, _, _ in appends:
            files.staged_end = files.end_offset
        self.finish(appends, error)

    def finish(self, appends: Sequence[Append], error: BytemqError | None) -> None:
        """Tells the appenders, in order."""
        for _, _, on_durable, size_bytes in appends:
            self.pending_bytes -= size_bytes
            try:
                on_durable(error)
            except Exception as failure:
                # An appender's fault must not stop the log of all the others.
                log.error("an appender's callback failed", error=failure)
        if self._drained and not self.overloaded:
            drained, self._drained = self._drained, []
            for callback in drained:
                callback()


def _comes_later(files: LogFiles) -> bool:
    return not files.is_coordinators
