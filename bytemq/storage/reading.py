"""From offsets to bytes: which ranges of which file a read needs, and which part of them it returns. Pure.

Owns: planning a read over a chunk table and cutting the bytes that came back. Must not: do I/O or wait
(`planned_reads` does).

A read takes whole chunks up to its limit; only the first chunk (offset in its middle) and the last (end offset in its
middle) are walked batch by batch. Bytes that did not come from this process's own writes are verified before they are
served, once per chunk.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from crc32c import crc32c

from bytemq.errors import Corrupt
from bytemq.storage.segments.batch_walk import StoredBatch, crc_matches, walk
from bytemq.storage.shared_file import SharedFile
from bytemq.storage.wal.extents import Chunk, ExtentTable, SparseIndex

MAX_GAP_BYTES = 16 * 1024
"""Chunks of one file that are not further apart are read together: a copy is cheaper than a system call."""
MAX_RUNS = 64
"""Most system calls of one read; what is beyond comes with the next one."""
_BASE_OFFSET = struct.Struct(">q")


class Read(NamedTuple):
    """Whole record batches. Without any, `base_offset` is the offset asked for, and `next_offset` where to go on: it is
    greater when the cleaner left nothing in between.
    """

    buffers: Sequence[memoryview | bytes]
    size_bytes: int
    base_offset: int
    next_offset: int


as_read: Callable[[tuple[object, ...]], Read] = partial(tuple.__new__, Read)
"""As `Read._make`, in one call of a function and not three."""


class Run:
    """One range of one file to be read at once. `pieces` are the (start, stop) in it that belong to the log."""

    __slots__ = ("file", "pieces", "position", "size_bytes")

    def __init__(self, file: SharedFile, position: int, size_bytes: int) -> None:
        self.file = file
        self.position = position
        self.size_bytes = size_bytes
        self.pieces = [(0, size_bytes)]

    def extend(self, position: int, size_bytes: int) -> None:
        start = position - self.position
        stop = start + size_bytes
        if start == self.size_bytes:
            self.pieces[-1] = (self.pieces[-1][0], stop)
        else:
            self.pieces.append((start, stop))
        self.size_bytes = stop


class Plan(NamedTuple):
    """A planned read of the chunks `first` to `last`. `unverified` lists them all, with checksums, if one needs
    checking."""

    table: ExtentTable | SparseIndex
    runs: list[Run]
    first: Chunk
    last: Chunk
    unverified: list[tuple[Chunk, int]] | None


def plan_extents(
    table: ExtentTable, files: Mapping[int, SharedFile], offset: int, max_bytes: int, end_offset: int, verify: bool
) -> Plan:
    first = index = table.find(offset)
    count, total = len(table), 0
    bases, sizes, positions, ordinals = table.bases, table.sizes, table.positions, table.holders
    runs: list[Run] = []
    run_ordinal = run_end = -1
    while index < count and bases[index] < end_offset:
        size_bytes, position = sizes[index], positions[index]
        total += size_bytes
        if index > first and total > max_bytes:
            break
        if ordinals[index] == run_ordinal and position - run_end <= MAX_GAP_BYTES:
            runs[-1].extend(position, size_bytes)
        elif len(runs) == MAX_RUNS:
            break
        else:
            run_ordinal = ordinals[index]
            runs.append(Run(files[run_ordinal], position, size_bytes))
        run_end = position + size_bytes
        index += 1
    unverified = None
    if verify or 0 in table.verified[first:index]:
        unverified = table.chunks(first, index)
    return Plan(table, runs, table.chunk(first), table.chunk(index - 1), unverified)


def plan_segment(
    index: SparseIndex, file: SharedFile, offset: int, max_bytes: int, end_offset: int, verify: bool
) -> Plan:
    first = index.find(offset)
    start = index.positions[first]
    after = len(index)
    if index.end_position - start > max_bytes:
        after = max(bisect_right(index.positions, start + max_bytes) - 1, first + 1)
    after = max(min(after, bisect_left(index.bases, end_offset)), first + 1)
    last = index.chunk(after - 1)
    unverified = None
    if verify or 0 in index.verified[first:after]:
        unverified = [(index.chunk(i), index.checksums[i]) for i in range(first, after)]
    run = Run(file, start, last.position + last.size_bytes - start)
    return Plan(index, [run], index.chunk(first), last, unverified)


def assemble(
    plan: Plan,
    data: Sequence[memoryview],
    offset: int,
    max_bytes: int,
    end_offset: int,
    at_least_one: bool,
) -> Read:
    """The part of the bytes read that was asked for.

    Raises Corrupt if the batch at `offset` is damaged; damage further on ends the read before it.
    """
    pieces = [view[start:stop] for run, view in zip(plan.runs, data, strict=True) for start, stop in run.pieces]
    first, last = plan.first, plan.last
    if plan.unverified is not None:
        sound = _sound_chunks(plan, data)
        if sound == 0:
            if is_sound(pieces[0][: first.size_bytes], first, 0, has_gaps=plan.table.has_gaps):
                raise Corrupt(
                    f"the batches at offsets {first.base_offset}..{first.next_offset - 1} are not what was written"
                )
            return cut_chunk(pieces[0], first, offset, max_bytes, end_offset, at_least_one, verify=True)
        if sound < len(plan.unverified):
            last = plan.unverified[sound - 1][0]
            pieces = _first_bytes(pieces, sum(chunk.size_bytes for chunk, _ in plan.unverified[:sound]))
    if first.base_offset == last.base_offset:
        return cut_chunk(pieces[0], first, offset, max_bytes, end_offset, at_least_one)
    if _BASE_OFFSET.unpack_from(pieces[0])[0] != first.base_offset:
        raise Corrupt(f"the batch at offset {first.base_offset} is not where the index says")
    base_offset, next_offset = first.base_offset, last.next_offset
    if offset > base_offset:
        position, base_offset = _skip(pieces[0][: first.size_bytes], first, offset, plan.table.has_gaps)
        pieces[0] = pieces[0][position:]
    if next_offset > end_offset:
        tail = pieces.pop()
        kept = cut_chunk(tail[-last.size_bytes :], last, last.base_offset, last.size_bytes, end_offset, False)
        tail = tail[: len(tail) - last.size_bytes + kept.size_bytes]
        if tail:
            pieces.append(tail)
        next_offset = kept.next_offset
    return Read(pieces, sum(map(len, pieces)), base_offset, next_offset)


def chunk_views(plan: Plan, data: Sequence[memoryview]) -> Iterator[tuple[Chunk, int, memoryview]]:
    """The chunks of a plan made with `verify`, with checksum and bytes."""
    views = (view[start:stop] for run, view in zip(plan.runs, data, strict=True) for start, stop in run.pieces)
    view = memoryview(b"")
    for chunk, checksum in plan.unverified or []:
        if not view:
            view = next(views)
        yield chunk, checksum, view[: chunk.size_bytes]
        view = view[chunk.size_bytes :]


def cut_chunk(
    view: memoryview,
    chunk: Chunk,
    offset: int,
    max_bytes: int,
    end_offset: int,
    at_least_one: bool,
    *,
    verify: bool = False,
) -> Read:
    """The batches of one chunk from the one that contains `offset`, below `end_offset`, within `max_bytes`.

    With `verify` what is returned was checked, and the batch before a gap, which might have reached into it. Damage
    before that is no harm.
    """
    start = stop = -1
    base_offset = next_offset = offset
    expected = chunk.base_offset
    passed: StoredBatch | None = None
    try:
        for batch in walk(view[: chunk.size_bytes], verify=False):
            if start < 0 and batch.base_offset != expected and expected == chunk.base_offset:
                raise Corrupt(f"the batch at offset {expected} is not where the index says")
            expected = batch.last_offset + 1
            if batch.last_offset < offset:
                passed = batch
                continue
            if batch.last_offset >= end_offset:
                break
            if verify:
                _check(view, batch)
                if start < 0 and passed is not None and batch.base_offset > offset:
                    _check(view, passed)
            if start < 0:
                if batch.size_bytes > max_bytes and not at_least_one:
                    break
                start, base_offset = batch.position, batch.base_offset
            elif batch.position + batch.size_bytes - start > max_bytes:
                break
            stop, next_offset = batch.position + batch.size_bytes, expected
    except Corrupt:
        if start < 0:
            raise
    if start < 0:
        is_gap = passed is not None and expected <= offset
        if passed is not None and is_gap and verify:
            _check(view, passed)
        return Read([], 0, offset, chunk.next_offset if is_gap else offset)
    return Read([view[start:stop]], stop - start, base_offset, next_offset)


def _check(view: memoryview, batch: StoredBatch) -> None:
    if not crc_matches(view, batch):
        raise Corrupt(f"the checksum of the batch at offset {batch.base_offset} does not match")


def _skip(view: memoryview, chunk: Chunk, offset: int, has_gaps: bool) -> tuple[int, int]:
    """Position and base offset of the first batch that reaches `offset`; of what follows the chunk if none does."""
    for batch in walk(view, verify=False):
        if batch.last_offset >= offset:
            return batch.position, batch.base_offset
    if has_gaps:
        return chunk.size_bytes, chunk.next_offset
    raise Corrupt(f"offset {offset} is not where the index says")


def _sound_chunks(plan: Plan, data: Sequence[memoryview]) -> int:
    """How many leading chunks are what was written; they are marked so."""
    count = 0
    for chunk, checksum, view in chunk_views(plan, data):
        if not is_sound(view, chunk, checksum, has_gaps=plan.table.has_gaps):
            break
        count += 1
    if count:
        plan.table.mark_verified(plan.first.base_offset, count)
    return count


def is_sound(view: memoryview, chunk: Chunk, checksum: int, *, has_gaps: bool = False) -> bool:
    """Whether the bytes of a chunk are what was written: by its checksum if it has one, else batch by batch."""
    if checksum:
        return bool(crc32c(view) == checksum)
    expected = chunk.base_offset
    try:
        for batch in walk(view, verify=True):
            if batch.base_offset != expected and not has_gaps:
                return False
            expected = batch.last_offset + 1
    except Corrupt:
        return False
    return expected == chunk.next_offset or (has_gaps and expected < chunk.next_offset)


def _first_bytes(pieces: Sequence[memoryview], size_bytes: int) -> list[memoryview]:
    kept = []
    for piece in pieces:
        if size_bytes <= 0:
            break
        kept.append(piece[:size_bytes])
        size_bytes -= len(piece)
    return kept
