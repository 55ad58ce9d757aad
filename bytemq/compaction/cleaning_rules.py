"""What stays in a cleaning: Kafka's rules, for batches whatever file they are in.

Owns: the newest offset of each key of the dirty part, what is made of a batch, and the counts. Must not: read or write
a file, or fail because of what is in a record: what it cannot understand stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from bytemq.compaction.clean_log import CleanLog
from bytemq.compaction.cleaned_batches import NO_HORIZON, Kept, rebuilt, shifted
from bytemq.compaction.job import Workspace
from bytemq.compaction.merging import OpenBatch, can_be_merged
from bytemq.compaction.pieces import Piece
from bytemq.compaction.transactions import CleanedTransactions
from bytemq.errors import Corrupt
from bytemq.protocol.error_codes import KafkaError
from bytemq.protocol.records.batch import DELETE_HORIZON_FLAG, RecordBatch, parse_header
from bytemq.protocol.records.compression import Bytes, decompress
from bytemq.protocol.records.control import parse_end_transaction
from bytemq.protocol.records.offset_map import OffsetMap
from bytemq.protocol.records.reader import iter_records
from bytemq.protocol.records.walk_codes import OK

if TYPE_CHECKING:
    from bytemq.protocol.records.offset_map import Selected


class CleaningRules:
    def __init__(self, job: CleanLog) -> None:
        self.newest = OffsetMap(job.map_bytes, job.load_factor, os.urandom(16))
        self.read_records = self.kept_records = self.raw_batches = 0
        self._job = job
        self._unfit: int | None = None
        """Base offset of a batch with more keys than the whole table has room for: it stays as it is."""

    def put(self, piece: Piece, transactions: CleanedTransactions, end_offset: int) -> tuple[int, bool]:
        """Puts the keys of a piece of the dirty part, which reaches to `end_offset` so far, into the table. Where it
        ends now, and whether the table is full.
        """
        if self._put(piece, transactions):
            return piece.next_offset, False
        if end_offset > self._job.first_dirty_offset:
            return end_offset, True
        self._unfit = piece.base_offset
        return piece.next_offset, True

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
        code, complete = self.newest.put(records, batch.record_count, batch.base_offset, batch.last_offset_delta)
        return complete or code != OK

    def _opened(self, batch: RecordBatch) -> Bytes | None:
        """The records, decompressed; None when they cannot be."""
        try:
            return decompress(batch.compression, batch.records)
        except KafkaError:
            return None

    def kept(self, piece: Piece, transactions: CleanedTransactions) -> Kept | None:
        """What stays of a piece."""
        if piece.batch is None:
            self.raw_batches += 1
            return Kept(piece)
        batch = parse_header(piece.view)
        if batch.is_control:
            return self._kept_marker(piece, batch, transactions)
        if transactions.is_aborted(batch):
            return None
        return self._kept_records_of(piece, batch)

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
            return self._with_horizon(batch, shifted, batch.records, (batch.record_count,))
        return Kept(piece, horizon_ms) if self._job.now_ms < horizon_ms else None

    def _kept_records_of(self, piece: Piece, batch: RecordBatch) -> Kept | None:
        records = self._opened(batch)
        if records is None or batch.base_offset == self._unfit:
            return self._raw(piece)
        horizon_ms = batch.delete_horizon_ms
        drop_tombstones = horizon_ms is not None and self._job.now_ms >= horizon_ms
        arguments = batch.record_count, batch.base_offset, batch.last_offset_delta, drop_tombstones
        code, count, tombstones, newest_delta, selected = self.newest.select(records, *arguments, 0)
        if code != OK:
            return self._raw(piece)
        self.read_records += batch.record_count
        self.kept_records += count
        if not count:
            return None
        if tombstones and horizon_ms is None:
            return self._with_horizon(batch, self.newest.select, records, arguments)
        horizon_ms = horizon_ms if tombstones and horizon_ms is not None else NO_HORIZON
        kept = Kept(piece, horizon_ms)
        if selected is not None:
            kept = rebuilt(batch, selected, count, batch.base_timestamp, newest_delta, batch.attributes, horizon_ms)
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
        return rebuilt(
            batch, records if selected is None else selected, count, horizon_ms, newest_delta, attributes, horizon_ms
        )

    def _raw(self, piece: Piece) -> Kept:
        self.raw_batches += 1
        return Kept(piece)


class Pass(NamedTuple):
    """One of the two passes over a log: what it works with. Transactions are shown to it in the order of offsets."""

    job: CleanLog
    space: Workspace
    rules: CleaningRules
    transactions: CleanedTransactions
