"""Records of many batches as columns, and batches made of them again: the border between Kafka's format and tables.

Owns: which batches become columns, what of a batch each record keeps, and how records are cut into batches again.
Pure; must not know Arrow or Parquet, whose layout the columns have. The work on single records is native where the
package could be compiled.

Every record keeps what a consumer or a broker may see of it: offset, timestamp and its type, key, value, headers,
producer id, epoch and sequence, the transactional mark, leader epoch, and the delete horizon of a compacted batch.
The codec and the borders of batches are not kept.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from bytemq.errors import Corrupt
from bytemq.protocol.error_codes import KafkaError
from bytemq.protocol.records import batch as header
from bytemq.protocol.records.batch import RecordBatch
from bytemq.protocol.records.builder import assemble
from bytemq.protocol.records.columns_pure import Buffer, Part, Sizes
from bytemq.protocol.records.compression import MOST_DECOMPRESSED_BYTES, decompress
from bytemq.protocol.records.walk_codes import OK

try:
    from bytemq.protocol.records._columns import encode, fill, measure

    IS_NATIVE = True
except ImportError:  # no compiler when the package was installed: the same, slower
    from bytemq.protocol.records.columns_pure import encode, fill, measure

    IS_NATIVE = False

_AFTER_CRC = struct.Struct(">hiqqqhii")
_INT32_MAX = (1 << 31) - 1


class Columns(NamedTuple):
    """Buffers in Arrow's layout. A validity may be None when nothing is null, `horizon` when there is none."""

    offset: Buffer
    timestamp_ms: Buffer
    timestamp_type: Buffer
    """A byte a record: CREATE_TIME or LOG_APPEND_TIME."""
    key_validity: Buffer | None
    key_offsets: Buffer
    key_data: Buffer
    value_validity: Buffer | None
    value_offsets: Buffer
    value_data: Buffer
    headers_offsets: Buffer
    header_key_offsets: Buffer
    header_key_data: Buffer
    header_value_validity: Buffer | None
    header_value_offsets: Buffer
    header_value_data: Buffer
    producer_id: Buffer
    producer_epoch: Buffer
    sequence: Buffer
    transactional: Buffer
    """A bitmap."""
    leader_epoch: Buffer
    horizon_validity: Buffer | None
    horizon_ms: Buffer | None


class RecordColumns:
    """Collects batches until their columns are taken."""

    def __init__(self, max_decompressed_bytes: int = MOST_DECOMPRESSED_BYTES) -> None:
        self._max_decompressed_bytes = max_decompressed_bytes
        self._parts: list[Part] = []
        self._sizes: Sizes = (0, 0, 0, 0, 0, 0)

    @property
    def records(self) -> int:
        return self._sizes[0]

    @property
    def headers(self) -> int:
        return self._sizes[3]

    @property
    def size_bytes(self) -> int:
        """About what the columns will take: 60 bytes a record for all that is not key, value or header."""
        return _column_bytes(self._sizes)

    def add(self, batch: RecordBatch) -> bool:
        """False, and nothing is added, for a batch whose records cannot be columns: malformed, more than may be
        decompressed, or more than that as columns, offsets not ascending, header keys that are not UTF-8. Its bytes
        must stay until the columns are taken.
        """
        try:
            data = decompress(batch.compression, batch.records, self._max_decompressed_bytes)
        except KafkaError:
            return False
        code, sizes = measure(data, batch.record_count, batch.last_offset_delta)
        if code != OK or _column_bytes(sizes) > self._max_decompressed_bytes:
            return False
        total = tuple(a + b for a, b in zip(self._sizes, sizes, strict=True))
        if max(total) > _INT32_MAX:
            return False
        self._sizes = (total[0], total[1], total[2], total[3], total[4], total[5])
        self._parts.append(
            (
                data,
                batch.record_count,
                batch.base_offset,
                batch.leader_epoch,
                batch.attributes,
                batch.base_timestamp,
                batch.max_timestamp,
                batch.producer_id,
                batch.producer_epoch,
                batch.base_sequence,
            )
        )
        return True

    def take(self) -> Columns:
        """The columns of what was added since the last time."""
        columns = Columns(*fill(self._parts, self._sizes))
        self._parts, self._sizes = [], (0, 0, 0, 0, 0, 0)
        return columns


def _column_bytes(sizes: Sizes) -> int:
    records, keys, values, headers, header_keys, header_values = sizes
    return 60 * records + keys + values + 8 * headers + header_keys + header_values


class EncodedBatch(NamedTuple):
    data: bytearray
    next_row: int
    max_timestamp: int


def encode_batches(columns: Columns, first: int, stop: int, max_bytes: int) -> Iterator[EncodedBatch]:
    """Uncompressed batches of the rows [first, stop), about `max_bytes` each; a larger record has one of its own.

    Raises Corrupt for columns that contradict themselves.
    """
    offset, producer_id = memoryview(columns.offset).cast("B"), memoryview(columns.producer_id).cast("B")
    while first < stop:
        try:
            after, base_timestamp, max_timestamp, body = encode(tuple(columns), first, stop, max_bytes)
        except ValueError as error:
            raise Corrupt(f"row {first} and what follows it: {error}") from error
        base_offset, last_offset = _int64(offset, first), _int64(offset, after - 1)
        (sequence,) = struct.unpack_from("<i", columns.sequence, 4 * first)
        (epoch,) = struct.unpack_from("<h", columns.producer_epoch, 2 * first)
        (leader_epoch,) = struct.unpack_from("<i", columns.leader_epoch, 4 * first)
        after_crc = _AFTER_CRC.pack(
            _attributes(columns, first),
            last_offset - base_offset,
            base_timestamp,
            max_timestamp,
            _int64(producer_id, first),
            epoch,
            sequence,
            after - first,
        )
        yield EncodedBatch(assemble(base_offset, leader_epoch, after_crc, body), after, max_timestamp)
        first = after


def _attributes(columns: Columns, row: int) -> int:
    attributes = header.TIMESTAMP_TYPE_FLAG if memoryview(columns.timestamp_type).cast("B")[row] else 0
    if _bit(columns.transactional, row):
        attributes |= header.TRANSACTIONAL_FLAG
    if columns.horizon_ms is not None and (columns.horizon_validity is None or _bit(columns.horizon_validity, row)):
        attributes |= header.DELETE_HORIZON_FLAG
    return attributes


def _bit(bitmap: Buffer, row: int) -> int:
    return memoryview(bitmap).cast("B")[row >> 3] >> (row & 7) & 1


def _int64(values: memoryview, row: int) -> int:
    return int(struct.unpack_from("<q", values, 8 * row)[0])
