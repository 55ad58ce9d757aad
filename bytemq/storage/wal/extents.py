"""Where the bytes of a log are: compact tables from offsets to places. Pure.

Owns: the two tables a log is read by: the extents of its newest part inside write-ahead-log files, and the sparse index
of a segment. Must not: hold files or do I/O.

Both list *chunks*: whole batches in a row, about 64 KiB, or one batch that is larger. A read takes whole chunks where
it can, so that it need not walk batches. Arrays, not objects: a chunk costs some 30 bytes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

_NO_OFFSETS = array("q")
_NO_SIZES = array("I")
_NO_FLAGS = bytearray()
_SUMMED_AT_ONCE = 256


class Chunk(NamedTuple):
    base_offset: int
    next_offset: int
    position: int
    size_bytes: int
    max_timestamp: int


class Columns(NamedTuple):
    """Chunks that follow each other without gaps, each field of all of them."""

    bases: Sequence[int]
    positions: Sequence[int]
    sizes: Sequence[int]
    max_timestamps: Sequence[int]
    checksums: Sequence[int]


class ExtentTable:
    """The newest chunks of one log, ascending and without overlap, that no manifest knows of yet.

    `files` are ordinals of the write-ahead-log files that tell of them, `holders` of the files with their bytes: the
    same, or a bulk file.
    """

    has_gaps = False
    """A log is written without gaps; only the cleaner makes some."""

    __slots__ = (
        "bases",
        "checksums",
        "end_offset",
        "files",
        "holders",
        "max_timestamps",
        "positions",
        "size_bytes",
        "sizes",
        "verified",
    )

    def __init__(self, end_offset: int) -> None:
        # Most of ten thousand partitions are idle: their tables share these empty ones until something is appended.
        self.bases = self.positions = self.max_timestamps = _NO_OFFSETS
        self.files = self.holders = self.sizes = self.checksums = _NO_SIZES
        self.verified = _NO_FLAGS
        self.size_bytes = 0
        self.end_offset = end_offset

    def __len__(self) -> int:
        return len(self.bases)

    def append(self, chunk: Chunk, file: int, checksum: int, *, verified: bool, holder: int | None = None) -> None:
        self._own_arrays()
        self.bases.append(chunk.base_offset)
        self.files.append(file)
        self.holders.append(file if holder is None else holder)
        self.positions.append(chunk.position)
        self.sizes.append(chunk.size_bytes)
        self.max_timestamps.append(chunk.max_timestamp)
        self.checksums.append(checksum)
        self.verified.append(verified)
        self.size_bytes += chunk.size_bytes
        self.end_offset = chunk.next_offset

    def extend(self, columns: Columns, end_offset: int, file: int) -> None:
        """As `append` of them all, not verified, the last of which ends at `end_offset`; the bytes are in `file`."""
        self._own_arrays()
        ordinals = array("I", [file]) * len(columns.bases)
        self.bases.extend(columns.bases)
        self.files.extend(ordinals)
        self.holders.extend(ordinals)
        self.positions.extend(columns.positions)
        self.sizes.extend(columns.sizes)
        self.max_timestamps.extend(columns.max_timestamps)
        self.checksums.extend(columns.checksums)
        self.verified.extend(bytes(len(ordinals)))
        self.size_bytes += sum(columns.sizes)
        self.end_offset = end_offset

    def find(self, offset: int) -> int:
        """Index of the last chunk that starts at or below `offset`; -1 if there is none."""
        return bisect_right(self.bases, offset) - 1

    def chunk(self, index: int) -> Chunk:
        after = self.bases[index + 1] if index + 1 < len(self.bases) else self.end_offset
        return Chunk(self.bases[index], after, self.positions[index], self.sizes[index], self.max_timestamps[index])

    def chunks(self, first: int, stop: int) -> list[tuple[Chunk, int]]:
        """Those from index `first` up to `stop`, each with its checksum."""
        nexts = [*self.bases[first + 1 : stop + 1], self.end_offset][: stop - first]
        fields = (self.bases[first:stop], nexts, self.positions[first:stop], self.sizes[first:stop])
        return list(zip(map(Chunk, *fields, self.max_timestamps[first:stop]), self.checksums[first:stop], strict=True))

    def bytes_between(self, offset: int, end_offset: int, enough_bytes: int) -> int:
        """About how many bytes the records from `offset` to before `end_offset` take here, by their number in the
        chunks at both ends; what is beyond `enough_bytes` is not counted.
        """
        first, last = max(self.find(offset), 0), self.find(end_offset - 1)
        if last < first:
            return 0
        before = self._part(first, offset - self.bases[first])
        behind = self._part(last, self._next(last) - end_offset)
        size_bytes = -before - behind
        for start in range(first, last + 1, _SUMMED_AT_ONCE):
            size_bytes += sum(self.sizes[start : min(start + _SUMMED_AT_ONCE, last + 1)])
            if size_bytes >= enough_bytes:
                break
        return size_bytes

    def _part(self, index: int, records: int) -> int:
        """What so many records of a chunk take."""
        return self.sizes[index] * records // (self._next(index) - self.bases[index]) if records > 0 else 0

    def _next(self, index: int) -> int:
        return self.bases[index + 1] if index + 1 < len(self.bases) else self.end_offset

    def mark_verified(self, base_offset: int, count: int = 1) -> None:
        """So many chunks from the one that starts there on, if that still is in the table, were compared with their
        checksums.
        """
        index = self.find(base_offset)
        if index >= 0 and self.bases[index] == base_offset:
            self.verified[index : index + count] = b"\1" * len(self.verified[index : index + count])

    def count_in_files_before(self, file: int) -> int:
        """How many leading chunks files below `file` tell of: files are filled in the order of ordinals."""
        return bisect_right(self.files, file - 1)

    def _own_arrays(self) -> None:
        if self.bases is _NO_OFFSETS:
            self.bases, self.positions, self.max_timestamps = array("q"), array("q"), array("q")
            self.files, self.sizes, self.checksums = array("I"), array("I"), array("I")
            self.holders = array("I")
            self.verified = bytearray()

    def drop_first(self, count: int) -> None:
        self.size_bytes -= sum(self.sizes[:count])
        del self.bases[:count], self.files[:count], self.holders[:count], self.positions[:count]
        del self.sizes[:count], self.max_timestamps[:count], self.checksums[:count], self.verified[:count]


class SparseIndex:
    """The chunks of one segment, which follow each other without gaps from position 0.

    Offsets may be missing if the segment was cleaned (`has_gaps`). A chunk begins with its first batch and reaches to
    the next chunk: the offsets missing between them are its own.
    """

    __slots__ = (
        "bases",
        "checksums",
        "end_position",
        "has_gaps",
        "max_timestamps",
        "next_offset",
        "positions",
        "verified",
    )

    def __init__(self, *, has_gaps: bool = False) -> None:
        self.has_gaps = has_gaps
        self.bases = array("q")
        self.positions = array("I")
        self.max_timestamps = array("q")
        self.checksums = array("I")
        self.verified = bytearray()
        self.end_position = 0
        self.next_offset = 0

    def __len__(self) -> int:
        return len(self.bases)

    def append(self, chunk: Chunk, checksum: int, *, verified: bool) -> None:
        self.bases.append(chunk.base_offset)
        self.positions.append(chunk.position)
        self.max_timestamps.append(chunk.max_timestamp)
        self.checksums.append(checksum)
        self.verified.append(verified)
        self.end_position = chunk.position + chunk.size_bytes
        self.next_offset = chunk.next_offset

    def find(self, offset: int) -> int:
        """Index of the chunk that holds the first batch at or after `offset`, or else of the one before that."""
        return max(bisect_right(self.bases, offset) - 1, 0)

    def chunk(self, index: int) -> Chunk:
        last = index + 1 == len(self.bases)
        position = self.positions[index]
        return Chunk(
            self.bases[index],
            self.next_offset if last else self.bases[index + 1],
            position,
            (self.end_position if last else self.positions[index + 1]) - position,
            self.max_timestamps[index],
        )

    def mark_verified(self, base_offset: int, count: int = 1) -> None:
        """So many chunks from the one that starts there on were compared with their checksums."""
        index = self.find(base_offset)
        if self.bases[index] == base_offset:
            self.verified[index : index + count] = b"\1" * count
