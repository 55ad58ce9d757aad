"""From the files of a log to one Parquet file and its companion.

Owns: what goes into which of the two, row groups, encodings. Must not: decide which files, or publish.

Memory is bounded by the size of a row group, however large the inputs are: of what is a row, raw and typed, and of what
is none.

A file has one schema, and its last record may have a field that nothing before it had. Where that happens, the columns
grow by all that the inputs have, and the file is written anew: at most once for each field that a topic ever has, and
for most topics once in their life.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bytemq.protocol.records.batch import NO_TIMESTAMP, RecordBatch
from bytemq.protocol.records.columns import RecordColumns
from bytemq.storage.manifests.manifest import FileKind, SegmentInfo
from bytemq.storage.parquet.record_schema import SCHEMA, conformed, record_table, table_schema
from bytemq.storage.parquet.settings import ParquetSettings
from bytemq.storage.parquet.sources import (
    AbortedRanges,
    Input,
    SegmentInput,
    segment_batches,
)
from bytemq.storage.parquet.typed_columns import TypedReader
from bytemq.storage.parquet.units import units_of
from bytemq.storage.tables.companion import NO_ROW_GROUP, Unit, encode_index
from bytemq.storage.tables.table_columns import Column, Formats, TableColumns
from bytemq.storage.tables.table_file import NewNames, TableFile, encode_details

_DICTIONARY = ["partition", "timestamp_type", "key", "headers.list.element.key", "producer_id", "producer_epoch"]
_ENCODINGS = dict.fromkeys(("offset", "timestamp", "timestamp_ms", "sequence"), "DELTA_BINARY_PACKED")
_STATISTICS = ["offset", "partition", "timestamp", "timestamp_ms"]
_FIXED_LEAVES = [name for name in SCHEMA.names if name != "headers"] + [
    f"headers.list.element.{name}" for name in ("key", "value")
]
_ADDED_ROWS = 8192
"""Rows of which it is known what their typed columns take, before there are more."""
_KEPT_BYTES = 512
"""Of a batch that is no row, beyond its own bytes: for whoever reads the unit."""
MOST_CHUNKS = 32 * 1024
"""Columns of row groups in a file: whoever writes it, or reads it, has some KiB of each in memory. Only a table of
hundreds of columns whose documents have few of them comes to so many.
"""
TYPED_LEVEL = 1
"""Of zstd: what is in typed columns is not larger than at level 3 (decision 87)."""


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
    next_offset: int
    """Where the file ends."""


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
    """Writes both files, over what a crash may have left under these names. Neither is durable yet: they are copied to
    where they are to stay.

    The inputs follow each other without a gap; where they are too much for a file, it is of the first of them alone.
    `aborted` are (producer id, first offset, offset of the marker).
    Raises Corrupt for an input that is damaged, OSError.
    """
    ranges = AbortedRanges(aborted)
    while True:
        with TableWriter(target, inputs[0].base_offset, partition, settings, columns, formats) as writer:
            for source in inputs:
                if isinstance(source, SegmentInput):
                    writer.add_segment(source, ranges)
                else:
                    for unit in units_of(source):
                        writer.add_rows(unit.base_offset, unit.rows, unit.batches)
                if writer.is_full:
                    break
            writer.end_unit(source.next_offset)
            if not writer.reader.has_grown:
                return writer.finish(companion)
        columns = writer.reader.columns


class _Kept(NamedTuple):
    """A batch for the companion, of the unit that is being made, or of the next one."""

    base_offset: int
    max_timestamp: int
    size_bytes: int


class TableWriter:
    """One Parquet file and what goes into its companion, in the order of offsets."""

    def __init__(
        self,
        target: Path,
        base_offset: int,
        partition: int,
        settings: ParquetSettings,
        columns: TableColumns,
        formats: Formats = Formats(),  # noqa: B008
    ) -> None:
        self.reader = TypedReader(columns, formats)
        """Once it has grown nothing is written: all begins anew."""
        self._target = target
        self._units: list[Unit] = []
        self._raw = TemporaryFile(dir=target.parent)  # noqa: SIM115  # closed with the others
        """Batches for the companion."""
        self._kept: deque[_Kept] = deque()
        self._kept_bytes = 0
        self._records = 0
        self._kept_raw = 0
        self._partition = partition
        self._limit_bytes = settings.row_group_bytes
        self._typed_limit_bytes = settings.typed_bytes
        self._columns = RecordColumns(settings.max_decompressed_bytes)
        self._tables: list[pa.Table] = []
        self._tables_bytes = 0
        """Of rows that are columns already and await company, without the typed ones."""
        self._typed_bytes = 0
        self._base_offset = base_offset
        self._schema = table_schema(columns)
        typed = list(_leaves(columns))
        self._sink = target.open("wb")
        self._file = pq.ParquetWriter(
            self._sink,
            self._schema,
            compression=settings.codec,
            compression_level=_levels(settings, typed),
            use_dictionary=[*_DICTIONARY, *typed],
            column_encoding=_ENCODINGS,
            write_statistics=[*_STATISTICS, *typed],
            data_page_size=settings.page_bytes,
            write_page_index=True,
            write_page_checksum=True,
            sorting_columns=[pq.SortingColumn(0)],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._sink.close()
        self._raw.close()

    @property
    def size_bytes(self) -> int:
        """Of the row groups that were written."""
        return self._sink.tell()

    @property
    def is_full(self) -> bool:
        """Whether nothing should be added any more."""
        return len(self._units) * len(self._schema) > MOST_CHUNKS

    @property
    def is_unit_empty(self) -> bool:
        """Whether nothing was added since the last unit ended. A reader would find no way past such a unit."""
        return not self._pending_bytes

    def add_segment(self, segment: SegmentInput, aborted: AbortedRanges) -> None:
        for batch in segment_batches(segment):
            if self._pending_bytes + batch.size_bytes > self._limit_bytes and self._pending_bytes:
                self.end_unit(batch.base_offset)
            if batch.is_control or not batch.record_count or aborted.has(batch):
                self.keep(batch)
            elif not self._columns.add(batch):
                self._kept_raw += 1
                self.keep(batch)

    def add_rows(self, base_offset: int, rows: pa.Table, batches: Sequence[RecordBatch]) -> None:
        """Rows of a table with the batches that belong among them; all are at `base_offset` or above."""
        if self._pending_bytes + rows.select(SCHEMA.names).nbytes > self._limit_bytes and self._pending_bytes:
            self.end_unit(base_offset)
        for batch in batches:
            self.keep(batch)
        self._take_columns()
        for part in _in_parts(rows):
            self._add(conformed(part, self._schema))

    def keep(self, batch: RecordBatch) -> None:
        """As it is, in the companion."""
        size_bytes = batch.size_bytes + _KEPT_BYTES
        self._raw.write(batch.view)
        self._kept.append(_Kept(batch.base_offset, batch.max_timestamp, size_bytes))
        self._kept_bytes += size_bytes

    def finish(self, companion: Path) -> WrittenTable:
        """Both files. The last unit was ended."""
        with companion.open("wb") as output:
            output.write(encode_index(self._units, self._raw.tell()))
            self._raw.seek(0)
            shutil.copyfileobj(self._raw, output)
        self.close()
        return WrittenTable(
            self._records,
            self._target.stat().st_size,
            companion.stat().st_size,
            max(unit.max_timestamp for unit in self._units),
            self._kept_raw,
            self.reader.columns,
            self.reader.invalid,
            self.reader.left_out,
            self.reader.retyped,
            self._base_offset,
        )

    @property
    def _pending_bytes(self) -> int:
        return self._columns.size_bytes + self._tables_bytes + self._kept_bytes

    def _take_columns(self) -> None:
        records, headers = self._columns.records, self._columns.headers
        if not records:
            return
        table = record_table(self._columns.take(), records, headers, self._partition)
        for part in _in_parts(table):
            typed = self.reader.read(part)
            if not self.reader.has_grown:
                part = pa.Table.from_arrays([*part.columns, *typed.columns], schema=self._schema)
            self._add(part)

    def _add(self, rows: pa.Table) -> None:
        """Few of them, with the typed columns, unless those have grown."""
        fixed_bytes = rows.select(SCHEMA.names).nbytes
        typed_bytes = rows.nbytes - fixed_bytes
        if self._tables and self._typed_bytes + typed_bytes > self._typed_limit_bytes:
            self._end_unit(rows.column("offset")[0].as_py())
        self._tables.append(rows)
        self._tables_bytes += fixed_bytes
        self._typed_bytes += typed_bytes

    def end_unit(self, next_offset: int) -> None:
        """What is pending becomes a row group; the next unit begins at `next_offset`."""
        self._take_columns()
        self._end_unit(next_offset)

    def _end_unit(self, next_offset: int) -> None:
        """As `end_unit`, of the rows that are columns already."""
        row_group, max_timestamp = NO_ROW_GROUP, NO_TIMESTAMP
        if self._tables:
            row_group = sum(unit.row_group != NO_ROW_GROUP for unit in self._units)
            if not self.reader.has_grown:
                table = pa.concat_tables(self._tables)
                self._file.write_table(table, row_group_size=len(table))
                self._records += len(table)
                max_timestamp = pc.max(table.column("timestamp_ms")).as_py()
            self._tables, self._tables_bytes, self._typed_bytes = [], 0, 0
        while self._kept and self._kept[0].base_offset < next_offset:
            kept = self._kept.popleft()
            self._kept_bytes -= kept.size_bytes
            max_timestamp = max(max_timestamp, kept.max_timestamp)
        if next_offset > self._base_offset:
            self._units.append(Unit(self._base_offset, next_offset, max_timestamp, row_group))
        self._base_offset = next_offset


def described(
    written: WrittenTable,
    names: NewNames,
    base_offset: int,
    last_offset: int,
    before: Sequence[TableFile],
    *,
    max_timestamp: int,
    created_ms: int,
    is_cleaned: bool,
    delete_horizon_ms: int,
) -> SegmentInfo:
    """What a manifest says of it. `before` are the tables that it replaces: what was counted in them stays counted."""
    details = TableFile(
        names.companion,
        written.records,
        written.size_bytes,
        written.kept_raw + sum(table.kept_raw for table in before),
        written.invalid + sum(table.invalid for table in before),
        written.left_out + sum(table.left_out for table in before),
        written.retyped + sum(table.retyped for table in before),
    )
    return SegmentInfo(
        base_offset,
        last_offset,
        written.size_bytes + written.companion_bytes,
        max_timestamp,
        created_ms,
        names.parquet,
        sealed=True,
        is_cleaned=is_cleaned,
        delete_horizon_ms=delete_horizon_ms,
        kind=FileKind.PARQUET,
        details=encode_details(details),
    )


def _in_parts(rows: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, len(rows), _ADDED_ROWS):
        yield rows.slice(start, _ADDED_ROWS)


def _levels(settings: ParquetSettings, typed: Sequence[str]) -> dict[str, int] | None:
    if settings.codec != "zstd":
        return None
    return dict.fromkeys(_FIXED_LEAVES, settings.codec_level) | dict.fromkeys(typed, TYPED_LEVEL)


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
