"""Parquet files in a cleaning: their rows are looked at as columns, and written as Parquet again.

Owns: which rows stay, by the same rules as for records in batches, and where a file that is written ends and the next
one begins. Must not: decide about batches (`cleaning_rules` does), or read again what a row means: typed columns stay
what they are.

What is no row of a table, markers above all, is in companions as batches, and is cleaned as in a segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

import bytemq.compaction.arrow_limits  # noqa: F401
from bytemq.compaction.clean_log import CleanLog
from bytemq.compaction.cleaned_batches import NO_HORIZON, earlier, piece_of
from bytemq.compaction.cleaning_rules import CleaningRules, Pass
from bytemq.compaction.local_files import local_table, mapped
from bytemq.protocol.records.batch import RecordBatch, parse_header
from bytemq.protocol.records.builder import build_batch
from bytemq.storage.manifests.manifest import SegmentInfo
from bytemq.storage.parquet.record_schema import KEY_COLUMNS, SCHEMA, key_column
from bytemq.storage.parquet.settings import ParquetSettings
from bytemq.storage.parquet.units import TableUnit, in_order, opened_table
from bytemq.storage.parquet.writing import TableWriter, described
from bytemq.storage.pools.names import plain_name
from bytemq.storage.tables.companion import SUFFIX as COMPANION_SUFFIX
from bytemq.storage.tables.table_file import SUFFIX, NewNames, table_file

FOLDER_PREFIX = "bytemq-clean-"
_HORIZON = SCHEMA.field("delete_horizon_ms")


class KeptUnit(NamedTuple):
    """What stays of a unit."""

    base_offset: int
    rows: pa.Table
    batches: Sequence[RecordBatch]
    horizon_ms: int = NO_HORIZON
    """When the first of it may go."""


async def put_file(over: Pass, file: SegmentInfo, end_offset: int) -> tuple[int, bool]:
    """See `cleaning.Form`. Of the columns only the keys are read."""
    with TemporaryDirectory(prefix=FOLDER_PREFIX) as folder:
        async with local_table(file, over.space.store, Path(folder)) as local:
            with opened_table(local.parquet, local.companion) as table:
                for described in table.units:
                    await local.bring(described, KEY_COLUMNS)
                    end_offset, is_full = _put_unit(over, table.read(described, KEY_COLUMNS), end_offset)
                    if is_full:
                        return end_offset, True
    return file.last_offset + 1, False


def _put_unit(over: Pass, unit: TableUnit, end_offset: int) -> tuple[int, bool]:
    keys, offsets = key_column(unit.rows), unit.offsets
    for part in in_order(offsets, unit.batches):
        if isinstance(part, RecordBatch):
            end_offset, is_full = over.rules.put(piece_of(part), over.transactions, end_offset)
        else:
            row = over.rules.newest.put_keys(*keys, part.start, part.stop)
            is_full = row < part.stop
            end_offset = int(offsets[row]) if is_full else int(offsets[row - 1]) + 1
        if is_full:
            return end_offset, True
    return end_offset, False


async def copy_files(over: Pass, files: Sequence[SegmentInfo], end_offset: int, written: list[SegmentInfo]) -> None:
    """See `cleaning.Form`."""
    with (
        TemporaryDirectory(prefix=FOLDER_PREFIX) as folder,
        TableOutput(over, Path(folder), files[0].base_offset, written) as output,
    ):
        for file in files:
            async with local_table(file, over.space.store, Path(folder)) as local:
                with opened_table(local.parquet, local.companion) as table:
                    for described in table.units:
                        await local.bring(described)
                        await _copy_unit(over, table.read(described), end_offset, output, file)
        await output.end(files[-1].last_offset + 1)


async def _copy_unit(over: Pass, unit: TableUnit, end_offset: int, output: TableOutput, file: SegmentInfo) -> None:
    cleaned, rest = unit.split(end_offset)
    if cleaned is not None:
        await output.add(kept_unit(cleaned, over), file)
    if rest is not None:
        if output.is_cleaned:
            await output.end(end_offset)
            output.is_cleaned = False
        await output.add(KeptUnit(rest.base_offset, rest.rows, rest.batches), file)


def kept_unit(unit: TableUnit, over: Pass) -> KeptUnit:
    rules, transactions = over.rules, over.transactions
    rows, horizon_ms = _kept_rows(unit.rows, over.job, rules)
    rules.read_records += len(unit.rows)
    rules.kept_records += len(rows)
    batches = []
    for part in in_order(unit.offsets, unit.batches):
        if isinstance(part, range):
            transactions.seen(_producers_of_transactions(unit.rows.slice(part.start, len(part))))
            continue
        kept = rules.kept(piece_of(part), transactions)
        if kept is not None:
            batches.append(parse_header(kept.piece.view))
            horizon_ms = earlier(horizon_ms, kept.horizon_ms)
    return KeptUnit(unit.base_offset, rows, batches, horizon_ms)


def _kept_rows(rows: pa.Table, job: CleanLog, rules: CleaningRules) -> tuple[pa.Table, int]:
    """And the first of their horizons: a tombstone that stays gets one, if it has none yet."""
    bits = rules.newest.newest(*key_column(rows), 0, len(rows))
    stays = pa.Array.from_buffers(pa.bool_(), len(rows), [None, pa.py_buffer(bits)])
    is_due = pc.less_equal(rows.column(_HORIZON.name), job.now_ms)
    has_expired = pc.fill_null(pc.and_(pc.is_null(rows.column("value")), is_due), False)
    kept = rows.filter(pc.and_not(stays, has_expired))
    horizons = pc.if_else(
        pc.is_null(kept.column("value")),
        pc.fill_null(kept.column(_HORIZON.name), job.now_ms + job.delete_retention_ms),
        pa.scalar(None, pa.int64()),
    )
    first_ms = pc.min(horizons).as_py()
    kept = kept.set_column(kept.schema.get_field_index(_HORIZON.name), _HORIZON, horizons)
    return kept, NO_HORIZON if first_ms is None else first_ms


def _producers_of_transactions(rows: pa.Table) -> Iterable[int]:
    found: list[int] = pc.unique(rows.column("producer_id").filter(rows.column("transactional"))).to_pylist()
    return found


class TableOutput:
    """Files in a row, each about as large as the topic wants them."""

    def __init__(self, over: Pass, folder: Path, base_offset: int, written: list[SegmentInfo]) -> None:
        assert over.job.tables is not None, "there are tables in the log"
        self.is_cleaned = True
        self._job = over.job
        self._form = over.job.tables
        self._space = over.space
        self._parquet, self._companion = folder / "cleaned.parquet", folder / "cleaned.companion"
        self._base_offset = base_offset
        self._written = written
        self._writer: TableWriter | None = None
        self._sources: list[SegmentInfo] = []
        """Whose first record is in the file that is being written, or would be."""
        self._latest: SegmentInfo | None = None
        self._created_ms = 0
        self._horizon_ms = NO_HORIZON

    def __enter__(self) -> TableOutput:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    async def add(self, unit: KeptUnit, source: SegmentInfo) -> None:
        writer = self._writer
        if writer is not None and (writer.size_bytes >= self._form.target_file_bytes or writer.is_full):
            await self.end(unit.base_offset)
        if self._writer is None:
            form = self._form
            settings = ParquetSettings(form.row_group_bytes, form.codec, form.codec_level)
            self._writer = TableWriter(self._parquet, self._base_offset, form.partition, settings, form.columns)
            self._created_ms = source.created_ms
        if source is not self._latest:
            self._sources.append(source)
            self._latest = source
        self._writer.add_rows(unit.base_offset, unit.rows, unit.batches)
        self._horizon_ms = earlier(self._horizon_ms, unit.horizon_ms)

    async def end(self, next_offset: int) -> None:
        """The last file answers for all offsets below `next_offset`."""
        writer, job = self._writer, self._job
        assert writer is not None, "a unit was added"
        if writer.is_unit_empty:
            writer.keep(
                parse_header(memoryview(build_batch([], base_offset=next_offset - 1, last_offset=next_offset - 1)))
            )
        writer.end_unit(next_offset)
        table = writer.finish(self._companion)
        stem = f"{self._base_offset:020d}{job.suffix}-{len(self._written):x}"
        names = NewNames(f"{self._form.folder}{stem}{SUFFIX}", f"{plain_name(job.directory)}{stem}{COMPANION_SUFFIX}")
        # The companion first: a Parquet file that can be seen under tables/ is whole.
        for target, path in ((names.companion, self._companion), (names.parquet, self._parquet)):
            with mapped(path) as data:
                await self._space.create(target, [data])
        self._written.append(
            described(
                table,
                names,
                self._base_offset,
                next_offset - 1,
                [table_file(source) for source in self._sources],
                max_timestamp=table.max_timestamp,
                created_ms=self._created_ms,
                is_cleaned=self.is_cleaned,
                delete_horizon_ms=self._horizon_ms,
            )
        )
        writer.close()
        self._writer, self._sources = None, []
        self._base_offset, self._horizon_ms = next_offset, NO_HORIZON
