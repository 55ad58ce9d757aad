"""One suite for both implementations of the walk, and both against each other on rubbish."""

from __future__ import annotations

import random
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemq.protocol.records.batch import parse_header
from bytemq.protocol.records.builder import Record, build_batch, write_varint
from bytemq.protocol.records.compression import Compression
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
from tests.unit.records.native import implementations

IMPLEMENTATIONS = implementations()
pytestmark = pytest.mark.parametrize("walker", IMPLEMENTATIONS, ids=lambda module: module.__name__)

RECORDS = [
    Record(b"k", b"v", (("h", b"x"), ("", None)), 100),
    Record(None, b"v", (), 50),
    Record(b"", None, (), 300),
    Record(b"k", b"v" * 300, (), 300),
]


def body(*records: Record) -> bytes:
    return bytes(parse_header(memoryview(build_batch(records))).records)


def record_of(*numbers: int | bytes) -> bytes:
    """A record out of varints and raw bytes, its length before it."""
    inside = bytearray()
    for number in numbers:
        if isinstance(number, bytes):
            inside += number
        else:
            write_varint(inside, number)
    out = bytearray()
    write_varint(out, len(inside))
    return bytes(out + inside)


def test_walk__gives_count_extremes_of_the_timestamps_and_the_longest(walker: ModuleType) -> None:
    assert walker.walk(body(*RECORDS), 4, 100, False) == (OK, 4, 300, 2, True, 50, 309)


def test_walk__the_first_record_counts_even_below_the_base(walker: ModuleType) -> None:
    assert walker.walk(record_of(b"\x00", -50, 0, -1, -1, 0), 1, 100, False) == (OK, 1, 50, 0, True, 50, 6)


def test_walk__a_record_without_timestamp_is_not_the_oldest(walker: ModuleType) -> None:
    none, some = record_of(b"\x00", 0, 0, -1, -1, 0), record_of(b"\x00", 70, 1, -1, -1, 0)
    assert walker.walk(none + some, 2, -1, False) == (OK, 2, 69, 1, True, 69, 7)
    assert walker.walk(none, 1, -1, False) == (OK, 1, -1, 0, True, -1, 6)


def test_walk__sees_offset_deltas_that_are_not_dense(walker: ModuleType) -> None:
    zeroes = record_of(b"\x00", 0, 0, -1, -1, 0) * 2
    assert walker.walk(zeroes, 2, 0, False) == (OK, 2, 0, 0, False, 0, 6)


def test_walk__timestamps_wrap_like_javas(walker: ModuleType) -> None:
    data = record_of(b"\x00", (1 << 63) - 1, 0, -1, -1, 0)
    assert walker.walk(data, 1, 1, False)[2] == -(1 << 63)


@pytest.mark.parametrize(
    ("data", "count", "code", "index"),
    [
        (b"", 1, BAD_VARINT, 0),
        (b"\x80\x80\x80\x80\x80\x01", 1, BAD_VARINT, 0),
        (b"\x02", 1, BAD_RECORD_LENGTH, 0),
        (b"\x01", 1, BAD_RECORD_LENGTH, 0),
        (b"\x00", 1, BAD_RECORD_BODY, 0),
        (record_of(b"\x00", 0, 0, 5, b"abc"), 1, BAD_RECORD_BODY, 0),
        (record_of(b"\x00", 0, 0, -1, 1 << 30), 1, BAD_RECORD_BODY, 0),
        (record_of(b"\x00", 0, 0, -1, -1, 0, 0), 1, BAD_RECORD_BODY, 0),
        (record_of(b"\x00", 0, 0, -1, -1, -1), 1, BAD_HEADER_COUNT, 0),
        (record_of(b"\x00", 0, 0, -1, -1, 1 << 30), 1, BAD_HEADER_COUNT, 0),
        (record_of(b"\x00", 0, 0, -1, -1, 1, -1, 0), 1, BAD_HEADER_KEY, 0),
        (record_of(b"\x00" + b"\x80" * 10 + b"\x01", 0, -1, -1, 0), 1, BAD_VARINT, 0),
        (body(*RECORDS), 3, TRAILING_BYTES, 3),
        (body(*RECORDS), 5, BAD_VARINT, 4),
        (body(*RECORDS), 1 << 31, BAD_VARINT, 4),
    ],
)
def test_walk__names_what_is_wrong(walker: ModuleType, data: bytes, count: int, code: int, index: int) -> None:
    assert walker.walk(data, count, 0, False)[:2] == (code, index)


