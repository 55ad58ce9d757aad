"""Segments: the files of one partition that are written behind.

Owns: opening them with their indexes, appending to the open one, sealing. Must not: decide when, or publish
(`write_behind` and `publisher` do).

An open segment is appended to beyond the length that its manifest names; what is there beyond is garbage of a crash and
gets overwritten. Bytes within that length never change. A footer with the index follows them; behind an open segment
the next append overwrites it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from crc32c import crc32c

from bytemq.errors import Corrupt, Unavailable
from bytemq.protocol.records.batch import HEADER_BYTES
from bytemq.runtime.logging import get_logger
from bytemq.storage.manifests.manifest import AbortedTxn, SegmentInfo
from bytemq.storage.segments.batch_walk import batch_at, crc_matches, next_candidate
from bytemq.storage.segments.segment_format import decode_footer, encode_footer
from bytemq.storage.shared_file import SharedFile
from bytemq.storage.stores.interface import AppendFile, ObjectStore, ReadFile
from bytemq.storage.wal.extents import Chunk, SparseIndex

log = get_logger("storage.segments")

WALK_BYTES = 1024 * 1024


class Segment(SharedFile):
    """An open segment with its index. The index of the open one grows when a manifest with more of it was published."""

    __slots__ = ("index",)

    def __init__(self, file: ReadFile, index: SparseIndex) -> None:
        super().__init__(file)
        self.index = index


class SegmentCache:
    """The segments that are open, at most `capacity`, those in use and the one used last; the least recently used one
    is closed first.
    """

    def __init__(self, store: ObjectStore, capacity: int, chunk_bytes: int) -> None:
        self._store = store
        self._capacity = capacity
        self._chunk_bytes = chunk_bytes
        self._segments: OrderedDict[str, Segment] = OrderedDict()

    def __len__(self) -> int:
        return len(self._segments)

    def peek(self, name: str) -> Segment | None:
        segment = self._segments.get(name)
        if segment is not None:
            self._segments.move_to_end(name)
        return segment

    async def get(self, info: SegmentInfo) -> Segment:
        """Raises NotFound when the segment was deleted meanwhile."""
        segment = self.peek(info.name)
        if segment is None:
            opened = await open_segment(self._store, info, self._chunk_bytes)
            segment = self.peek(info.name)
            if segment is None:
                self._segments[info.name] = opened
                await self._shrink()
                return opened
            await opened.file.close()  # opened by somebody else while this one waited
        if segment.index.end_position < info.size_bytes:  # it grew while its index was being loaded
            segment.pin()
            try:
                segment.index = await load_index(segment.file, info, self._chunk_bytes)
            finally:
                segment.unpin()
        return segment

    def grow(self, info: SegmentInfo, chunks: Sequence[tuple[Chunk, int]]) -> None:
        """The segment was appended to and its manifest published: its index, if it is loaded, grows too."""
        segment = self._segments.get(info.name)
        if segment is not None:
            for chunk, checksum in chunks:
                segment.index.append(chunk, checksum, verified=True)

    async def forget(self, name: str) -> None:
        """Closes the segment after its readers are done."""
        segment = self._segments.pop(name, None)
        if segment is not None:
            await segment.unpinned()
            await segment.file.close()

    async def close(self) -> None:
        for name in list(self._segments):
            await self.forget(name)

    async def _shrink(self) -> None:
        excess = len(self._segments) - self._capacity
        newest = next(reversed(self._segments))  # nobody had the time to read it
        unused = [name for name, segment in self._segments.items() if not segment.pins and name != newest]
        for name in unused[: max(excess, 0)]:
            await self.forget(name)


class SegmentWriter:
    """Appends to one segment and seals it. `info` and `added` say what a manifest and an index must learn of it."""

    is_bulk = False
    """Whether its batches were in it before: they must not go, whatever becomes of the segment."""

    def __init__(self, file: AppendFile, info: SegmentInfo, chunk_bytes: int, index: SparseIndex | None) -> None:
        """`index` is that of what the segment holds already: None for an empty one."""
        self._file = file
        self._chunk_bytes = chunk_bytes
        self._index = index if index is not None else SparseIndex()
        self.info = info
        self.is_new = index is None
        self.added: list[tuple[Chunk, int]] = []

    async def append(self, chunks: Sequence[Chunk], data: Sequence[memoryview]) -> None:
        """Writes chunks with their bytes behind what is there. Not durable before `sync`."""
        position = self.info.size_bytes
        await self._file.write(data, position, sync=False)
        for chunk, view in zip(chunks, data, strict=True):
            self._add(chunk._replace(position=position), view)
            position += len(view)
        self.info = self.info._replace(
            last_offset=chunks[-1].next_offset - 1,
            size_bytes=position,
            max_timestamp=max(self.info.max_timestamp, max(chunk.max_timestamp for chunk in chunks)),
        )

    def _add(self, chunk: Chunk, view: memoryview) -> None:
        """Small chunks become one of about `chunk_bytes`."""
        if self.added:
            last, checksum = self.added[-1]
            if last.next_offset == chunk.base_offset and last.size_bytes + chunk.size_bytes <= self._chunk_bytes:
                merged = last._replace(
                    next_offset=chunk.next_offset,
                    size_bytes=last.size_bytes + chunk.size_bytes,
                    max_timestamp=max(last.max_timestamp, chunk.max_timestamp),
                )
                self.added[-1] = (merged, crc32c(view, checksum))
                return
        self.added.append((chunk, crc32c(view)))

    async def sync(self) -> None:
        await self._file.sync()

    async def write_footer(self, aborted: Sequence[AbortedTxn], *, sealed: bool) -> None:
        """Writes the footer; still not durable before `sync`. An open segment's is overwritten by what is appended
        next."""
        index = SparseIndex()
        for number in range(len(self._index)):
            index.append(self._index.chunk(number), self._index.checksums[number], verified=True)
        for chunk, checksum in self.added:
            index.append(chunk, checksum, verified=True)
        overlapping = [
            txn
            for txn in aborted
            if txn.last_offset >= self.info.base_offset and txn.first_offset <= self.info.last_offset
        ]
        await self._file.write([encode_footer(index, overlapping)], self.info.size_bytes, sync=False)
        self.info = self.info._replace(sealed=sealed)

    async def close(self) -> None:
        await self._file.close()


class BulkSegmentWriter(SegmentWriter):
    """Seals a segment whose batches were written to it as they came. `shared` stays open, its owner closes it."""

    is_bulk = True

    def __init__(
        self, file: AppendFile, info: SegmentInfo, chunks: Sequence[tuple[Chunk, int]], shared: SharedFile
    ) -> None:
        super().__init__(file, info, 0, None)
        self.added = list(chunks)
        self._shared = shared
        shared.pin()

    async def sync(self) -> None:
        """What has failed once is not proved by another sync: such a file is copied."""
        try:
            await super().sync()
        except Unavailable:
            self._shared.is_doubtful = True
            raise
        if self._shared.is_doubtful:  # somebody else was told so, and this one was not
            raise Unavailable(f"{self.info.name} could not be synced")

    async def close(self) -> None:
        self._shared.unpin()


async def open_segment(store: ObjectStore, info: SegmentInfo, chunk_bytes: int) -> Segment:
    """Raises NotFound, Unavailable; then nothing is open."""
    file = await store.open_read(info.name)
    try:
        return Segment(file, await load_index(file, info, chunk_bytes))
    except BaseException:
        await file.close()
        raise


async def load_index(file: ReadFile, info: SegmentInfo, chunk_bytes: int) -> SparseIndex:
    """The index from the footer, or where that is damaged, by walking the batches."""
    try:
        index, _ = decode_footer(await _read_to_end(file, info.size_bytes))
        index.has_gaps = info.is_cleaned
        if index.end_position == info.size_bytes and index.next_offset == info.last_offset + 1:
            return index
        raise Corrupt("the footer of a segment contradicts its manifest")
    except Corrupt as error:
        if info.sealed:  # an open one's is overwritten when a crash cuts an append short
            log.error("segment footer is damaged, its index is rebuilt", segment=info.name, reason=str(error))
    return await walk_segment(file, info, chunk_bytes)


async def _read_to_end(file: ReadFile, position: int) -> bytes:
    parts = []
    while len(part := await file.read(position, WALK_BYTES)) == WALK_BYTES:
        parts.append(bytes(part))
        position += len(part)
    return b"".join([*parts, part])


async def walk_segment(file: ReadFile, info: SegmentInfo, chunk_bytes: int) -> SparseIndex:
    """An index made from the batches' headers.

    Where a header is broken the next sound batch is searched for; the damaged bytes become part of the chunk before it,
    so that a read which needs them finds the damage and one that does not is not affected. No chunk is verified by
    this.
    """
    index = SparseIndex(has_gaps=info.is_cleaned)
    chunk = Chunk(info.base_offset, info.base_offset, 0, 0, -1)
    position, expected, damaged = 0, info.base_offset, False
    while position < info.size_bytes:
        window = await file.read(position, min(WALK_BYTES, info.size_bytes - position))
        at = 0
        while at < len(window):
            batch = batch_at(window, at, info.size_bytes - position - at)
            if batch is None or not expected <= batch.base_offset <= batch.last_offset <= info.last_offset:
                break
            full = expected > chunk.base_offset and position + at - chunk.position >= chunk_bytes
            if full or damaged:
                size_bytes = position + at - chunk.position
                index.append(chunk._replace(next_offset=batch.base_offset, size_bytes=size_bytes), 0, verified=False)
                chunk = Chunk(batch.base_offset, batch.base_offset, position + at, 0, -1)
            if info.is_cleaned and not position + at:
                chunk = chunk._replace(base_offset=batch.base_offset)
            chunk = chunk._replace(max_timestamp=max(chunk.max_timestamp, batch.max_timestamp))
            expected, damaged = batch.last_offset + 1, False
            at += batch.size_bytes
        position += at
        if not at:
            log.error("segment is damaged", segment=info.name, position=position, offset=expected)
            found = await _next_sound(file, info, position + 1, expected)
            position, damaged = found if found is not None else info.size_bytes, True
    size_bytes = info.size_bytes - chunk.position
    index.append(chunk._replace(next_offset=info.last_offset + 1, size_bytes=size_bytes), 0, verified=False)
    return index


async def _next_sound(file: ReadFile, info: SegmentInfo, position: int, expected: int) -> int | None:
    """Position of the first batch at or after `position` that matches its CRC; None if there is none."""
    while position < info.size_bytes:
        window = await file.read(position, min(WALK_BYTES, info.size_bytes - position))
        if len(window) < HEADER_BYTES:
            break  # the file ends before it should
        data, at = bytes(window), -1
        while (at := next_candidate(data, at + 1)) >= 0:
            batch = batch_at(window, at, info.size_bytes - position - at)
            if batch is None or not expected <= batch.base_offset <= batch.last_offset <= info.last_offset:
                continue
            whole = await file.read(position + at, batch.size_bytes)
            if len(whole) == batch.size_bytes and crc_matches(whole, batch._replace(position=0)):
                return position + at
        position += len(window) - HEADER_BYTES + 1
    return None
