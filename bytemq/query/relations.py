"""Topics as relations of DuckDB: the Parquet files of a cut, and its other records decoded here.

Owns: how a cut becomes a view, what of records is decoded, and where that is kept: in memory as long as it is little,
else in Parquet files of the query's own, which are as good for DuckDB as the others. Must not: talk to the broker
itself (`Source` does).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bytemq.protocol.records.batch import RecordBatch, split_batches
from bytemq.protocol.records.columns import RecordColumns
from bytemq.query.cuts import PartitionCut
from bytemq.query.sandbox import Refused, literal, quoted
from bytemq.storage.parquet.record_schema import SCHEMA, record_table
from bytemq.storage.parquet.sources import AbortedRanges
from bytemq.storage.parquet.typed_columns import TypedReader
from bytemq.storage.tables.table_columns import Formats, Seen, TableColumns

CHUNK_BYTES = 16 * 1024 * 1024
"""Of records decoded at once."""
IN_MEMORY_BYTES = 64 * 1024 * 1024
SPILLED = "tail-*.parquet"
MAX_GROWTHS = 20
"""One is enough, nearly always: two, where numbers turn out not to be exact as doubles."""


class LogPart(NamedTuple):
    batches: memoryview
    next_offset: int


class Source(Protocol):
    def path(self, name: str) -> str:
        """What DuckDB is to open for a Parquet file."""

    def read(self, topic: str, partition: int, offset: int, end_offset: int) -> LogPart:
        """`end_offset`: of the cut."""

    def columns(self, topic: str, seen: Mapping[str, Seen]) -> tuple[TableColumns, Formats]:
        """The typed columns of the topic's table, with those for what was seen."""


class TopicRelation(NamedTuple):
    """What a topic consists of in this query, for `--explain`."""

    topic: str
    files: list[str]
    """Paths of DuckDB's."""
    file_records: int
    file_bytes: int
    log_records: int
    log_bytes: int
    kept_raw: int
    cuts: Sequence[PartitionCut]
    is_partial: bool
    """Whether there may be columns of the topic that are not here."""


class Relations:
    """Made before the sandbox is locked; `tables` are then registered with it."""

    def __init__(self, source: Source, scratch: Path, scratch_bytes: int) -> None:
        self._source = source
        self._scratch = Scratch(scratch, scratch_bytes)
        self._added = 0

    @property
    def left_bytes(self) -> int:
        """Of the scratch space."""
        return self._scratch.left_bytes

    def clear(self) -> None:
        """Nobody reads any more what was added so far."""
        self._scratch.clear()

    def add(
        self,
        connection: duckdb.DuckDBPyConnection,
        topic: str,
        cuts: Sequence[PartitionCut],
        wanted: Collection[str] | None = None,
    ) -> tuple[TopicRelation, Callable[[], None]]:
        """Reads what is not in files. The second of the two makes the view, in the locked sandbox.

        `wanted`: names of the columns that are needed, and of others perhaps; None: all columns. Only with all of them
        are fields found that no record had before.
        """
        columns, formats = self._source.columns(topic, {})
        collector = _Collector(self._scratch, f"{self._added}", TypedReader(columns, formats, wanted), wanted)
        self._added += 1
        for cut in cuts:
            aborted = AbortedRanges(cut.aborted)
            for first, end in cut.ranges:
                self._read_range(collector, topic, cut, first, end, aborted)
        collector.finish()
        for _ in range(MAX_GROWTHS):
            if not collector.reader.has_grown:
                break
            # Columns are the topic's before anybody is shown one: so what is shown stays.
            columns, formats = self._source.columns(topic, collector.reader.seen)
            collector.read_again(TypedReader(columns, formats, wanted))
        else:
            raise Refused(f"the columns of {topic} change all the time; try again")
        files = [self._source.path(file.name) for cut in cuts for file in cut.files]
        relation = TopicRelation(
            topic,
            [*files, *map(str, collector.files)],
            sum(file.records for cut in cuts for file in cut.files),
            sum(file.size_bytes for cut in cuts for file in cut.files),
            collector.records,
            collector.log_bytes,
            collector.kept_raw,
            cuts,
            wanted is not None and not formats.are_raw,
        )
        memory = f"the tail of {topic}"
        connection.register(memory, collector.in_memory())
        selects = [f"select * from {quoted(memory)}"]
        if collector.files:
            selects.append(f"select * from read_parquet({_list([*map(str, collector.files)])})")
        bounds = _bounds(cuts)
        if files:
            selects.append(f"select * from read_parquet({_list(files)}, union_by_name = true){bounds}")
        view = f"create view {quoted(topic)} as {' union all by name '.join(selects)}"

        def make_view() -> None:
            connection.execute(view)

        return relation, make_view

    def _read_range(
        self, collector: _Collector, topic: str, cut: PartitionCut, first: int, end: int, aborted: AbortedRanges
    ) -> None:
        offset = first
        while offset < end:
            part = self._source.read(topic, cut.partition, offset, cut.end_offset)
            for batch in split_batches(part.batches):
                collector.log_bytes += batch.size_bytes
                if not batch.is_control and not aborted.has(batch):
                    collector.add(batch)
                if collector.pending_bytes > CHUNK_BYTES:
                    collector.take(cut.partition, offset, end)
            # From where this part was asked for: converted meanwhile, batches may begin before the last one ended.
            collector.take(cut.partition, offset, end)
            offset = part.next_offset


