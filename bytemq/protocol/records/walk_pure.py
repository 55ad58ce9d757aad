"""Walking the (decompressed) records of a batch, in Python: the twin of _walk.c where that was not compiled.

Owns the record format: varints, lengths, headers. Results are numbers and tuples, the same from both; `walk` turns
them into errors.
"""

from __future__ import annotations

from collections.abc import Callable

from bytemq.protocol.records.batch import NO_TIMESTAMP, InvalidBatch, parse_header
from bytemq.protocol.records.walk_codes import (
    BAD_HEADER_COUNT,
    BAD_HEADER_KEY,
    BAD_RECORD_BODY,
    BAD_RECORD_LENGTH,
    BAD_VARINT,
    MISSING_KEY,
    OK,
    TRAILING_BYTES,
)

Buffer = bytes | bytearray | memoryview
Parsed = tuple[int, int, bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]
"""Timestamp delta, offset delta, key, value, headers."""
KeyValue = tuple[bytes | None, bytes | None]

_INT64_SIGN = 1 << 63
_INT64_MASK = (1 << 64) - 1


class _Malformed(Exception):
    def __init__(self, code: int) -> None:
        self.code = code


def walk(
    data: Buffer, count: int, base_timestamp: int, require_keys: bool
) -> tuple[int, int, int, int, bool, int, int]:
    """Check that `data` is `count` records and nothing else.

    Returns (code, records walked, maximum timestamp, offset delta of the first record that has it, whether the
    offset deltas are 0, 1, 2, ..., minimum timestamp, which is -1 if no record has one, bytes of the longest record
    without the number that says so). With a code other than OK the second is the index of the bad record, and what
    follows is about those before it.
    """
    view = memoryview(data)
    max_timestamp, delta_of_max, dense, min_timestamp = base_timestamp, 0, True, NO_TIMESTAMP
    position = longest = 0
    for index in range(count):
        try:
            length, start = _read_record_length(view, position)
            record = _read_body(view[start : start + length])
            position = start + length
            if require_keys and record[2] is None:
                raise _Malformed(MISSING_KEY)
        except _Malformed as malformed:
            return malformed.code, index, max_timestamp, delta_of_max, dense, min_timestamp, longest
        timestamp = _signed_64(base_timestamp + record[0])
        if index == 0 or timestamp > max_timestamp:
            max_timestamp, delta_of_max = timestamp, record[1]
        if timestamp != NO_TIMESTAMP and (min_timestamp == NO_TIMESTAMP or timestamp < min_timestamp):
            min_timestamp = timestamp
        dense = dense and record[1] == index
        longest = max(longest, length)
    code = OK if position == len(view) else TRAILING_BYTES
    return code, max(count, 0), max_timestamp, delta_of_max, dense, min_timestamp, longest


def find(
    data: Buffer, count: int, base_timestamp: int, least_timestamp: int, least_delta: int
) -> tuple[int, tuple[int, int] | None]:
    """The first record at or above a timestamp and an offset delta: (code, (offset delta, timestamp) or None).

    `least_delta` must not be negative. Records after the one found are not looked at.
    """
    view = memoryview(data)
    position = 0
    for _ in range(count):
        try:
            record, position = _read_record(view, position)
        except _Malformed as malformed:
            return malformed.code, None
        timestamp = _signed_64(base_timestamp + record[0])
        if timestamp >= least_timestamp and record[1] >= least_delta:
            return OK, (record[1], timestamp)
    return OK, None


def parse(data: Buffer, position: int, most: int) -> tuple[int, int, list[Parsed]]:
    """At most `most` records from `position` on: (code, position after the last good one or inside the bad one,
    records).

    Only with the code OK does the position mean anything.
    """
    view = memoryview(data)
    records: list[Parsed] = []
    for _ in range(most):
        try:
            record, position = _read_record(view, position)
        except _Malformed as malformed:
            return malformed.code, position, records
        records.append(record)
    return OK, position, records


