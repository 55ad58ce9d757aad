"""A whole segment made in memory, for those who rewrite a log: cleaned, merged, converted back. Pure.

Owns: the bytes of the file, its index, and what a manifest says of it. Must not: write it, or decide what is in it.

It is as large as a segment may be: whoever adds to it looks at `size_bytes`.
"""

from __future__ import annotations

from collections.abc import Sequence

from crc32c import crc32c

from bytemq.storage.batch_walk import StoredBatch
from bytemq.storage.extents import Chunk, SparseIndex
from bytemq.storage.interface import Buffer
from bytemq.storage.manifest import SegmentInfo
from bytemq.storage.segment_format import encode_footer


class SegmentBuilder:
    def __init__(self, chunk_bytes: int) -> None:
        self.size_bytes = 0
        self.max_timestamp = -1
        self.last_offset = -1
        """Of the batches added so far."""
        self._chunk_bytes = chunk_bytes
        self._parts: list[Buffer] = []
        self._index = SparseIndex(has_gaps=True)
        self._chunk = Chunk(-1, -1, 0, 0, -1)
        self._checksum = 0

    def add(self, batch: StoredBatch, data: Buffer) -> None:
        """`data` is the whole batch; `batch` says what its header does. Batches come in the order of their offsets."""
        if self._chunk.size_bytes and self._chunk.size_bytes + batch.size_bytes > self._chunk_bytes:
            self._end_chunk(batch.base_offset)
        if not self._chunk.size_bytes:
            self._chunk = Chunk(batch.base_offset, -1, self.size_bytes, 0, -1)
        self._parts.append(data)
        self._checksum = crc32c(data, self._checksum)
        self._chunk = self._chunk._replace(
            size_bytes=self._chunk.size_bytes + batch.size_bytes,
            max_timestamp=max(self._chunk.max_timestamp, batch.max_timestamp),
        )
        self.size_bytes += batch.size_bytes
        self.max_timestamp = max(self.max_timestamp, batch.max_timestamp)
        self.last_offset = batch.last_offset

    def finish(self, name: str, base_offset: int, *, created_ms: int) -> tuple[SegmentInfo, Sequence[Buffer]]:
        """What a manifest says of it, and the bytes of the file. There is at least one batch.

        It answers for the offsets from `base_offset` to that of its last batch.
        """
        self._end_chunk(self.last_offset + 1)
        info = SegmentInfo(
            base_offset,
            self.last_offset,
            self.size_bytes,
            self.max_timestamp,
            created_ms,
            name,
            sealed=True,
            is_cleaned=True,
        )
        return info, [*self._parts, encode_footer(self._index, ())]

    def _end_chunk(self, next_offset: int) -> None:
        self._index.append(self._chunk._replace(next_offset=next_offset), self._checksum, verified=True)
        self._chunk, self._checksum = Chunk(-1, -1, 0, 0, -1), 0