def test_walk__missing_keys_are_found_where_keys_are_needed(walker: ModuleType) -> None:
    assert walker.walk(body(*RECORDS), 4, 0, True)[:2] == (MISSING_KEY, 1)
    assert walker.walk(body(RECORDS[0], RECORDS[2]), 2, 0, True)[0] == OK  # an empty key is a key


def test_parse__stops_after_as_many_as_asked_and_goes_on_from_there(walker: ModuleType) -> None:
    data = body(*RECORDS)
    code, position, first = walker.parse(data, 0, 3)
    code_of_rest, end, rest = walker.parse(data, position, 1)
    assert (code, code_of_rest, end) == (OK, OK, len(data))
    assert [(key, value) for _, _, key, value, _ in first + rest] == [(r.key, r.value) for r in RECORDS]
    assert first[0] == (0, 0, b"k", b"v", (("h", b"x"), ("", None)))


def test_find__looks_no_further_than_it_must(walker: ModuleType) -> None:
    data = body(*RECORDS) + b"\xff"
    assert walker.find(data, 5, 100, 300, 0) == (OK, (2, 300))
    assert walker.find(data, 5, 100, 300, 3) == (OK, (3, 300))
    assert walker.find(data, 5, 100, 301, 0)[0] == BAD_VARINT
    assert walker.find(data, 4, 100, 301, 0) == (OK, None)


@settings(max_examples=300)
@given(data=st.binary(max_size=60), count=st.integers(0, 6), keys=st.booleans())
def test_implementations__agree_on_rubbish(walker: ModuleType, data: bytes, count: int, keys: bool) -> None:
    for other in IMPLEMENTATIONS:
        _assert_same(walker, other, data, count, keys)


