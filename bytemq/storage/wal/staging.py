"""What was handed to a write-ahead log and is not decided yet.

Owns: the checks of an append, the order of appends, gathering them into flushes, and telling the appenders. Must not:
write, know how a log is written, or bound what is pending: whoever hands it over has a budget for the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from bytemq.errors import BytemqError, Invalid
from bytemq.protocol.records import rows
from bytemq.protocol.records.batch import RecordBatch
from bytemq.runtime.logging import get_logger
from bytemq.storage.log_files import LogFiles
from bytemq.storage.settings import StorageConfig
from bytemq.storage.wal.format import ShareToWrite, shares_to_write

log = get_logger("storage.wal")

OnDurable = Callable[[BytemqError | None], None]


Append = tuple[LogFiles, Sequence[RecordBatch], OnDurable]
"""Where, what, whom to tell."""
Staged = tuple[LogFiles, Sequence[RecordBatch], OnDurable, int]
"""The same, and how many bytes."""


class Flush(NamedTuple):
    appends: Sequence[Staged]
    logs: Sequence[LogFiles]
    """Of each share."""
    shares: Sequence[ShareToWrite]
    size_bytes: int


class Staging:
    def __init__(self, config: StorageConfig) -> None:
        self._config = config
        self._staged: list[Staged] = []
        self.staged_bytes = 0
        """Not in a flush yet."""
        self.pending_bytes = 0
        """Not decided yet: staged, or in a flush."""

    def __len__(self) -> int:
        return len(self._staged)

    def add(self, appends: Iterable[Append]) -> None:
        """Raises Invalid for batches that are not at the log's next offset, for none, and for a deleted log; those
        before it are staged.
        """
        for files, batches, on_durable in appends:
            base_offset, next_offset, size_bytes = rows.extent(batches)
            if not size_bytes or files.deleted:
                raise Invalid("an append needs batches, and a log that was not deleted")
            if base_offset != files.staged_end or next_offset < 0:
                expected = files.staged_end
                raise Invalid(f"batches placed at offset {base_offset} and on, the log's next offset is {expected}")
            files.staged_end = next_offset
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

    def take_all(self) -> list[Staged]:
        """Everything that is in no flush yet."""
        staged, self._staged, self.staged_bytes = self._staged, [], 0
        return staged

    def fail(self, appends: Sequence[Staged], error: BytemqError) -> None:
        """Takes everything of all logs involved back to what is committed, and tells their owners; then tells the
        appenders: whoever is told first may append at once, to any log.
        """
        for files in {append[0]: None for append in appends}:
            files.staged_end = files.end_offset
            if files.taken_back is not None:
                files.taken_back(error)
        self.finish(appends, error)

    def finish(self, appends: Sequence[Staged], error: BytemqError | None) -> None:
        """Tells the appenders, in order."""
        for _, _, on_durable, size_bytes in appends:
            self.pending_bytes -= size_bytes
            try:
                on_durable(error)
            except Exception as failure:
                # An appender's fault must not stop the log of all the others.
                log.error("an appender's callback failed", error=failure)


def _comes_later(files: LogFiles) -> bool:
    return not files.is_coordinators
