"""What a Parquet file is made of: the files of a log in either form, read one after the other.

Owns: opening the inputs and deciding which of their batches belong to the table. Must not: write.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bytemq.errors import Corrupt, NotFound
from bytemq.protocol.error_codes import KafkaError
from bytemq.protocol.records.batch import RecordBatch, check_crc, parse_header
from bytemq.storage.segments.batch_walk import walk
from bytemq.storage.tables.companion import Companion, decode_companion, index_bytes

_BEHIND_BYTES = 8 * 1024 * 1024
"""So much of a segment at a time is let go of."""


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
        for producer_id, first, last in transactions:
            self._ranges.setdefault(producer_id, []).append((first, last))

    def has(self, batch: RecordBatch) -> bool:
        if not batch.is_transactional:
            return False
        return any(first <= batch.base_offset <= last for first, last in self._ranges.get(batch.producer_id, ()))


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
    dropped_bytes = 0
    for place in walk(view, verify=False):
        behind_bytes = place.position // _BEHIND_BYTES * _BEHIND_BYTES
        if behind_bytes > dropped_bytes:
            mapped.madvise(mmap.MADV_DONTNEED, dropped_bytes, behind_bytes - dropped_bytes)
            dropped_bytes = behind_bytes
        batch = parse_header(view, place.position)
        try:
            check_crc(batch)
        except KafkaError as error:
            raise Corrupt(f"{segment.path.name} at offset {batch.base_offset}: {error}") from error
        yield batch


def read_companion(path: Path) -> tuple[Companion, memoryview]:
    """With the batches that it holds. Raises Corrupt."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"{path.name} was deleted") from error
    companion = decode_companion(data[: index_bytes(data)])
    batches = memoryview(data)[companion.batches_position :]
    if len(batches) != companion.batches_bytes:
        raise Corrupt(f"{path.name} is cut")
    return companion, batches


def companion_batches(batches: memoryview) -> Iterator[RecordBatch]:
    for place in walk(batches, verify=True):
        yield parse_header(batches, place.position)


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
