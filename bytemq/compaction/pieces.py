"""Reading a segment piece by piece: its batches one after the other, and the damage between them.

Owns: which bytes of a segment are sound. Must not: know what is in a batch, or hold more of the file than a window.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

from bytemq.errors import Corrupt
from bytemq.storage.manifests.manifest import SegmentInfo
from bytemq.storage.reading import is_sound
from bytemq.storage.segments.batch_walk import StoredBatch, salvage, walk
from bytemq.storage.segments.segment_files import load_index
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.wal.extents import Chunk, SparseIndex

WINDOW_BYTES = 1024 * 1024


class Piece(NamedTuple):
    base_offset: int
    next_offset: int
    view: memoryview
    batch: StoredBatch | None
    """None: `view` is damage in place of these offsets, if there are any."""


async def pieces_of(store: ObjectStore, segment: SegmentInfo, chunk_bytes: int) -> AsyncIterator[Piece]:
    """Everything in a segment, in order. Raises Corrupt when the file is shorter than it should be, NotFound."""
    file = await store.open_read(segment.name)
    try:
        index = await load_index(file, segment, chunk_bytes)
        number = 0
        while number < len(index):
            after = _window(index, number)
            start, last = index.positions[number], index.chunk(after - 1)
            size_bytes = last.position + last.size_bytes - start
            window = await file.read(start, size_bytes)
            if len(window) < size_bytes:
                raise Corrupt(f"{segment.name} ends before position {start + size_bytes}")
            for n in range(number, after):
                chunk = index.chunk(n)
                view = window[chunk.position - start :][: chunk.size_bytes]
                for piece in _pieces_of_chunk(chunk, view, index.checksums[n], index.has_gaps):
                    yield piece
            number = after
    finally:
        await file.close()


def _window(index: SparseIndex, first: int) -> int:
    """The number of the chunk after those that are read at once."""
    after = first + 1
    while after < len(index) and index.positions[after] - index.positions[first] < WINDOW_BYTES:
        after += 1
    return after


def _pieces_of_chunk(chunk: Chunk, view: memoryview, checksum: int, has_gaps: bool) -> Iterator[Piece]:
    if is_sound(view, chunk, checksum, has_gaps=has_gaps):
        for batch in walk(view, verify=False):
            yield _sound(batch, view)
        return
    sound, _ = salvage(view, chunk.base_offset, chunk.next_offset)
    position, expected = 0, chunk.base_offset
    for batch in sound:
        if batch.position > position:
            yield Piece(expected, batch.base_offset, view[position : batch.position], None)
        yield _sound(batch, view)
        position, expected = batch.position + batch.size_bytes, batch.last_offset + 1
    if position < len(view):
        yield Piece(expected, chunk.next_offset, view[position:], None)


def _sound(batch: StoredBatch, view: memoryview) -> Piece:
    data = view[batch.position : batch.position + batch.size_bytes]
    return Piece(batch.base_offset, batch.last_offset + 1, data, batch)
