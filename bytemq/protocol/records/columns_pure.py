"""Records as columns and back, in Python: the twin of _columns.c where that was not compiled.

Owns the layout: 22 buffers as Apache Arrow lays columns out (little-endian, 32-bit offsets, validity bitmaps whose
bit n is row n), in the order of `columns.Columns`. Must not: be fast; `_columns.c` is.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence

from bytemq.protocol.records.batch import DELETE_HORIZON_FLAG, TIMESTAMP_TYPE_FLAG, TRANSACTIONAL_FLAG
from bytemq.protocol.records.builder import write_bytes, write_varint
from bytemq.protocol.records.walk_codes import BAD_HEADER_KEY, BAD_OFFSET_DELTA, OK, TRAILING_BYTES
from bytemq.protocol.records.walk_pure import parse

Buffer = bytes | bytearray | memoryview
Sizes = tuple[int, int, int, int, int, int]
"""Records, bytes of keys, bytes of values, headers, bytes of their keys, bytes of their values."""
Part = tuple[Buffer, int, int, int, int, int, int, int, int, int]
"""Decompressed records, count, base offset, leader epoch, attributes, base timestamp, maximum timestamp, producer id,
producer epoch, base sequence."""

_SEQUENCE_MASK = 0x7FFFFFFF
_INT64_MASK = (1 << 64) - 1
_NOTHING: Sizes = (0, 0, 0, 0, 0, 0)
_WIDTHS = {0: 8, 1: 8, 2: 1, 15: 8, 16: 2, 17: 4, 19: 4, 21: 8}
"""Bytes of a row, by the number of the column."""
_BITMAPS = frozenset({3, 6, 18, 20})
_OFFSETS = frozenset({4, 7, 9})
_MAY_BE_ABSENT = frozenset({3, 6, 12, 20, 21})


def measure(data: Buffer, count: int, last_delta: int) -> tuple[int, Sizes]:
    """Check that `data` is `count` records with ascending offset deltas in 0..last_delta and headers whose keys are
    UTF-8.

    Returns (code, sizes); with a code other than OK the sizes are zeros. Which code it is may differ between the twins.
    """
    sizes = [0] * 6
    position, least_delta = 0, 0
    for _ in range(count):
        code, position, parsed = parse(data, position, 1)
        if code != OK:
            return code, _NOTHING
        _, delta, key, value, headers = parsed[0]
        if not least_delta <= delta <= last_delta:
            return BAD_OFFSET_DELTA, _NOTHING
        least_delta = delta + 1
        sizes[0] += 1
        sizes[1] += len(key or b"")
        sizes[2] += len(value or b"")
        sizes[3] += len(headers)
        for name, content in headers:
            try:
                sizes[4] += len(name.encode())
            except UnicodeEncodeError:
                return BAD_HEADER_KEY, _NOTHING
            sizes[5] += len(content or b"")
    if position != len(data):
        return TRAILING_BYTES, _NOTHING
    return OK, (sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5])


def fill(parts: list[Part], sizes: Sizes) -> tuple[bytes, ...]:
    """The columns of all records of batches that `measure` passed; `sizes` are the sums of what it said."""
    offset, timestamp, producer_id, horizon = array("q"), array("q"), array("q"), array("q")
    producer_epoch, sequence, leader_epoch, headers_offsets = array("h"), array("i"), array("i"), array("i", [0])
    timestamp_type = bytearray()
    transactional: list[bool] = []
    has_horizon: list[bool] = []
    key, value, header_key, header_value = _Binary(), _Binary(), _Binary(), _Binary()
    for (
        data,
        count,
        base,
        epoch,
        attributes,
        base_timestamp,
        max_timestamp,
        producer,
        its_epoch,
        base_sequence,
    ) in parts:
        code, _, parsed = parse(data, 0, count)
        if code != OK:
            raise ValueError("the batches are not those that were measured")
        stamped = bool(attributes & TIMESTAMP_TYPE_FLAG)
        for timestamp_delta, delta, record_key, record_value, headers in parsed:
            offset.append(base + delta)
            timestamp.append(max_timestamp if stamped else _signed_64(base_timestamp + timestamp_delta))
            timestamp_type.append(stamped)
            key.append(record_key)
            value.append(record_value)
            for name, content in headers:
                header_key.append(name.encode())
                header_value.append(content)
            headers_offsets.append(len(header_key.valid))
            producer_id.append(producer)
            producer_epoch.append(its_epoch)
            sequence.append(base_sequence if base_sequence < 0 else (base_sequence + delta) & _SEQUENCE_MASK)
            transactional.append(bool(attributes & TRANSACTIONAL_FLAG))
            leader_epoch.append(epoch)
            has_horizon.append(bool(attributes & DELETE_HORIZON_FLAG))
            horizon.append(base_timestamp if has_horizon[-1] else 0)
    if len(offset) != sizes[0]:
        raise ValueError("the batches are not those that were measured")
    return (
        _packed(offset),
        _packed(timestamp),
        bytes(timestamp_type),
        *key.columns(),
        *value.columns(),
        _packed(headers_offsets),
        *header_key.columns()[1:],
        *header_value.columns(),
        _packed(producer_id),
        _packed(producer_epoch),
        _packed(sequence),
        _bitmap(transactional),
        _packed(leader_epoch),
        _bitmap(has_horizon),
        _packed(horizon),
    )


def encode(columns: Sequence[Buffer | None], first: int, stop: int, max_bytes: int) -> tuple[int, int, int, bytes]:
    """One batch of the rows from `first` on: those that may share a batch, within `max_bytes` but at least one.

    A validity may be None (no nulls), and so may the columns of delete horizons (none). Returns (row after the last
    one in it, base timestamp, maximum timestamp, the records uncompressed). Raises ValueError for columns that have
    fewer rows, or that contradict themselves.
    """
    rows = _Rows(columns)
    if not 0 <= first < stop <= min(rows.count, _SEQUENCE_MASK):
        raise ValueError("no such rows")
    base_offset = rows.int64(0, first)
    horizon = rows.horizon(first)
    base_timestamp = rows.int64(1, first) if horizon is None else horizon
    max_timestamp = rows.int64(1, first)
    out = bytearray()
    row = first
    while row < stop:
        if not rows.is_sound(first, row):
            raise ValueError("the columns contradict themselves")
        if row > first and not rows.belong_together(first, row):
            break
        record = rows.record(row, base_timestamp, base_offset)
        if row > first and len(out) + len(record) > max_bytes:
            break
        out += record
        max_timestamp = max(max_timestamp, rows.int64(1, row))
        row += 1
    return row, base_timestamp, max_timestamp, bytes(out)


class _Binary:
    def __init__(self) -> None:
        self.valid: list[bool] = []
        self.offsets = array("i", [0])
        self.data = bytearray()

    def append(self, value: bytes | None) -> None:
        self.valid.append(value is not None)
        self.data += value or b""
        self.offsets.append(len(self.data))

    def columns(self) -> tuple[bytes, bytes, bytes]:
        return _bitmap(self.valid), _packed(self.offsets), bytes(self.data)


class _Rows:
    """Rows of columns, one value at a time."""

    def __init__(self, columns: Sequence[Buffer | None]) -> None:
        self._columns = [memoryview(b"" if column is None else column).cast("B") for column in columns]
        self._absent = [column is None for column in columns]
        self.count = min(map(self._rows_in, range(len(columns))))

    def _rows_in(self, column: int) -> int:
        """For how many rows a column is long enough."""
        size_bytes = len(self._columns[column])
        if self._absent[column]:
            return _SEQUENCE_MASK if column in _MAY_BE_ABSENT else 0
        if column in _WIDTHS:
            return size_bytes // _WIDTHS[column]
        if column in _BITMAPS:
            return 8 * size_bytes
        return size_bytes // 4 - 1 if column in _OFFSETS else _SEQUENCE_MASK

    def is_sound(self, first: int, row: int) -> bool:
        """Whether all that a row refers to is there, and its offset is one that may follow the one before it."""
        offset = self.int64(0, row)
        if offset < 0 or (row > first and offset <= self.int64(0, row - 1)):
            return False
        if not (self._is_within(4, 5, row) and self._is_within(7, 8, row)):
            return False
        start, end = self.int32(9, row), self.int32(9, row + 1)
        if not 0 <= start <= end < _SEQUENCE_MASK:
            return False
        is_long_enough = self._absent[12] or 8 * len(self._columns[12]) >= end
        return start == end or (
            is_long_enough
            and min(len(self._columns[10]), len(self._columns[13])) >= 4 * (end + 1)
            and all(self._is_within(10, 11, h) and self._is_within(13, 14, h) for h in range(start, end))
        )

    def _is_within(self, offsets: int, data: int, row: int) -> bool:
        return 0 <= self.int32(offsets, row) <= self.int32(offsets, row + 1) <= len(self._columns[data])

    def int64(self, column: int, row: int) -> int:
        return int(struct.unpack_from("<q", self._columns[column], 8 * row)[0])

    def int32(self, column: int, row: int) -> int:
        return int(struct.unpack_from("<i", self._columns[column], 4 * row)[0])

    def int16(self, column: int, row: int) -> int:
        return int(struct.unpack_from("<h", self._columns[column], 2 * row)[0])

    def bit(self, column: int, row: int) -> bool:
        return self._absent[column] or bool(self._columns[column][row >> 3] >> (row & 7) & 1)

    def horizon(self, row: int) -> int | None:
        return self.int64(21, row) if not self._absent[21] and self.bit(20, row) else None

    def binary(self, validity: int | None, offsets: int, data: int, row: int) -> bytes | None:
        if validity is not None and not self.bit(validity, row):
            return None
        return bytes(self._columns[data][self.int32(offsets, row) : self.int32(offsets, row + 1)])

    def belong_together(self, first: int, row: int) -> bool:
        delta = self.int64(0, row) - self.int64(0, first)
        if (self._of_a_batch(row) != self._of_a_batch(first)) or delta >= _SEQUENCE_MASK:
            return False
        if self._columns[2][row] and self.int64(1, row) != self.int64(1, first):
            return False
        sequence = self.int32(17, first)
        return self.int32(17, row) == (sequence if sequence < 0 else (sequence + delta) & _SEQUENCE_MASK)

    def _of_a_batch(self, row: int) -> tuple[int | None, ...]:
        return (
            self.int64(15, row),
            self.int16(16, row),
            self.int32(19, row),
            self._columns[2][row],
            self.bit(18, row),
            self.horizon(row),
        )

    def record(self, row: int, base_timestamp: int, base_offset: int) -> bytearray:
        body = bytearray(1)  # attributes: unused in v2
        delta = 0 if self._columns[2][row] else _signed_64(self.int64(1, row) - base_timestamp)
        write_varint(body, delta)
        write_varint(body, self.int64(0, row) - base_offset)
        write_bytes(body, self.binary(3, 4, 5, row))
        write_bytes(body, self.binary(6, 7, 8, row))
        first, stop = self.int32(9, row), self.int32(9, row + 1)
        write_varint(body, stop - first)
        for header in range(first, stop):
            write_bytes(body, self.binary(None, 10, 11, header))
            write_bytes(body, self.binary(12, 13, 14, header))
        record = bytearray()
        write_varint(record, len(body))
        return record + body


def _packed(values: array[int]) -> bytes:
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def _bitmap(bits: list[bool]) -> bytes:
    packed = bytearray((len(bits) + 7) // 8)
    for position, is_set in enumerate(bits):
        packed[position >> 3] |= is_set << (position & 7)
    return bytes(packed)


def _signed_64(value: int) -> int:
    return ((value + (1 << 63)) & _INT64_MASK) - (1 << 63)