class Scratch:
    """Files of the query's own, which together have at most so many bytes."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes

    @property
    def left_bytes(self) -> int:
        return max(self._most_bytes - sum(path.stat().st_size for path in self._folder.glob(SPILLED)), 0)

    def path(self, name: str) -> Path:
        """Of a new file. Raises Refused when there is no room for more."""
        if self.left_bytes <= 0:
            raise Refused(
                f"the records that are not Parquet yet need more than {self._most_bytes} bytes of scratch space "
                "(bytemq.sql.scratch.bytes): name fewer columns, or let `bytemq table build` convert them before"
            )
        return self._folder / SPILLED.replace("*", name)

    def clear(self) -> None:
        for path in self._folder.glob(SPILLED):
            path.unlink()


class _Collector:
    def __init__(self, scratch: Scratch, name: str, reader: TypedReader, wanted: Collection[str] | None) -> None:
        self.reader = reader
        kept = {"offset", *reader.roots, *(SCHEMA.names if wanted is None else map(str.casefold, wanted))}
        self._fixed = [name for name in SCHEMA.names if name in kept]
        """Columns that are kept, whatever else is read."""
        self._scratch = scratch
        self._name = name
        self._columns = RecordColumns()
        self._tables: list[pa.Table] = []
        self._tables_bytes = 0
        self.files: list[Path] = []
        self.records = self.log_bytes = self.kept_raw = 0

    @property
    def pending_bytes(self) -> int:
        return self._columns.size_bytes

    def add(self, batch: RecordBatch) -> None:
        if not self._columns.add(batch):
            self.kept_raw += 1

    def take(self, partition: int, first: int, end: int) -> None:
        """What was added becomes rows, as far as it is in [first, end): batches are cut differently by now, perhaps."""
        records, headers = self._columns.records, self._columns.headers
        if not records:
            return
        table = record_table(self._columns.take(), records, headers, partition)
        offset = table.column("offset")
        if offset[0].as_py() < first or offset[-1].as_py() >= end:
            table = table.filter(pc.and_(pc.greater_equal(offset, first), pc.less(offset, end)))
        self.records += len(table)
        table = self._with_typed(table.select(self._fixed))
        self._tables.append(table)
        self._tables_bytes += table.nbytes
        if self._tables_bytes > IN_MEMORY_BYTES:
            self._spill()

    def finish(self) -> None:
        if self.files and self._tables:
            self._spill()

    def read_again(self, reader: TypedReader) -> None:
        """The same records, with more columns."""
        self.reader = reader
        self._tables = [self._with_typed(table) for table in self._tables]
        for path in self.files:
            whole, schema = self._scratch.path(f"{path.stem}-whole"), self._schema
            with pq.ParquetFile(path) as file, pq.ParquetWriter(whole, schema, compression="lz4") as writer:
                for number in range(file.num_row_groups):
                    table = self._with_typed(file.read_row_group(number))
                    if not self.reader.has_grown:
                        writer.write_table(table, row_group_size=len(table))
            if not self.reader.has_grown:
                whole.rename(path)

    def in_memory(self) -> pa.Table:
        if self.reader.has_grown:  # some have columns by now that others do not have
            return pa.concat_tables([table.select(self._fixed) for table in self._tables])
        return pa.concat_tables(self._tables) if self._tables else self._schema.empty_table()

    @property
    def _schema(self) -> pa.Schema:
        return pa.schema([*map(SCHEMA.field, self._fixed), *self.reader.fields])

    def _with_typed(self, table: pa.Table) -> pa.Table:
        """As far as the columns suffice; else without, to be read again."""
        fixed = table.select(self._fixed)
        typed = self.reader.read(fixed)
        if self.reader.has_grown:
            return fixed
        return pa.Table.from_arrays([*fixed.columns, *typed.columns], schema=self._schema)

    def _spill(self) -> None:
        path = self._scratch.path(f"{self._name}-{len(self.files)}")
        pq.write_table(self.in_memory(), path, compression="lz4", row_group_size=1 << 20)
        self.files.append(path)
        self._tables, self._tables_bytes = [], 0


def _bounds(cuts: Sequence[PartitionCut]) -> str:
    """Rows of the files that are outside the cut: below the log start, as files go only as a whole, and beyond what was
    known to be stable.
    """
    wrong = []
    for cut in cuts:
        if any(file.first_offset < cut.start_offset for file in cut.files):
            wrong.append(f'("partition" = {cut.partition} and "offset" < {cut.start_offset})')
        if any(file.last_offset >= cut.end_offset for file in cut.files):
            wrong.append(f'("partition" = {cut.partition} and "offset" >= {cut.end_offset})')
    return f" where not ({' or '.join(wrong)})" if wrong else ""


def _list(paths: Sequence[str]) -> str:
    return "[" + ", ".join(map(literal, paths)) + "]"
