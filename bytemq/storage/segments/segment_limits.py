"""Where a log is cut into segments: by segment.bytes and segment.ms. Pure.

Owns: the one rule for what is written behind and for how that will be cut. Must not: hold files, or write.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bytemq.storage.manifests.manifest import SegmentInfo
from bytemq.storage.wal.extents import Chunk, ExtentTable


class SegmentLimits(NamedTuple):
    most_bytes: int
    most_ms: int
    """Of record time, as in Kafka; 0: no limit."""

    def rolls(self, current: SegmentInfo, chunk: Chunk) -> bool:
        """Whether `chunk` goes into another segment than the one so far."""
        if current.size_bytes + chunk.size_bytes > self.most_bytes:
            return True
        return self._is_too_old_for(current, chunk.max_timestamp)

    def _is_too_old_for(self, current: SegmentInfo, timestamp_ms: int) -> bool:
        return bool(self.most_ms) and timestamp_ms - current.created_ms > self.most_ms

    def cut(self, table: ExtentTable, current: SegmentInfo | None) -> Iterator[SegmentInfo]:
        """The segments that the chunks of `table` become, the first of which continues `current`, the open one."""
        if len(table):
            first, newest_ms = current or begun_with(table.chunk(0), 0), max(table.max_timestamps)
            size_bytes = first.size_bytes + table.size_bytes
            if size_bytes <= self.most_bytes and not self._is_too_old_for(first, newest_ms):
                # All goes into one, which is asked for too often to look at a hundred thousand chunks each time.
                yield first._replace(
                    last_offset=table.end_offset - 1,
                    size_bytes=size_bytes,
                    max_timestamp=max(first.max_timestamp, newest_ms),
                )
                return
        for number in range(len(table)):
            chunk = table.chunk(number)
            if current is not None and self.rolls(current, chunk):
                yield current
                current = None
            if current is None:
                current = begun_with(chunk, 0)
            current = current._replace(
                last_offset=chunk.next_offset - 1,
                size_bytes=current.size_bytes + chunk.size_bytes,
                max_timestamp=max(current.max_timestamp, chunk.max_timestamp),
            )
        if current is not None:
            yield current


def begun_with(first: Chunk, now_ms: int, name: str = "") -> SegmentInfo:
    """An empty segment that `first` will begin: as old as its records, or as `now_ms` where they have no timestamps."""
    created_ms = first.max_timestamp if first.max_timestamp >= 0 else now_ms
    return SegmentInfo(first.base_offset, first.base_offset - 1, 0, -1, created_ms, name)
