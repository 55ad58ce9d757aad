"""Batches as a cleaning leaves them: with fewer records, with a horizon, with nothing but a header. Pure.

Owns: their bytes. Must not: decide which records stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bytemq.compaction.merging import OpenBatch
from bytemq.compaction.pieces import Piece
from bytemq.protocol.records import offset_map
from bytemq.protocol.records.batch import CODEC_MASK, DELETE_HORIZON_FLAG, LOG_APPEND_TIME, RecordBatch
from bytemq.protocol.records.builder import with_records
from bytemq.protocol.records.compression import Bytes, compress
from bytemq.storage.segments.batch_walk import batch_at

if TYPE_CHECKING:
    from bytemq.protocol.records.offset_map import Selected

NO_HORIZON = -1


class Kept(NamedTuple):
    piece: Piece
    horizon_ms: int = NO_HORIZON
    """When something of it may go."""
    open: OpenBatch | None = None
    """The same, where it may be merged with others."""


def rebuilt(
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
    return Kept(as_piece(rebuilt), horizon_ms)


def shifted(records: Bytes, count: int, timestamps: int) -> Selected:
    return offset_map.shift(records, count, timestamps, 0)


def header_of(batch: RecordBatch) -> Piece:
    attributes = batch.attributes & ~(CODEC_MASK | DELETE_HORIZON_FLAG)
    timestamps = {"base_timestamp": batch.base_timestamp, "max_timestamp": batch.max_timestamp}
    return as_piece(with_records(batch, b"", 0, attributes=attributes, **timestamps))


def as_piece(data: bytearray) -> Piece:
    view = memoryview(data)
    batch = batch_at(view, 0)
    assert batch is not None, "just built"
    return Piece(batch.base_offset, batch.last_offset + 1, view, batch)


def piece_of(batch: RecordBatch) -> Piece:
    """A whole batch that was checked."""
    stored = batch_at(batch.view, 0)
    assert stored is not None, "its header was parsed"
    return Piece(batch.base_offset, batch.next_offset, batch.view, stored)


def earlier(one_ms: int, other_ms: int) -> int:
    """Of two horizons, either of which may be none."""
    return max(one_ms, other_ms) if NO_HORIZON in (one_ms, other_ms) else min(one_ms, other_ms)
