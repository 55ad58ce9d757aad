"""Fuzz target of records as columns.

`records` takes its input as the records of a batch: what becomes columns is the same natively and in Python, and gives
the same records back, whatever size the batches are that they are cut into. `columns` takes it for the columns
themselves, as a Parquet file might hold them: whether they make sense, and what batches become of them, is again the
same; beyond that the native part must read nothing that it was not given.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from types import ModuleType

from bytemq.protocol.records import columns_pure
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.protocol.records.walk_codes import OK
from tests.fuzz import runner
from tests.unit.records.native import implementations

IMPLEMENTATIONS = implementations("columns")
Column = bytes | None

_RECORDS = [
    Record(b"key", b"value", (("header", b"x"), ("header", None)), 1000),
    Record(None, b"value" * 20, (), 900),
    Record(b"", None, (("", b""),), 1100),
]
_SHAPE = struct.Struct(">BBHHIq")
"""Records in the batch, kind of batch, largest batch to be made, rows to begin with, sequence, offset."""
_KINDS = (0, 0x08, 0x10, 0x40, 0x78)
_COLUMN = struct.Struct(">H")
_ABSENT = 0xFFFF
_COUNT = 22


def _body(records: Sequence[Record]) -> bytes:
    return bytes(build_batch(list(records))[61:])


def _packed(columns: Sequence[Column]) -> bytes:
    parts = [_COLUMN.pack(_ABSENT) if one is None else _COLUMN.pack(len(one)) + one for one in columns]
    return b"".join([_SHAPE.pack(len(_RECORDS), 0, 1000, 0, 0, 0), *parts])


def _columns_of(body: bytes, count: int, kind: int, sequence: int, offset: int) -> tuple[bytes, ...] | None:
    code, sizes = columns_pure.measure(body, count, count - 1)
    if code != OK:
        return None
    producer = (7, 1, sequence) if sequence < 1 << 31 else (-1, -1, -1)
    return columns_pure.fill([(body, count, offset, 3, _KINDS[kind % len(_KINDS)], 50, 1200, *producer)], sizes)


SEEDS_OF_RECORDS = [
    _SHAPE.pack(count, kind, size_bytes, 0, sequence, 5) + _body(_RECORDS[:count])
    for count in (1, 2, 3)
    for kind, size_bytes, sequence in ((0, 1000, 0), (1, 1, 1 << 31), (3, 40, (1 << 31) - 2))
]
SEEDS_OF_COLUMNS = [
    _packed(found)
    for kind in range(len(_KINDS))
    if (found := _columns_of(_body(_RECORDS), len(_RECORDS), kind, 5, 9)) is not None
]
SEEDS = [
    *(bytes([0]) + seed for seed in SEEDS_OF_RECORDS),
    *(bytes([1]) + seed for seed in SEEDS_OF_COLUMNS),
]


def either(data: bytes) -> None:
    """The first byte says what the rest is taken for."""
    if data:
        (records, columns)[data[0] & 1](data[1:])


def records(data: bytes) -> None:
    if len(data) < _SHAPE.size:
        return
    count, kind, size_bytes, _, sequence, offset = _SHAPE.unpack_from(data)
    body, offset = data[_SHAPE.size :], abs(offset) >> 1
    answers = [one.measure(body, count, count - 1) for one in IMPLEMENTATIONS]
    assert len({(code == OK, sizes) for code, sizes in answers}) == 1
    found = _columns_of(body, count, kind, sequence, offset)
    if found is None or not count:
        return
    producer = (7, 1, sequence) if sequence < 1 << 31 else (-1, -1, -1)
    part = (body, count, offset, 3, _KINDS[kind % len(_KINDS)], 50, 1200, *producer)
    assert all(one.fill([part], answers[0][1]) == found for one in IMPLEMENTATIONS)
    row = 0
    while row < count:
        encoded = _encoded(found, row, count, size_bytes)
        assert encoded is not None and encoded[0] > row
        row, *_ = encoded
    encoded = _encoded(found, 0, count, 1 << 30)
    assert encoded is not None and encoded[0] == count
    _, base_timestamp, max_timestamp, again = encoded
    (base_offset,), (base_sequence,) = struct.unpack_from("<q", found[0]), struct.unpack_from("<i", found[17])
    batch = (base_offset, 3, _KINDS[kind % len(_KINDS)], base_timestamp, max_timestamp, *producer[:2], base_sequence)
    assert columns_pure.fill([(again, count, *batch)], answers[0][1]) == found


def columns(data: bytes) -> None:
    if len(data) < _SHAPE.size:
        return
    stop, _, size_bytes, first, *_ = _SHAPE.unpack_from(data)
    position = _SHAPE.size
    found: list[Column] = []
    for _ in range(_COUNT):
        (length,) = _COLUMN.unpack(data[position : position + 2].ljust(2, b"\0"))
        position += 2
        if length == _ABSENT:
            found.append(None)
        else:
            found.append(data[position : position + length])
            position += len(found[-1] or b"")
    _encoded(found, first, stop, size_bytes)


def _encoded(found: Sequence[Column], first: int, stop: int, max_bytes: int) -> tuple[int, int, int, bytes] | None:
    """None for columns that contradict themselves."""
    answers = [_answer(one, found, first, stop, max_bytes) for one in IMPLEMENTATIONS]
    assert answers.count(answers[0]) == len(answers)
    return answers[0]


def _answer(
    one: ModuleType, found: Sequence[Column], first: int, stop: int, max_bytes: int
) -> tuple[int, int, int, bytes] | None:
    try:
        answer: tuple[int, int, int, bytes] = one.encode(tuple(found), first, stop, max_bytes)
    except ValueError:
        return None
    return answer


if __name__ == "__main__":
    runner.main("fuzz_columns", either, SEEDS)
