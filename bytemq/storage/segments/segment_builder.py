"""A whole segment made in memory, for those who rewrite a log: cleaned, merged, converted back. Pure.

Owns: the bytes of the file, its index, and what a manifest says of it. Must not: write it, or decide what is in it.

It is as large as a segment may be: whoever adds to it looks at `size_bytes`.
"""

from __future__ import annotations

from collections.abc import Sequence

from crc32c import crc32c

from bytemq.storage.manifests.manifest import SegmentInfo
from bytemq.storage.segments.batch_walk import StoredBatch
from bytemq.storage.segments.segment_format import encode_footer
from bytemq.storage.stores.interface import Buffer
from bytemq.storage.wal.extents import Chunk, SparseIndex

NO_CHECKSUM = 0
"""Batches of such a chunk are checked one by one, by their own checksums, whenever they are read."""


class SegmentBuilder:
    def __init__(self, chunk_bytes: int) -> None:
        self.max_timestamp = -1
        self.last_offset = -1
        """Of what was added so far."""
        self._chunk_bytes = chunk_bytes
        self._data = bytearray()
        self._index = SparseIndex(has_gaps=True)
        self._chunk: Chunk | None = None
        self._checksum = 0

    @property
    def size_bytes(self) -> int:
        """Of batches; a footer comes on top."""
        return len(self._data)

    def add(self, batch: StoredBatch, data: Buffer) -> None:
        """`data` is the whole batch; `batch` says what its header does. Batches come in the order of their offsets."""
        chunk = self._chunk
        if chunk is not None and chunk.size_bytes + batch.size_bytes > self._chunk_bytes:
            self._end_chunk(batch.base_offset)
            chunk = None
        if chunk is None:
            chunk = Chunk(batch.base_offset, -1, len(self._data), 0, -1)
        self._data += data
        self._checksum = crc32c(data, self._checksum)
        self._chunk = chunk._replace(
            size_bytes=chunk.size_bytes + batch.size_bytes,
            max_timestamp=max(chunk.max_timestamp, batch.max_timestamp),
        )
        self.max_timestamp = max(self.max_timestamp, batch.max_timestamp)
        self.last_offset = batch.last_offset

    def add_damaged(self, base_offset: int, next_offset: int, data: Buffer) -> None:
        """Bytes that are no sound batches, in place of these offsets: kept, and never taken for what was written."""
        self._end_chunk(base_offset)
        chunk = Chunk(base_offset, next_offset, len(self._data), len(memoryview(data)), -1)
        self._index.append(chunk, NO_CHECKSUM, verified=False)
        self._data += data
        self.last_offset = next_offset - 1

    def finish(
        self, name: str, base_offset: int, *, created_ms: int, is_cleaned: bool, delete_horizon_ms: int = -1
    ) -> tuple[SegmentInfo, Sequence[Buffer]]:
        """What a manifest says of it, and the bytes of the file. There is something in it.

        It answers for the offsets from `base_offset` to the last that was added.
        """
        self._end_chunk(self.last_offset + 1)
        info = SegmentInfo(
            base_offset,
            self.last_offset,
            self.size_bytes,
            self.max_timestamp,
            created_ms,
            name,
            True,
            is_cleaned,
            delete_horizon_ms,
        )
        return info, [self._data, encode_footer(self._index, ())]

    def _end_chunk(self, next_offset: int) -> None:
        if self._chunk is not None:
            self._index.append(self._chunk._replace(next_offset=next_offset), self._checksum, verified=True)
        self._chunk, self._checksum = None, 0
