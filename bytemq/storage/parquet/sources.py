"""What a Parquet file is made of: the files of a log in either form, read one after the other.

Owns: opening the inputs and deciding which of their batches belong to the table. Must not: write.
"""

from __future__ import annotations

import mmap
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bytemq.errors import Corrupt, NotFound
from bytemq.protocol.error_codes import KafkaError
from bytemq.protocol.records.batch import RecordBatch, check_crc, parse_header
from bytemq.storage.segments.batch_walk import StoredBatch, walk
from bytemq.storage.tables.companion import HEADER_BYTES, Unit, decode_companion, index_bytes

_BEHIND_BYTES = 8 * 1024 * 1024
"""So much of a file at a time is let go of."""


@dataclass(frozen=True, slots=True)
class SegmentInput:
    """A segment's file: its first `size_bytes` are the batches of [base_offset, next_offset)."""

    path: Path
    base_offset: int
    next_offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ParquetInput:
    path: Path
    companion: Path
    base_offset: int
    next_offset: int


Input = SegmentInput | ParquetInput


class AbortedRanges:
    """Which transactional batches were aborted: by producer, the offsets from first record to marker."""

    def __init__(self, transactions: Sequence[tuple[int, int, int]]) -> None:
        self._ranges: dict[int, list[tuple[int, int]]] = {}
        for producer_id, first, last in sorted(transactions):
            self._ranges.setdefault(producer_id, []).append((first, last))

    def has(self, batch: RecordBatch) -> bool:
        if not batch.is_transactional:
            return False
        ranges = self._ranges.get(batch.producer_id, ())
        number = bisect_right(ranges, batch.base_offset, key=itemgetter(0)) - 1
        return number >= 0 and batch.base_offset <= ranges[number][1]


def segment_batches(segment: SegmentInput) -> Iterator[RecordBatch]:
    """Every batch, its checksum compared. Raises Corrupt. The views live as long as somebody holds them; of what is
    behind them nothing stays in the memory of this process, however large the segment is.
    """
    try:
        file = segment.path.open("rb")
    except FileNotFoundError as error:
        raise NotFound(f"{segment.path.name} was deleted") from error
    with file:
        mapped = mmap.mmap(file.fileno(), segment.size_bytes, access=mmap.ACCESS_READ)
    view = memoryview(mapped)
    for place in _walked(mapped, view):
        batch = parse_header(view, place.position)
        try:
            check_crc(batch)
        except KafkaError as error:
            raise Corrupt(f"{segment.path.name} at offset {batch.base_offset}: {error}") from error
        yield batch


def _walked(mapped: mmap.mmap, view: memoryview) -> Iterator[StoredBatch]:
    """The batches in a part of what is mapped, letting go of what is behind."""
    dropped_bytes = 0
    for place in walk(view, verify=False):
        behind_bytes = place.position // _BEHIND_BYTES * _BEHIND_BYTES
        if behind_bytes > dropped_bytes:
            mapped.madvise(mmap.MADV_DONTNEED, dropped_bytes, behind_bytes - dropped_bytes)
            dropped_bytes = behind_bytes
        yield place


class CompanionFile:
    """A companion, however large, of whose batches those are in memory that somebody asks for."""

    def __init__(self, path: Path) -> None:
        """Raises Corrupt, NotFound."""
        try:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise NotFound(f"{path.name} was deleted") from error
        except ValueError as error:
            raise Corrupt(f"{path.name} is empty") from error
        data = memoryview(mapped)
        described = decode_companion(data[: index_bytes(data[:HEADER_BYTES])])
        self.units = described.units
        self._view = data[described.batches_position :]
        if len(self._view) != described.batches_bytes:
            raise Corrupt(f"{path.name} is cut")
        self._offsets, self._positions = array("q"), array("q")
        for place in _walked(mapped, self._view):
            self._offsets.append(place.base_offset)
            self._positions.append(place.position)
        self._positions.append(len(self._view))

    def batches(self, unit: Unit) -> list[RecordBatch]:
        """Those of a unit, their checksums compared. Raises Corrupt."""
        first, after = (bisect_left(self._offsets, offset) for offset in (unit.base_offset, unit.next_offset))
        view = self._view[self._positions[first] : self._positions[after]]
        return [parse_header(view, place.position) for place in walk(view, verify=True)]


@contextmanager
def opened_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """Raises Corrupt for what cannot be read, there or within the block, NotFound."""
    with reading(path), pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
        yield file


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raises Corrupt and NotFound for what reading this Parquet file raises."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"{path.name} was deleted") from error
    except (OSError, pa.ArrowException) as error:
        raise Corrupt(f"{path.name}: {error}") from error
