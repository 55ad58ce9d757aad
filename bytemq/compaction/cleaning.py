"""Cleaning a log, in the worker process: Kafka's Cleaner over segments in a store.

Owns: which batches and records stay, and the files that hold them. Must not: publish, delete, or fail because of what
is in a record: what it cannot understand stays as it is.

First the newest offset of each key in the dirty part is put into a table of fixed size; where the table is full, the
dirty part ends. Then the log is copied from its beginning, without the records that a newer one of the same key has
replaced, tombstones past their horizon, aborted transactions, and markers past theirs. What was copied before may be
cut out of the middle of a segment: the rest of that one becomes a segment of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from bytemq.compaction.clean_log import CleanedLog, CleaningStats, CleanLog
from bytemq.compaction.job import Workspace
from bytemq.compaction.merging import Merger, OpenBatch, can_be_merged
from bytemq.compaction.pieces import Piece, pieces_of
from bytemq.compaction.transactions import CleanedTransactions
from bytemq.errors import Corrupt
from bytemq.protocol.error_codes import KafkaError
from bytemq.protocol.records import offset_map
from bytemq.protocol.records.batch import CODEC_MASK, DELETE_HORIZON_FLAG, LOG_APPEND_TIME, RecordBatch, parse_header
from bytemq.protocol.records.builder import with_records
from bytemq.protocol.records.compression import Bytes, compress, decompress
from bytemq.protocol.records.control import parse_end_transaction
from bytemq.protocol.records.offset_map import OffsetMap
from bytemq.protocol.records.reader import iter_records
from bytemq.protocol.records.walk_codes import OK
from bytemq.storage.manifests.manifest import SegmentInfo
from bytemq.storage.segments.batch_walk import batch_at
from bytemq.storage.segments.segment_builder import SegmentBuilder

if TYPE_CHECKING:
    from bytemq.protocol.records.offset_map import Selected

NO_HORIZON = -1


async def clean(job: CleanLog, space: Workspace) -> CleanedLog:
    """Raises Corrupt, NotFound and Unavailable of the store."""
    cleaning = _Cleaning(job, space)
    end_offset = await cleaning.fill()
    return await cleaning.copy(end_offset)


class _Cleaning:
    def __init__(self, job: CleanLog, space: Workspace) -> None:
        self._job = job
        self._space = space
        self._newest = OffsetMap(job.map_bytes, job.load_factor, os.urandom(16))
        self._unfit: int | None = None
        """Base offset of a batch with more keys than the whole table has room for: it stays as it is."""
        self._read_records = self._kept_records = self._raw_batches = 0

    async def fill(self) -> int:
        """Puts the dirty part's keys into the table; the offset up to which there was room."""
        first_dirty = end_offset = self._job.first_dirty_offset
        ended_later = (one for one in self._job.aborted if one.last_offset >= first_dirty)
        transactions = CleanedTransactions(ended_later)
        for segment in self._job.segments:
            if segment.last_offset < first_dirty:
                end_offset = segment.last_offset + 1
                continue
            async for piece in pieces_of(self._space.store, segment, self._job.chunk_bytes):
                if not self._put(piece, transactions):
                    if end_offset > first_dirty:
                        return end_offset
                    self._unfit = piece.base_offset
                    return piece.next_offset
                end_offset = piece.next_offset
            end_offset = segment.last_offset + 1
        return end_offset

    def _put(self, piece: Piece, transactions: CleanedTransactions) -> bool:
        """False when the table is full."""
        if piece.batch is None:
            return True
        batch = parse_header(piece.view)
        if batch.is_control or transactions.is_aborted(batch):
            return True
        records = self._opened(batch)
        if records is None:
            return True
        code, complete = self._newest.put(records, batch.record_count, batch.base_offset, batch.last_offset_delta)
        return complete or code != OK

    def _opened(self, batch: RecordBatch) -> Bytes | None:
        """The records, decompressed; None when they cannot be."""
        try:
            return decompress(batch.compression, batch.records)
        except KafkaError:
            return None

    async def copy(self, end_offset: int) -> CleanedLog:
        """Writes what stays of everything below `end_offset`, and the rest of the segment that it falls into."""
        job = self._job
        replaced = tuple(segment for segment in job.segments if segment.base_offset < end_offset)
        transactions = CleanedTransactions(job.aborted)
        written: list[SegmentInfo] = []
        output = _Output(job, self._space, replaced[0].base_offset, written, is_cleaned=True)
        for segment in replaced:
            async for piece in pieces_of(self._space.store, segment, job.chunk_bytes):
                if piece.base_offset >= end_offset:
                    if output.is_cleaned:
                        await output.end(end_offset)
                        output = _Output(job, self._space, end_offset, written, is_cleaned=False)
                    await output.add(Kept(piece), segment)
                    continue
                kept = self._kept(piece, transactions, end_offset)
                if kept is not None:
                    await output.add(kept, segment)
        await output.end(replaced[-1].last_offset + 1)
        stats = CleaningStats(
            sum(segment.size_bytes for segment in replaced),
            sum(segment.size_bytes for segment in written),
            self._read_records,
            self._kept_records,
            len(self._newest),
            self._raw_batches,
        )
        return CleanedLog(replaced, tuple(written), end_offset, stats)

    def _kept(self, piece: Piece, transactions: CleanedTransactions, end_offset: int) -> Kept | None:
        """What stays of a piece."""
        if piece.batch is None:
            self._raw_batches += 1
            return Kept(piece)
        batch = parse_header(piece.view)
        if batch.is_control:
            kept = self._kept_marker(piece, batch, transactions)
        elif transactions.is_aborted(batch):
            kept = None
        else:
            kept = self._kept_records_of(piece, batch)
        if kept is None and batch.next_offset == end_offset:
            return Kept(_header_of(batch))  # where a log ends can be read from its last batch
        return kept

    def _kept_marker(self, piece: Piece, batch: RecordBatch, transactions: CleanedTransactions) -> Kept | None:
        horizon_ms = batch.delete_horizon_ms
        try:
            record = next(iter_records(batch), None)
            is_marker = record is not None and parse_end_transaction(record) is not None
        except (KafkaError, Corrupt):
            return self._raw(piece)
        if record is None:
            return None
        if not is_marker or not transactions.is_empty_before(batch):
            return Kept(piece)
        if horizon_ms is None:
            return self._with_horizon(batch, _shifted, batch.records, (batch.record_count,))
        return Kept(piece, horizon_ms) if self._job.now_ms < horizon_ms else None

    def _kept_records_of(self, piece: Piece, batch: RecordBatch) -> Kept | None:
        records = self._opened(batch)
        if records is None or batch.base_offset == self._unfit:
            return self._raw(piece)
        horizon_ms = batch.delete_horizon_ms
        drop_tombstones = horizon_ms is not None and self._job.now_ms >= horizon_ms
        arguments = batch.record_count, batch.base_offset, batch.last_offset_delta, drop_tombstones
        code, count, tombstones, newest_delta, selected = self._newest.select(records, *arguments, 0)
        if code != OK:
            return self._raw(piece)
        self._read_records += batch.record_count
        self._kept_records += count
        if not count:
            return None
        if tombstones and horizon_ms is None:
            return self._with_horizon(batch, self._newest.select, records, arguments)
        horizon_ms = horizon_ms if tombstones and horizon_ms is not None else NO_HORIZON
        kept = Kept(piece, horizon_ms)
        if selected is not None:
            kept = _rebuilt(batch, selected, count, batch.base_timestamp, newest_delta, batch.attributes, horizon_ms)
        if can_be_merged(batch):
            newest_ms = batch.base_timestamp + newest_delta
            kept = kept._replace(open=OpenBatch(batch, records if selected is None else selected, count, newest_ms))
        return kept

    def _with_horizon(
        self, batch: RecordBatch, select: Callable[..., Selected], records: Bytes, arguments: tuple[int, ...]
    ) -> Kept:
        """The same once more: the horizon is kept where the base timestamp was, so that timestamps shift (KIP-534)."""
        horizon_ms = self._job.now_ms + self._job.delete_retention_ms
        _, count, _, newest_delta, selected = select(records, *arguments, batch.base_timestamp - horizon_ms)
        attributes = batch.attributes | DELETE_HORIZON_FLAG
        return _rebuilt(
            batch, records if selected is None else selected, count, horizon_ms, newest_delta, attributes, horizon_ms
        )

    def _raw(self, piece: Piece) -> Kept:
        self._raw_batches += 1
        return Kept(piece)