def test_implementations__agree_on_damaged_batches(walker: ModuleType) -> None:
    chance = random.Random(7)
    whole = body(*RECORDS)
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.choice((0, 1, 2, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        del data[chance.randint(1, len(data)) :]
        for other in IMPLEMENTATIONS:
            _assert_same(walker, other, bytes(data), 4, False)


def test_plain_records__are_those_of_whole_batches_in_a_row(walker: ModuleType) -> None:
    batches = build_batch(RECORDS) + build_batch([Record(b"a", b"b")])
    pairs = [(record.key, record.value) for record in RECORDS] + [(b"a", b"b")]
    assert walker.plain_records(batches, 0) == (len(batches), 1, pairs)
    assert walker.plain_records(batches, len(batches)) == (len(batches), -1, [])
    assert walker.plain_records(batches[:-1], 0) == (len(build_batch(RECORDS)), 4, pairs[:-1]), "the last one is cut"


@pytest.mark.parametrize(
    "other",
    [
        build_batch(RECORDS, producer_id=1, producer_epoch=0, transactional=True),
        build_batch(RECORDS, producer_id=1, producer_epoch=0, transactional=True, control=True),
        build_batch(RECORDS, compression=Compression.GZIP),
        build_batch(RECORDS)[:-1] + b"\xff",
    ],
    ids=["transactional", "control", "compressed", "malformed"],
)
def test_plain_records__end_before_any_other_batch(walker: ModuleType, other: bytes) -> None:
    plain = build_batch([Record(b"a", b"b")])
    assert walker.plain_records(plain + other + plain, 0) == (len(plain), 1, [(b"a", b"b")])
    assert walker.plain_records(other + plain, 0) == (0, -1, [])


def test_plain_records__agree_on_damaged_batches(walker: ModuleType) -> None:
    chance = random.Random(11)
    whole = build_batch(RECORDS) * 3
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.choice((0, 1, 2, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        for other in IMPLEMENTATIONS:
            assert walker.plain_records(bytes(data), 0) == other.plain_records(bytes(data), 0)


def numbered(prefix: bytes, number: int) -> bytes:
    return prefix + number.to_bytes(4, "big", signed=True)


OFFSET = b"\0\4" + bytes(18)
KNOWN_KEYS = [(b"a", 1), (b"b", -1), (b"a", 1), (b"a", 2)]


def test_fold__puts_values_where_their_keys_belong(walker: ModuleType) -> None:
    tables: dict[bytes, dict[int, bytes]] = {b"a": {2: b"before"}, b"b": {}}
    values = [OFFSET + b"%d" % number for number in range(len(KNOWN_KEYS))]
    records = [Record(numbered(*key), value) for key, value in zip(KNOWN_KEYS, values, strict=True)]
    data = build_batch(records[:3]) + build_batch(records[3:])
    others: list[object] = []
    folded = walker.fold(b"xyz" + data, 3, tables, 20, 4, lambda *record: others.append(record))
    assert folded == (3 + len(data), 1, 4, 2), "two numbers are new, one value has been replaced twice"
    assert (tables, others) == ({b"a": {1: values[2], 2: values[3]}, b"b": {-1: values[1]}}, [])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, OFFSET),
        (b"abc", OFFSET),
        (numbered(b"c", 1), OFFSET),
        (numbered(b"a", 1), None),
        (numbered(b"a", 1), OFFSET[:-1]),
        (numbered(b"a", 1), b"\0\5" + bytes(18)),
        (numbered(b"a", 1), b"\xff\xff" + bytes(18)),
    ],
    ids=["no key", "short key", "no table", "no value", "short value", "later version", "negative version"],
)
def test_fold__hands_everything_else_over_in_its_place(
    walker: ModuleType, key: bytes | None, value: bytes | None
) -> None:
    tables: dict[bytes, dict[int, bytes]] = {b"a": {}}
    seen: list[object] = []

    def other(*record: bytes | None) -> None:
        seen.append((record, dict(tables[b"a"])))

    first, last = Record(numbered(b"a", 7), OFFSET), Record(numbered(b"a", 8), OFFSET)
    walker.fold(build_batch([first, Record(key, value), last]), 0, tables, 20, 4, other)
    assert seen == [((key, value), {7: OFFSET})]
    assert tables == {b"a": {7: OFFSET, 8: OFFSET}}


def test_fold__looks_again_for_tables_that_were_exchanged_meanwhile(walker: ModuleType) -> None:
    former: dict[int, bytes] = {}
    tables = {b"a": former}

    def other(*_: bytes | None) -> None:
        tables[b"a"] = {}

    records = [Record(numbered(b"a", 1), OFFSET), Record(b"", None), Record(numbered(b"a", 2), OFFSET)]
    walker.fold(build_batch(records), 0, tables, 20, 4, other)
    assert (former, tables) == ({1: OFFSET}, {b"a": {2: OFFSET}})


def test_fold__raises_what_the_other_raises(walker: ModuleType) -> None:
    with pytest.raises(ZeroDivisionError):
        walker.fold(build_batch([Record(b"key", b"")]), 0, {}, 20, 4, lambda *_: 1 // 0)


def test_fold__takes_the_batches_that_plain_records_takes(walker: ModuleType) -> None:
    chance = random.Random(13)
    records = [Record(numbered(b"ab"[at % 2 : at % 2 + 1], at), OFFSET) for at in range(4)]
    whole = (build_batch(records) + build_batch(RECORDS)) * 2
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(chance.randint(0, 3)):
            data[chance.randrange(len(data))] = chance.choice((0, 1, 2, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        answers = []
        for implementation in IMPLEMENTATIONS:
            tables: dict[bytes, dict[int, bytes]] = {b"a": {}}
            others: list[object] = []
            folded = implementation.fold(bytes(data), 0, tables, 20, 4, lambda *record, o=others: o.append(record))
            position, next_offset, pairs = walker.plain_records(bytes(data), 0)
            assert folded[:3] == (position, next_offset, len(pairs))
            answers.append((folded, tables, others))
        assert answers.count(answers[0]) == len(answers)


def _assert_same(one: ModuleType, other: ModuleType, data: bytes, count: int, keys: bool) -> None:
    assert one.walk(data, count, 5, keys) == other.walk(data, count, 5, keys)
    assert one.find(data, count, 5, 7, 0) == other.find(data, count, 5, 7, 0)
    (code, position, records), (same_code, same_position, same) = one.parse(data, 0, 6), other.parse(data, 0, 6)
    assert (code, records) == (same_code, same)
    assert code != OK or position == same_position
