"""A log for the cleaner, and a model of what it may make of it that knows nothing of how."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from bytemq.compaction.clean_log import CleanedLog, CleanLog, TableForm
from bytemq.compaction.cleaned_batches import piece_of
from bytemq.compaction.cleaning import clean
from bytemq.compaction.job import Workspace
from bytemq.compaction.local_files import local_input
from bytemq.compaction.pieces import Piece, pieces_of
from bytemq.compaction.restructurer import convert
from bytemq.compaction.table_jobs import Convert
from bytemq.protocol.records.batch import parse_header, split_batches
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.protocol.records.control import EndTransactionMarker, end_transaction_batch
from bytemq.protocol.records.reader import iter_records
from bytemq.storage.checks.verify import segment_problems
from bytemq.storage.manifests.manifest import AbortedTxn, FileKind, Manifest, SegmentInfo, contradictions
from bytemq.storage.parquet.checking import check_rows
from bytemq.storage.parquet.sources import CompanionFile, ParquetInput
from bytemq.storage.parquet.units import TableUnit, units_of
from bytemq.storage.segments.batch_walk import batch_at
from bytemq.storage.segments.segment_builder import SegmentBuilder
from bytemq.storage.tables.table_columns import TableColumns
from bytemq.storage.tables.table_file import NewNames, objects_of, table_file
from tests.support.object_store import MemoryObjectStore
from tests.unit.storage.parquet.shapes import restored

CHUNK_BYTES = 400
DIRECTORY = "topics/x/0/"
NOW_MS = 1_000_000


class Written(NamedTuple):
    """A data record as it was produced."""

    record: Record
    producer_id: int
    is_aborted: bool


class CompactedLog:
    """Built batch by batch, then cut into segments and cleaned, again and again."""

    def __init__(self) -> None:
        self.store = MemoryObjectStore()
        self.batches: list[bytes] = []
        self.records: dict[int, Written] = {}
        self.aborted: list[AbortedTxn] = []
        self.segments: list[SegmentInfo] = []
        self.end_offset = 0
        self.now_ms = NOW_MS
        self.runs = 0
        self.row_group_bytes = 400
        self.target_file_bytes = 1 << 20
        self._open: dict[int, list[int]] = {}

    # Producing.

    def append(
        self, records: Sequence[Record], *, producer_id: int = -1, transactional: bool = False, codec: int = 0
    ) -> None:
        data = build_batch(
            records,
            base_offset=self.end_offset,
            timestamp_ms=500,
            compression=codec,
            producer_id=producer_id,
            producer_epoch=0 if producer_id >= 0 else -1,
            base_sequence=0 if producer_id >= 0 else -1,
            transactional=transactional,
        )
        offsets = range(self.end_offset, self.end_offset + len(records))
        for offset, record in zip(offsets, iter_records(parse_header(memoryview(data))), strict=True):
            self.records[offset] = Written(record, producer_id, False)
        if transactional:
            self._open.setdefault(producer_id, []).extend(offsets)
        self._add(bytes(data), len(records))

    def end_transaction(self, producer_id: int, *, committed: bool) -> None:
        marker = end_transaction_batch(
            EndTransactionMarker(committed, 0), producer_id=producer_id, producer_epoch=0, timestamp_ms=500
        )
        marker[:8] = self.end_offset.to_bytes(8, "big")
        offsets = self._open.pop(producer_id, [])
        if offsets and not committed:
            self.aborted.append(AbortedTxn(producer_id, offsets[0], self.end_offset, 0))
            for offset in offsets:
                self.records[offset] = self.records[offset]._replace(is_aborted=True)
        self._add(bytes(marker), 1)

    def end_all(self) -> None:
        for producer_id in list(self._open):
            self.end_transaction(producer_id, committed=False)

    def _add(self, data: bytes, count: int) -> None:
        self.batches.append(data)
        self.end_offset += count

    async def seal(self) -> None:
        """What was appended becomes a segment."""
        builder = SegmentBuilder(CHUNK_BYTES)
        for data in self.batches:
            batch = batch_at(memoryview(data), 0)
            assert batch is not None
            builder.add(batch, data)
        base = self.segments[-1].last_offset + 1 if self.segments else 0
        info, parts = builder.finish(f"{DIRECTORY}{base:020d}.log", base, created_ms=base, is_cleaned=False)
        await self.store.create(info.name, parts)
        self.segments.append(info)
        self.batches.clear()

    # Cleaning.

    @property
    def first_dirty_offset(self) -> int:
        return Manifest(0, 0, tuple(self.segments)).first_dirty_offset

    async def clean(
        self, *, map_bytes: int = 1 << 20, delete_retention_ms: int = 1000, segment_bytes: int = 3000
    ) -> CleanedLog:
        self.runs += 1
        announced: list[str] = []
        form = TableForm("tables/log/x/0/", 0, self.target_file_bytes, self.row_group_bytes, "zstd", TableColumns())
        cleaned = await clean(
            CleanLog(
                segments=tuple(self.segments),
                first_dirty_offset=self.first_dirty_offset,
                aborted=tuple(one for one in self.aborted if one.last_offset >= self.first_dirty_offset),
                now_ms=self.now_ms,
                delete_retention_ms=delete_retention_ms,
                map_bytes=map_bytes,
                load_factor=0.9,
                segment_bytes=segment_bytes,
                chunk_bytes=CHUNK_BYTES,
                directory=DIRECTORY,
                suffix=f"-1-c{self.runs}",
                tables=form if any(info.kind is FileKind.PARQUET for info in self.segments) else None,
            ),
            Workspace(self.store, 1 << 30, announced.append),
        )
        assert sorted(announced) == sorted(name for info in cleaned.written for name in objects_of(info))
        assert list(cleaned.replaced) == self.segments[: len(cleaned.replaced)]
        await self._delete(cleaned.replaced)
        self.segments[: len(cleaned.replaced)] = cleaned.written
        assert contradictions(Manifest(0, 0, tuple(self.segments))) == []
        assert self.first_dirty_offset == cleaned.first_dirty_offset
        return cleaned

    # Conversion.

    async def convert(self, first: int, count: int) -> None:
        """So many files in a row become one Parquet file, as far as they are cleaned, or are not, as the first is."""
        files = self.segments[first : first + count]
        alike = [*takewhile(lambda info: info.is_cleaned == files[0].is_cleaned, files)]
        self.runs += 1
        stem = f"{alike[0].base_offset:020d}-1-t{self.runs}"
        job = Convert(
            tuple(alike),
            0,
            NewNames(f"tables/log/x/0/{stem}.parquet", f"{DIRECTORY}{stem}.companion"),
            tuple(one[:3] for one in self.aborted),
            self.row_group_bytes,
            "zstd",
        )
        created: list[str] = []
        converted = await convert(job, Workspace(self.store, 1 << 30, created.append))
        await self._delete(alike)
        self.segments[first : first + len(alike)] = [converted.file]

    async def _delete(self, files: Sequence[SegmentInfo]) -> None:
        await self.store.delete([name for info in files for name in objects_of(info)])

    # Looking.

    async def problems(self) -> list[str]:
        """What verify says of the segments, and of Parquet files what their readers would stumble over."""
        found = []
        for info in self.segments:
            if info.kind is FileKind.SEGMENT:
                found.extend(segment_problems(memoryview(self.store.objects[info.name]), info))
                continue
            with TemporaryDirectory() as folder:
                source = await local_input(info, self.store, Path(folder))
                assert isinstance(source, ParquetInput)
                check_rows(source.path, info.base_offset, info.last_offset, table_file(info).records, None)
                found.extend(
                    f"unit {unit.base_offset}..{unit.next_offset} of {info.name} is empty"
                    for unit in units_of(source)
                    if not len(unit.rows) and not unit.batches
                )
        return found

    async def units(self, number: int) -> list[TableUnit]:
        """Of a Parquet file."""
        with TemporaryDirectory() as folder:
            source = await local_input(self.segments[number], self.store, Path(folder))
            assert isinstance(source, ParquetInput)
            return list(units_of(source))

    async def _pieces(self, info: SegmentInfo) -> AsyncIterator[Piece]:
        if info.kind is FileKind.SEGMENT:
            async for piece in pieces_of(self.store, info, CHUNK_BYTES):
                yield piece
            return
        with TemporaryDirectory() as folder:
            source = await local_input(info, self.store, Path(folder))
            assert isinstance(source, ParquetInput)
            companion = CompanionFile(source.companion)
            for number in range(len(companion.units)):
                *batches, _footer = restored(source.path, source.companion, number, CHUNK_BYTES)
                for batch in split_batches(memoryview(b"".join(batches))):
                    yield piece_of(batch)

    async def content(self) -> dict[int, Record]:
        """All data records by offset, as a read_uncommitted consumer gets them."""
        found = {}
        for info in self.segments:
            async for piece in self._pieces(info):
                batch = parse_header(piece.view) if piece.batch is not None else None
                if batch is not None and not batch.is_control:
                    found.update({record.offset: record for record in iter_records(batch)})
        return found

    async def batches_left(self) -> list[tuple[int, int, int]]:
        """Base offset, last offset and number of records of each batch."""
        found = []
        for info in self.segments:
            async for piece in self._pieces(info):
                batch = parse_header(piece.view)
                found.append((batch.base_offset, batch.last_offset, batch.record_count))
        return found

    async def markers(self) -> list[int]:
        """Offsets of the control records that are left."""
        found = []
        for info in self.segments:
            async for piece in self._pieces(info):
                batch = parse_header(piece.view)
                if batch.is_control and batch.record_count:
                    found.append(batch.base_offset)
        return found

    def newest_below(self, end_offset: int) -> dict[bytes, int]:
        """The offset of the newest committed record of each key."""
        return {
            written.record.key: offset
            for offset, written in self.records.items()
            if offset < end_offset and not written.is_aborted and written.record.key is not None
        }
