"""What was just committed, in memory for those who read at the end of its log: once for all of them.

Owns: which chunks are kept, within a byte limit, oldest first out; and reading them. Must not: decide what is part of
the log, or serve part of a chunk (`log_files` does both, the latter from the file).

A log that nobody reads at its end costs nothing: each read there asks for the chunks that are committed next. Batches
stay where they were received. An answer that its client does not take holds on to what it shows, and only counts that;
so a batch that is a small part of the buffer it was received in is copied, lest all of the buffer stays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from bytemq.protocol.records.batch import RecordBatch
from bytemq.storage.reading import Read, as_read
from bytemq.storage.wal.extents import Chunk

WANTED_CHUNKS = 64
"""Kept for a log after each read at its end: longer than a reader takes to come again."""
MAX_BUFFER_PARTS = 3
"""A batch stays where it was received unless that is more than so many times its size."""
MAX_PIECES = 256
"""Most buffers of one read: what is beyond comes with the next one."""
OVERHEAD_BYTES = 256
"""What a kept chunk takes beside its bytes."""


class Kept(NamedTuple):
    next_offset: int
    view: memoryview


class RecentEnd:
    """The kept chunks of one log, by base offset."""

    __slots__ = ("chunks", "wanted")

    def __init__(self) -> None:
        self.chunks: dict[int, Kept] = {}
        self.wanted = WANTED_CHUNKS
        """So many more chunks are worth keeping."""

    def read(self, offset: int, max_bytes: int, end_offset: int) -> Read | None:
        """Whole chunks from the one that begins at `offset`, as far as they are here; None if not even that one is, or
        not all of it is asked for.
        """
        chunks = self.chunks
        kept = chunks.get(offset)
        views: list[memoryview | bytes] = []
        size_bytes, next_offset = 0, offset
        while kept is not None and kept.next_offset <= end_offset and len(views) < MAX_PIECES:
            behind, view = kept
            size_bytes += len(view)
            if size_bytes > max_bytes:
                size_bytes -= len(view)
                break
            views.append(view)
            next_offset = behind
            kept = chunks.get(behind)
        if not views:
            return None
        self.wanted = WANTED_CHUNKS
        return as_read((views, size_bytes, offset, next_offset))


class RecentChunks:
    """The memory of all logs' recent ends together."""

    __slots__ = ("_capacity_bytes", "_order", "size_bytes")

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._order: deque[tuple[dict[int, Kept], int, int]] = deque()  # (where it is, base offset, size)
        self.size_bytes = 0

    def keep(self, end: RecentEnd, chunk: Chunk, batches: Sequence[RecordBatch]) -> None:
        """`chunk` was just committed, and `end` is of its log."""
        if end.wanted <= 0 or chunk.size_bytes > self._capacity_bytes // 2:
            return
        end.wanted -= 1
        view = batches[0].view
        if len(batches) > 1 or len(view.obj) > MAX_BUFFER_PARTS * len(view):  # type: ignore[arg-type]  # all have one
            view = memoryview(b"".join([batch.view for batch in batches]))
        size_bytes = len(view.obj) + OVERHEAD_BYTES  # type: ignore[arg-type]
        end.chunks[chunk.base_offset] = Kept(chunk.next_offset, view)
        self._order.append((end.chunks, chunk.base_offset, size_bytes))
        self.size_bytes += size_bytes
        while self.size_bytes > self._capacity_bytes:
            chunks, base_offset, size_bytes = self._order.popleft()
            del chunks[base_offset]
            self.size_bytes -= size_bytes
