"""From a unit of a Parquet file back to a segment's bytes.

Owns: merging a row group's records with the batches of the companion, in the order of offsets, with the index of the
result. Must not: keep or publish anything.

The batches are uncompressed and cut by size; where the original had several small ones, one holds their records if
nothing but the border told them apart.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from crc32c import crc32c

from bytemq.protocol.records.batch import RecordBatch
from bytemq.protocol.records.columns import Columns, encode_batches
from bytemq.storage.parquet.record_schema import SCHEMA, record_columns
from bytemq.storage.parquet.sources import companion_batches, opened_parquet, read_companion
from bytemq.storage.parquet.units import batches_of, in_order, rows_of
from bytemq.storage.segments.segment_format import encode_footer
from bytemq.storage.tables.companion import Unit
from bytemq.storage.wal.extents import Chunk, SparseIndex

Piece = tuple[memoryview | bytearray, int, int]
"""Bytes of whole batches, their first offset, their maximum timestamp."""
_NOT_READ = ("partition", "timestamp")
_COLUMNS = [name for name in SCHEMA.names if name not in _NOT_READ]


def restored(
    parquet: Path, companion: Path, unit_number: int, batch_bytes: int
) -> list[bytes | bytearray | memoryview]:
    """The bytes of a segment, footer and all, that holds this unit. Raises Corrupt, OSError."""
    described, batches = read_companion(companion)
    unit = described.units[unit_number]
    raw = batches_of(unit, list(companion_batches(batches)))
    pieces = list(_merged(parquet, unit, raw, batch_bytes))
    index = SparseIndex()
    position = 0
    for number, (data, base_offset, max_timestamp) in enumerate(pieces):
        after = pieces[number + 1][1] if number + 1 < len(pieces) else unit.next_offset
        index.append(Chunk(base_offset, after, position, len(data), max_timestamp), crc32c(data), verified=True)
        position += len(data)
    return [*(piece[0] for piece in pieces), encode_footer(index, ())]


def _merged(parquet: Path, unit: Unit, raw: Sequence[RecordBatch], batch_bytes: int) -> Iterator[Piece]:
    with opened_parquet(parquet) as file:
        table = rows_of(file, unit, _COLUMNS)
    columns = record_columns(table)
    for part in in_order(table.column("offset").to_numpy(), raw):
        if isinstance(part, RecordBatch):
            yield _as_it_is(part)
        else:
            yield from _encoded(columns, part.start, part.stop, batch_bytes)


def _encoded(columns: Columns, first: int, stop: int, batch_bytes: int) -> Iterator[Piece]:
    row = first
    for batch in encode_batches(columns, first, stop, batch_bytes):
        (base_offset,) = struct.unpack_from(">q", batch.data)
        yield batch.data, base_offset, batch.max_timestamp
        row = batch.next_row
    assert row == stop or first >= stop


def _as_it_is(batch: RecordBatch) -> Piece:
    return batch.view, batch.base_offset, batch.max_timestamp
