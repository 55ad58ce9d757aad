"""A Parquet file unit by unit: its rows, and the companion's batches in their places among them.

Owns: what belongs together, and in which order. Must not: decode records, or write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from bytemq.protocol.records.batch import RecordBatch
from bytemq.storage.parquet.record_schema import SCHEMA
from bytemq.storage.parquet.sources import CompanionFile, ParquetInput, reading
from bytemq.storage.tables.companion import NO_ROW_GROUP, Unit


class TableUnit(NamedTuple):
    """A row group, and the batches that belong between its rows."""

    base_offset: int
    next_offset: int
    rows: pa.Table
    batches: Sequence[RecordBatch]

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Of its rows."""
        found: npt.NDArray[np.int64] = self.rows.column("offset").to_numpy()
        return found

    def split(self, offset: int) -> tuple[TableUnit | None, TableUnit | None]:
        """What is below `offset`, and the rest."""
        if self.next_offset <= offset:
            return self, None
        if self.base_offset >= offset:
            return None, self
        row = int(np.searchsorted(self.offsets, offset))
        batches = [batch for batch in self.batches if batch.base_offset < offset]
        below = TableUnit(self.base_offset, offset, self.rows.slice(0, row), batches)
        return below, TableUnit(offset, self.next_offset, self.rows.slice(row), self.batches[len(batches) :])


class OpenedTable:
    """A Parquet file with its companion, unit by unit."""

    def __init__(self, path: Path, file: pq.ParquetFile, companion: CompanionFile) -> None:
        self.units = companion.units
        self._path = path
        self._file = file
        self._companion = companion

    def read(self, unit: Unit, columns: Sequence[str] | None = None) -> TableUnit:
        """All of it, or `columns` alone. Raises Corrupt."""
        batches = self._companion.batches(unit)
        return TableUnit(unit.base_offset, unit.next_offset, self._rows(unit, columns), batches)

    def _rows(self, unit: Unit, columns: Sequence[str] | None) -> pa.Table:
        if unit.row_group == NO_ROW_GROUP:
            return (SCHEMA if columns is None else pa.schema([SCHEMA.field(name) for name in columns])).empty_table()
        with reading(self._path):
            return self._file.read_row_group(unit.row_group, columns=columns, use_threads=False)


@contextmanager
def opened_table(parquet: Path, companion: Path) -> Iterator[OpenedTable]:
    """Raises Corrupt for what cannot be read, NotFound."""
    described = CompanionFile(companion)
    with reading(parquet):
        file = pq.ParquetFile(parquet, memory_map=True, page_checksum_verification=True)
    with file:
        yield OpenedTable(parquet, file, described)


def units_of(source: ParquetInput, columns: Sequence[str] | None = None) -> Iterator[TableUnit]:
    """All of a file, one row group in memory at a time; of `columns` alone if they are given. Raises Corrupt,
    NotFound.
    """
    with opened_table(source.path, source.companion) as table:
        for unit in table.units:
            yield table.read(unit, columns)


def in_order(offsets: npt.NDArray[np.int64], batches: Sequence[RecordBatch]) -> Iterator[range | RecordBatch]:
    """The rows that have these offsets, as ranges of their numbers, and the batches between them."""
    row = 0
    for batch in batches:
        after = int(np.searchsorted(offsets, batch.base_offset))
        if after > row:
            yield range(row, after)
        yield batch
        row = after
    if row < len(offsets):
        yield range(row, len(offsets))
