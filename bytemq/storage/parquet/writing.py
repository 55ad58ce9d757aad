"""From the files of a log to one Parquet file and its companion.

Owns: what goes into which of the two, row groups, encodings. Must not: decide which files, or publish.

Memory is bounded by the size of a row group, however large the inputs are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bytemq.protocol.records.batch import NO_TIMESTAMP, RecordBatch
from bytemq.protocol.records.columns import RecordColumns
from bytemq.storage.parquet.record_schema import SCHEMA, record_table
from bytemq.storage.parquet.settings import ParquetSettings
from bytemq.storage.parquet.sources import (
    AbortedRanges,
    Input,
    ParquetInput,
    SegmentInput,
    companion_batches,
    read_companion,
    row_groups,
    segment_batches,
)
from bytemq.storage.tables.companion import NO_ROW_GROUP, Unit, encode_companion

_DICTIONARY = ["partition", "timestamp_type", "key", "headers.list.element.key", "producer_id", "producer_epoch"]
_ENCODINGS = dict.fromkeys(("offset", "timestamp", "timestamp_ms", "sequence"), "DELTA_BINARY_PACKED")
_STATISTICS = ["offset", "partition", "timestamp", "timestamp_ms"]


class WrittenTable(NamedTuple):
    records: int
    size_bytes: int
    """Of the Parquet file."""
    companion_bytes: int
    max_timestamp: int
    kept_raw: int
    """Batches whose records could not be columns; they are in the companion."""


def write_table(
    inputs: Sequence[Input],
    target: Path,
    companion: Path,
    *,
    partition: int,
    aborted: Sequence[tuple[int, int, int]],
    settings: ParquetSettings,
) -> WrittenTable:
    """Writes both files, durably, over what a crash may have left under these names.

    The inputs follow each other without a gap. `aborted` are (producer id, first offset, offset of the marker).
    Raises Corrupt for an input that is damaged, OSError.
    """
    next_offset = inputs[-1].next_offset
    aborted_ranges = AbortedRanges(aborted)
    with target.open("wb") as sink:
        writer = _Writer(sink, inputs[0].base_offset, partition, settings)
        try:
            for source in inputs:
                if isinstance(source, SegmentInput):
                    writer.add_segment(source, aborted_ranges)
                else:
                    writer.add_parquet(source)
            writer.end_unit(next_offset)
        finally:
            writer.close()
        _sync(sink)
    with companion.open("wb") as output:
        for piece in encode_companion(writer.units, writer.raw):
            output.write(piece)
        _sync(output)
    return WrittenTable(
        writer.records,
        target.stat().st_size,
        companion.stat().st_size,
        max(unit.max_timestamp for unit in writer.units),
        writer.kept_raw,
    )


class _Writer:
    def __init__(self, sink: object, base_offset: int, partition: int, settings: ParquetSettings) -> None:
        self.units: list[Unit] = []
        self.raw: list[bytes] = []
        """Batches for the companion."""
        self.records = 0
        self.kept_raw = 0
        self._partition = partition
        self._limit_bytes = settings.row_group_bytes
        self._columns = RecordColumns(settings.max_decompressed_bytes)
        self._tables: list[pa.Table] = []
        self._tables_bytes = 0
        """Of row groups that were taken over from a smaller file and await company."""
        self._base_offset = base_offset
        self._max_timestamp = NO_TIMESTAMP
        self._file = pq.ParquetWriter(
            sink,
            SCHEMA,
            compression=settings.codec,
            compression_level=settings.codec_level if settings.codec == "zstd" else None,
            use_dictionary=_DICTIONARY,
            column_encoding=_ENCODINGS,
            write_statistics=_STATISTICS,
            data_page_size=settings.page_bytes,
            write_page_index=True,
            write_page_checksum=True,
            sorting_columns=[pq.SortingColumn(0)],
        )

    def add_segment(self, segment: SegmentInput, aborted: AbortedRanges) -> None:
        for batch in segment_batches(segment):
            if self._pending_bytes + batch.size_bytes > self._limit_bytes and self._pending_bytes:
                self.end_unit(batch.base_offset)
            if batch.is_control or aborted.has(batch):
                self._keep(batch)
            elif not self._columns.add(batch):
                self.kept_raw += 1
                self._keep(batch)

    def add_parquet(self, source: ParquetInput) -> None:
        companion, batches = read_companion(source.companion)
        for batch in companion_batches(batches):
            self._keep(batch)
        groups = row_groups(source.path)
        for unit in companion.units:
            if unit.row_group == NO_ROW_GROUP:
                continue
            table = next(groups)
            if self._pending_bytes + table.nbytes > self._limit_bytes and self._pending_bytes:
                self.end_unit(unit.base_offset)
            self._take_columns()
            self._tables.append(table.cast(SCHEMA))
            self._tables_bytes += table.nbytes

    def close(self) -> None:
        self._file.close()

    @property
    def _pending_bytes(self) -> int:
        return self._columns.size_bytes + self._tables_bytes

    def _keep(self, batch: RecordBatch) -> None:
        self.raw.append(bytes(batch.view))
        self._max_timestamp = max(self._max_timestamp, batch.max_timestamp)

    def _take_columns(self) -> None:
        records, headers = self._columns.records, self._columns.headers
        if records:
            self._tables_bytes += self._columns.size_bytes
            self._tables.append(record_table(self._columns.take(), records, headers, self._partition))

    def end_unit(self, next_offset: int) -> None:
        """What is pending becomes a row group; the next unit begins at `next_offset`."""
        self._take_columns()
        row_group = NO_ROW_GROUP
        if self._tables:
            table = pa.concat_tables(self._tables)
            row_group = sum(unit.row_group != NO_ROW_GROUP for unit in self.units)
            self._file.write_table(table, row_group_size=len(table))
            self.records += len(table)
            self._max_timestamp = max(self._max_timestamp, pc.max(table.column("timestamp_ms")).as_py())
            self._tables, self._tables_bytes = [], 0
        if next_offset > self._base_offset:
            self.units.append(Unit(self._base_offset, next_offset, self._max_timestamp, row_group))
        self._base_offset, self._max_timestamp = next_offset, NO_TIMESTAMP


def _sync(file: object) -> None:
    file.flush()  # type: ignore[attr-defined]
    os.fsync(file.fileno())  # type: ignore[attr-defined]