class Kept(NamedTuple):
    piece: Piece
    horizon_ms: int = NO_HORIZON
    """When something of it may go."""
    open: OpenBatch | None = None
    """The same, where it may be merged with others."""


def _rebuilt(
    batch: RecordBatch,
    records: Bytes,
    count: int,
    base_timestamp: int,
    newest_delta: int,
    attributes: int,
    horizon_ms: int,
) -> Kept:
    is_append_time = batch.timestamp_type == LOG_APPEND_TIME
    rebuilt = with_records(
        batch,
        compress(batch.compression, records),
        count,
        base_timestamp=base_timestamp,
        max_timestamp=batch.max_timestamp if is_append_time else base_timestamp + newest_delta,
        attributes=attributes,
    )
    return Kept(_as_piece(rebuilt), horizon_ms)


def _shifted(records: Bytes, count: int, timestamps: int) -> Selected:
    return offset_map.shift(records, count, timestamps, 0)


def _header_of(batch: RecordBatch) -> Piece:
    attributes = batch.attributes & ~(CODEC_MASK | DELETE_HORIZON_FLAG)
    timestamps = {"base_timestamp": batch.base_timestamp, "max_timestamp": batch.max_timestamp}
    return _as_piece(with_records(batch, b"", 0, attributes=attributes, **timestamps))