def plain_records(data: Buffer, position: int) -> tuple[int, int, list[KeyValue]]:
    """Keys and values of whole batches in a row from `position` on: as far as they are neither compressed nor control
    nor transactional batches, and their records can be read. (Position after them, offset after them, records).

    The offset is -1 where the first batch is none of these. No checksum is compared.
    """
    view = memoryview(data)
    position = len(view) if not 0 <= position <= len(view) else position
    next_offset, records = -1, []
    while position < len(view):
        try:
            batch = parse_header(view, position)
        except InvalidBatch:
            break
        if batch.record_count < 0 or batch.compression or batch.is_transactional or batch.is_control:
            break
        code, _, parsed = parse(batch.records, 0, batch.record_count)
        if code != OK:
            break
        records += [(key, value) for _, _, key, value, _ in parsed]
        position += batch.size_bytes
        next_offset = _signed_64(batch.next_offset)
    return position, next_offset, records


def fold(
    data: Buffer,
    position: int,
    tables: dict[bytes, dict[int, bytes]],
    least_bytes: int,
    highest_version: int,
    other: Callable[[bytes | None, bytes | None], None],
) -> tuple[int, int, int, int]:
    """The records of the batches that `plain_records` takes, put into tables: a key ends in a number of four bytes, and
    what is before it says in which table its value is kept under that number.

    What has no table, or no value of at least `least_bytes` that begins with a version up to `highest_version`, goes to
    `other(key, value)`, in order; that may add, replace and remove tables. (Position after the batches, offset after
    them or -1, how many records they have, how many numbers are new in their tables.)
    """
    position, next_offset, records = plain_records(data, position)
    least_bytes, added = max(least_bytes, 2), 0
    for key, value in records:
        if key is None or value is None or len(key) < 4 or len(value) < least_bytes:
            other(key, value)
            continue
        is_known = 0 <= int.from_bytes(value[:2], "big", signed=True) <= highest_version
        table = tables.get(key[:-4]) if is_known else None
        if table is None:
            other(key, value)
            continue
        number = int.from_bytes(key[-4:], "big", signed=True)
        added += number not in table
        table[number] = value
    return position, next_offset, len(records), added


def _read_record(view: memoryview, position: int) -> tuple[Parsed, int]:
    length, position = _read_record_length(view, position)
    return _read_body(view[position : position + length]), position + length


def _read_record_length(view: memoryview, position: int) -> tuple[int, int]:
    length, position = _read_varint(view, position)
    if not 0 <= length <= len(view) - position:
        raise _Malformed(BAD_RECORD_LENGTH)
    return length, position


def _read_body(body: memoryview) -> Parsed:
    length = len(body)
    if not length:
        raise _Malformed(BAD_RECORD_BODY)
    timestamp_delta, at = _read_varlong(body, 1)  # byte 0 holds attributes: unused in v2
    offset_delta, at = _read_varint(body, at)
    key, at = _read_bytes(body, at)
    value, at = _read_bytes(body, at)
    header_count, at = _read_varint(body, at)
    if not 0 <= header_count <= length - at:
        raise _Malformed(BAD_HEADER_COUNT)
    headers = []
    for _ in range(header_count):
        header_key, at = _read_bytes(body, at)
        if header_key is None:
            raise _Malformed(BAD_HEADER_KEY)
        header_value, at = _read_bytes(body, at)
        headers.append((header_key.decode("utf-8", "surrogateescape"), header_value))
    if at != length:
        raise _Malformed(BAD_RECORD_BODY)
    return timestamp_delta, offset_delta, key, value, tuple(headers)


def _read_bytes(view: memoryview, position: int) -> tuple[bytes | None, int]:
    length, position = _read_varint(view, position)
    if length > len(view) - position:
        raise _Malformed(BAD_RECORD_BODY)
    if length < 0:
        return None, position
    return bytes(view[position : position + length]), position + length


def _read_varint(view: memoryview, position: int) -> tuple[int, int]:
    raw, position = _read_unsigned(view, position, 5)
    raw &= 0xFFFFFFFF
    return (raw >> 1) ^ -(raw & 1), position


def _read_varlong(view: memoryview, position: int) -> tuple[int, int]:
    raw, position = _read_unsigned(view, position, 10)
    raw &= _INT64_MASK
    return (raw >> 1) ^ -(raw & 1), position


def _read_unsigned(view: memoryview, position: int, max_bytes: int) -> tuple[int, int]:
    result = 0
    for shift in range(0, 7 * max_bytes, 7):
        if position >= len(view):
            raise _Malformed(BAD_VARINT)
        byte = view[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
    raise _Malformed(BAD_VARINT)


def _signed_64(value: int) -> int:
    return ((value + _INT64_SIGN) & _INT64_MASK) - _INT64_SIGN
