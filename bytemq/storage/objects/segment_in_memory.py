"""A segment that is made of chunks in memory, for a store in which objects are created as a whole.

Owns: nothing but the bytes until they are created. Must not: name the object, or decide what is in it.
"""

from __future__ import annotations

from collections.abc import Sequence

from bytemq.storage.manifests.manifest import AbortedTxn, SegmentInfo
from bytemq.storage.segments.segment_files import SegmentWriter
from bytemq.storage.segments.segment_limits import begun_with
from bytemq.storage.stores.interface import Buffer
from bytemq.storage.wal.extents import Chunk


class SegmentInMemory:
    """A segment that is made to be created as a whole: an `AppendFile` for its writer."""

    name = "in memory"

    def __init__(self, chunk_bytes: int) -> None:
        self._parts: list[Buffer] = []
        self._chunk_bytes = chunk_bytes
        self._writer: SegmentWriter | None = None

    @property
    def info(self) -> SegmentInfo | None:
        """None while it holds nothing."""
        return self._writer.info if self._writer is not None else None

    async def add(self, chunk: Chunk, view: memoryview, now_ms: int) -> None:
        if self._writer is None:
            self._writer = SegmentWriter(self, begun_with(chunk, now_ms), self._chunk_bytes, None)
        await self._writer.append([chunk], [view])

    async def finish(self, aborted: Sequence[AbortedTxn]) -> tuple[SegmentInfo, Sequence[Buffer]]:
        assert self._writer is not None, "a segment holds something"
        await self._writer.write_footer(aborted, sealed=True)
        return self._writer.info, self._parts

    def read_cached(self, position: int, size_bytes: int) -> memoryview | None:
        return None

    async def read(self, position: int, size_bytes: int) -> memoryview:
        raise AssertionError("nobody reads what is being made")

    def forget_copies(self) -> None:
        return None

    def write_now(self, buffers: Sequence[Buffer], position: int) -> None:
        self._parts.extend(buffers)

    async def write(self, buffers: Sequence[Buffer], position: int, *, sync: bool) -> None:
        self._parts.extend(buffers)

    async def sync(self) -> None:
        return None

    async def close(self) -> None:
        return None