def _as_piece(data: bytearray) -> Piece:
    view = memoryview(data)
    batch = batch_at(view, 0)
    assert batch is not None, "just built"
    return Piece(batch.base_offset, batch.last_offset + 1, view, batch)


class _Output:
    """Files in a row, each as large as a segment may be."""

    def __init__(
        self, job: CleanLog, space: Workspace, base_offset: int, written: list[SegmentInfo], *, is_cleaned: bool
    ) -> None:
        self.is_cleaned = is_cleaned
        self._job = job
        self._space = space
        self._base_offset = base_offset
        self._written = written
        self._builder = SegmentBuilder(job.chunk_bytes)
        self._created_ms = 0
        self._horizon_ms = NO_HORIZON
        self._merger = Merger()
        self._waiting: tuple[Kept, SegmentInfo] | None = None
        """The newest that is in the merger, which goes out as it is where it stays alone."""

    async def add(self, kept: Kept, source: SegmentInfo) -> None:
        if kept.open is None or not self._merger.admits(kept.open):
            await self._add_merged()
        if kept.open is None:
            await self._add(kept, source)
        else:
            self._merger.add(kept.open)
            self._waiting = kept, source

    async def _add_merged(self) -> None:
        """What was held back."""
        if self._waiting is not None:
            (kept, source), self._waiting = self._waiting, None
            merged = self._merger.take()
            await self._add(kept if merged is None else Kept(_as_piece(merged)), source)

    async def _add(self, kept: Kept, source: SegmentInfo) -> None:
        piece = kept.piece
        if self._builder.size_bytes and self._builder.size_bytes + len(piece.view) > self._job.segment_bytes:
            await self._finish()
        if not self._builder.size_bytes:
            self._created_ms = source.created_ms
        if piece.batch is None:
            self._builder.add_damaged(piece.base_offset, piece.next_offset, piece.view)
        else:
            self._builder.add(piece.batch, piece.view)
        if kept.horizon_ms != NO_HORIZON:
            self._horizon_ms = min(self._horizon_ms, kept.horizon_ms) if self._horizon_ms > 0 else kept.horizon_ms

    async def end(self, next_offset: int) -> None:
        """The last file answers for all offsets below `next_offset`. Raises Corrupt where nothing is left of those."""
        await self._add_merged()
        if not self._builder.size_bytes:
            raise Corrupt(f"the end of the log before offset {next_offset} is missing")
        self._builder.last_offset = next_offset - 1
        await self._finish()

    async def _finish(self) -> None:
        job = self._job
        name = f"{job.directory}{self._base_offset:020d}{job.suffix}-{len(self._written):x}.log"
        info, data = self._builder.finish(
            name,
            self._base_offset,
            created_ms=self._created_ms,
            is_cleaned=self.is_cleaned,
            delete_horizon_ms=self._horizon_ms,
        )
        self._builder = SegmentBuilder(job.chunk_bytes)  # before: what it held is written now, and is all that is held
        self._horizon_ms = NO_HORIZON
        self._base_offset = info.last_offset + 1
        await self._space.create(name, data)
        self._written.append(info)
