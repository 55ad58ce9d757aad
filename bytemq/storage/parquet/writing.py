"""From the files of a log to one Parquet file and its companion.

Owns: what goes into which of the two, row groups, encodings. Must not: decide which files, or publish.

Memory is bounded by the size of a row group, however large the inputs are.

A file has one schema, and its last record may have a field that nothing before it had. Where that happens, the columns
grow by all that the inputs have, and the file is written anew: at most once for each field that a topic ever has, and
for most topics once in their life.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bytemq.protocol.records.batch import NO_TIMESTAMP, RecordBatch
from bytemq.protocol.records.columns import RecordColumns
from bytemq.storage.parquet.record_schema import conformed, record_table, table_schema
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
from bytemq.storage.parquet.typed_columns import TypedReader
from bytemq.storage.tables.companion import NO_ROW_GROUP, Unit, encode_companion
from bytemq.storage.tables.table_columns import Column, Formats, TableColumns

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
    columns: TableColumns
    """Of the file: those that were given, and what its records needed beyond."""
    invalid: int
    left_out: int
    retyped: int
    """See `TypedReader`."""


def write_table(
    inputs: Sequence[Input],
    target: Path,
    companion: Path,
    *,
    partition: int,
    aborted: Sequence[tuple[int, int, int]],
    settings: ParquetSettings,
    columns: TableColumns = TableColumns(),  # noqa: B008
    formats: Formats = Formats(),  # noqa: B008
) -> WrittenTable:
    """Writes both files, durably, over what a crash may have left under these names.

    The inputs follow each other without a gap. `aborted` are (producer id, first offset, offset of the marker).
    Raises Corrupt for an input that is damaged, OSError.
    """
    while True:
        writer = _write(inputs, target, partition, AbortedRanges(aborted), settings, columns, formats)
        if not writer.reader.has_grown:
            break
        columns = writer.reader.columns
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
        columns,
        writer.reader.invalid,
        writer.reader.left_out,
        writer.reader.retyped,
    )


def _write(
    inputs: Sequence[Input],
    target: Path,
    partition: int,
    aborted: AbortedRanges,
    settings: ParquetSettings,
    columns: TableColumns,
    formats: Formats,
) -> _Writer:
    with target.open("wb") as sink:
        writer = _Writer(sink, inputs[0].base_offset, partition, settings, columns, formats)
        try:
            for source in inputs:
                if isinstance(source, SegmentInput):
                    writer.add_segment(source, aborted)
                else:
                    writer.add_parquet(source)
            writer.end_unit(inputs[-1].next_offset)
        finally:
            writer.close()
        _sync(sink)
    return writer


class _Writer:
    def __init__(
        self,
        sink: object,
        base_offset: int,
        partition: int,
        settings: ParquetSettings,
        columns: TableColumns,
        formats: Formats,
    ) -> None:
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
        self.reader = TypedReader(columns, formats)
        """Once it has grown nothing is written: all begins anew."""
        self._schema = table_schema(columns)
        typed = list(_leaves(columns))
        self._file = pq.ParquetWriter(
            sink,
            self._schema,
            compression=settings.codec,
            compression_level=settings.codec_level if settings.codec == "zstd" else None,
            use_dictionary=[*_DICTIONARY, *typed],
            column_encoding=_ENCODINGS,
            write_statistics=[*_STATISTICS, *typed],
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
            self._tables.append(conformed(table, self._schema))
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
            table = record_table(self._columns.take(), records, headers, self._partition)
            typed = self.reader.read(table)
            if not self.reader.has_grown:
                table = pa.Table.from_arrays([*table.columns, *typed.columns], schema=self._schema)
            self._tables.append(table)

    def end_unit(self, next_offset: int) -> None:
        """What is pending becomes a row group; the next unit begins at `next_offset`."""
        self._take_columns()
        row_group = NO_ROW_GROUP
        if self._tables:
            row_group = sum(unit.row_group != NO_ROW_GROUP for unit in self.units)
            if not self.reader.has_grown:
                table = pa.concat_tables(self._tables)
                self._file.write_table(table, row_group_size=len(table))
                self.records += len(table)
                self._max_timestamp = max(self._max_timestamp, pc.max(table.column("timestamp_ms")).as_py())
            self._tables, self._tables_bytes = [], 0
        if next_offset > self._base_offset:
            self.units.append(Unit(self._base_offset, next_offset, self._max_timestamp, row_group))
        self._base_offset, self._max_timestamp = next_offset, NO_TIMESTAMP


def _leaves(columns: TableColumns) -> Iterator[str]:
    """What Parquet calls the columns of which it has pages and statistics."""
    for column in columns.of_table():
        yield from _leaves_of(column, column.name)


def _leaves_of(column: Column, path: str) -> Iterator[str]:
    if column.element is not None:
        yield from _leaves_of(column.element, f"{path}.list.element")
    elif column.fields:
        for place in column.fields.values():
            for one in place:
                yield from _leaves_of(one, f"{path}.{one.name}")
    else:
        yield path


def _sync(file: object) -> None:
    file.flush()  # type: ignore[attr-defined]
    os.fsync(file.fileno())  # type: ignore[attr-defined]
