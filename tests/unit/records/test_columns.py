"""One suite for both implementations of columns, and both against each other on rubbish."""

from __future__ import annotations

import random
from types import ModuleType

import pytest

from bytemq.protocol.records import columns_pure
from bytemq.protocol.records.batch import parse_header
from bytemq.protocol.records.builder import Record, build_batch, write_varint
from bytemq.protocol.records.columns import RecordColumns
from bytemq.protocol.records.walk_codes import BAD_HEADER_KEY, BAD_OFFSET_DELTA, OK, TRAILING_BYTES
from tests.unit.records.native import implementations

IMPLEMENTATIONS = implementations("columns")
every_implementation = pytest.mark.parametrize("native", IMPLEMENTATIONS, ids=lambda module: module.__name__)

RECORDS = [
    Record(b"k", b"v", (("h", b"x"), ("h", b"x"), ("", None)), 100),
    Record(None, b"v", (), 50),
    Record(b"", None, (("é", b""),), 300),
    Record(b"k", b"", (), -1),
]


def body(*records: Record) -> bytes:
    return bytes(parse_header(memoryview(build_batch(records))).records)


def part(
    data: bytes, count: int, attributes: int = 0, base_sequence: int = -1, base_offset: int = 1000
) -> columns_pure.Part:
    return (data, count, base_offset, 7, attributes, 100, 999, 42, 3, base_sequence)


@every_implementation
def test_measure__sums_what_columns_take(native: ModuleType) -> None:
    assert native.measure(body(*RECORDS), 4, 3) == (OK, (4, 2, 2, 4, 4, 2))


@every_implementation
@pytest.mark.parametrize("deltas", [(0, 0), (1, 0), (0, 5)])
def test_measure__refuses_offsets_that_do_not_ascend_within_the_batch(
    native: ModuleType, deltas: tuple[int, int]
) -> None:
    data = bytearray()
    for delta in deltas:
        record = bytearray(1)
        for number in (0, delta, -1, -1, 0):
            write_varint(record, number)
        write_varint(data, len(record))
        data += record
    assert native.measure(bytes(data), 2, 4)[0] == BAD_OFFSET_DELTA


@every_implementation
def test_measure__refuses_header_keys_that_are_not_utf_8(native: ModuleType) -> None:
    for key in ("\udcff", "\udced\udca0\udc80", "\udcc0\udc80", "\udcf4\udc90\udc80\udc80", "a\udce2\udc82"):
        assert native.measure(body(Record(None, None, ((key, None),))), 1, 0) == (BAD_HEADER_KEY, (0,) * 6)
    assert native.measure(body(Record(None, None, (("\u20ac\U0010ffff\ud7ff", None),))), 1, 0)[0] == OK


@every_implementation
def test_measure__refuses_bytes_after_the_last_record(native: ModuleType) -> None:
    assert native.measure(body(*RECORDS), 3, 3)[0] == TRAILING_BYTES


@every_implementation
def test_encode__gives_back_what_fill_was_given(native: ModuleType) -> None:
    data = body(*RECORDS)
    _, sizes = native.measure(data, 4, 3)
    columns = native.fill([part(data, 4)], sizes)
    assert native.encode(columns, 0, 4, 1 << 20) == (4, 100, 300, data)


@every_implementation
def test_encode__ends_a_batch_where_the_sequence_jumps(native: ModuleType) -> None:
    data = body(RECORDS[0])
    _, sizes = native.measure(data, 1, 0)
    total = tuple(2 * size for size in sizes)
    columns = native.fill([part(data, 1, base_sequence=5), part(data, 1, base_sequence=7, base_offset=1001)], total)
    assert native.encode(columns, 0, 2, 1 << 20)[0] == 1


@every_implementation
def test_encode__sequences_wrap_at_2_to_the_31(native: ModuleType) -> None:
    data = body(*RECORDS)
    _, sizes = native.measure(data, 4, 3)
    columns = native.fill([part(data, 4, base_sequence=(1 << 31) - 2)], sizes)
    assert native.encode(columns, 0, 4, 1 << 20)[0] == 4


@every_implementation
def test_fill__refuses_other_batches_than_those_measured(native: ModuleType) -> None:
    data = body(*RECORDS)
    _, sizes = native.measure(data, 4, 3)
    with pytest.raises(ValueError, match="measured"):
        native.fill([part(data, 4), part(data, 4)], sizes)


@pytest.mark.skipif(len(IMPLEMENTATIONS) < 2, reason="no C compiler")
def test_both__agree_on_rubbish() -> None:
    _columns = IMPLEMENTATIONS[1]
    rng = random.Random(7)
    sound = body(*RECORDS, *RECORDS)
    agreed = 0
    for _ in range(4000):
        data = bytearray(sound)
        for _ in range(rng.randrange(3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        data = data[: rng.randrange(len(data)) if rng.random() < 0.1 else len(data)]
        count, last_delta = rng.choice([8, 7]), rng.choice([7, 6])
        pure, native = columns_pure.measure(data, count, last_delta), _columns.measure(data, count, last_delta)
        assert (pure[0] == OK, pure[1]) == (native[0] == OK, native[1])
        if pure[0] == OK:
            agreed += 1
            attributes = rng.choice([0, 0x08, 0x10, 0x40, 0x78])
            parts = [part(bytes(data), count, attributes, rng.choice([-1, 9]))]
            columns = columns_pure.fill(parts, pure[1])
            assert columns == _columns.fill(parts, pure[1])
            limit = rng.choice([1, 40, 1 << 20])
            row = 0
            while row < count:
                encoded = columns_pure.encode(columns, row, count, limit)
                assert encoded == _columns.encode(columns, row, count, limit)
                row = encoded[0]
    assert agreed > 300


@every_implementation
@pytest.mark.parametrize("number", range(22))
def test_encode__refuses_columns_that_are_too_short(native: ModuleType, number: int) -> None:
    data = body(*RECORDS)
    _, sizes = native.measure(data, 4, 3)
    columns = list(native.fill([part(data, 4, 0x40)], sizes))
    assert columns[number]
    columns[number] = columns[number][:-1]
    with pytest.raises(ValueError, match=r"no such rows|contradict"):
        native.encode(tuple(columns), 0, 4, 1 << 20)


@every_implementation
@pytest.mark.parametrize("number", [0, 4, 7, 9, 10, 13])
def test_encode__refuses_offsets_that_do_not_ascend(native: ModuleType, number: int) -> None:
    data = body(*RECORDS)
    _, sizes = native.measure(data, 4, 3)
    columns = list(native.fill([part(data, 4)], sizes))
    width = 8 if number == 0 else 4
    columns[number] = columns[number][:width] + bytes([0xFF] * width) + columns[number][2 * width :]
    with pytest.raises(ValueError, match="contradict"):
        native.encode(tuple(columns), 0, 4, 1 << 20)


def test_add__leaves_out_what_does_not_decompress() -> None:
    columns = RecordColumns(max_decompressed_bytes=1000)
    assert not columns.add(parse_header(memoryview(build_batch([Record(None, bytes(2000))], compression=4))))
    rubbish = build_batch([Record(None, b"x")])
    rubbish[22] |= 4
    assert not columns.add(parse_header(memoryview(rubbish)))
    assert columns.add(parse_header(memoryview(build_batch([Record(None, b"x")], compression=4))))
    assert columns.records == 1
