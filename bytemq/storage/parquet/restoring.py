"""From a unit of a Parquet file back to a segment's bytes.

Owns: merging a row group's records with the batches of the companion, in the order of offsets, with the index of the
result. Must not: keep or publish anything.

The batches are uncompressed and cut by size; where the original had several small ones, one holds their records if
nothing but the border told them apart.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from crc32c import crc32c

from bytemq.protocol.records.batch import RecordBatch
from bytemq.protocol.records.columns import Columns, encode_batches
from bytemq.storage.parquet.record_schema import SCHEMA, record_columns
from bytemq.storage.parquet.units import OpenedTable, TableUnit, in_order
from bytemq.storage.segments.segment_format import encode_footer
from bytemq.storage.tables.companion import Unit
from bytemq.storage.wal.extents import Chunk, SparseIndex

Piece = tuple[memoryview | bytearray, int, int]
"""Bytes of whole batches, their first offset, their maximum timestamp."""
RESTORED_COLUMNS = [name for name in SCHEMA.names if name not in ("partition", "timestamp")]


def restore_unit(
    table: OpenedTable, unit: Unit, batch_bytes: int, write: Callable[[bytes | bytearray | memoryview], object]
) -> int:
    """Writes the bytes of a segment, footer and all, that holds this unit; how many there are before the footer.

    Raises Corrupt, and what `write` raises. Of the segment no more than a batch is in memory at once.
    """
    index = SparseIndex()
    position, before = 0, None
    for data, base_offset, max_timestamp in _merged(table.read(unit, RESTORED_COLUMNS), batch_bytes):
        if before is not None:
            _enter(index, before, base_offset)
        write(data)
        before = Chunk(base_offset, base_offset, position, len(data), max_timestamp), crc32c(data)
        position += len(data)
    if before is not None:
        _enter(index, before, unit.next_offset)
    write(encode_footer(index, ()))
    return position


def _enter(index: SparseIndex, piece: tuple[Chunk, int], next_offset: int) -> None:
    chunk, checksum = piece
    index.append(chunk._replace(next_offset=next_offset), checksum, verified=True)


def _merged(unit: TableUnit, batch_bytes: int) -> Iterator[Piece]:
    columns = record_columns(unit.rows)
    for part in in_order(unit.offsets, unit.batches):
        if isinstance(part, RecordBatch):
            yield part.view, part.base_offset, part.max_timestamp
        else:
            yield from _encoded(columns, part, batch_bytes)


def _encoded(columns: Columns, rows: range, batch_bytes: int) -> Iterator[Piece]:
    for batch in encode_batches(columns, rows.start, rows.stop, batch_bytes):
        (base_offset,) = struct.unpack_from(">q", batch.data)
        yield batch.data, base_offset, batch.max_timestamp
