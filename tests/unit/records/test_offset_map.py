"""One suite for both implementations of the offset map, and both against each other."""

from __future__ import annotations

import struct
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemq.protocol.records.batch import parse_header
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.protocol.records.offset_map_pure import ENTRY_BYTES
from bytemq.protocol.records.reader import iter_records
from bytemq.protocol.records.walk_codes import BAD_OFFSET_DELTA, OK, TRAILING_BYTES
from tests.unit.records.native import implementations

IMPLEMENTATIONS = implementations("offset_map")
EACH = pytest.mark.parametrize("offsets", IMPLEMENTATIONS, ids=lambda module: module.__name__)
SECRET = bytes(range(16))
NATIVE_ENTRY_BYTES = 24


def body(*records: Record) -> bytes:
    return bytes(parse_header(memoryview(build_batch(records))).records)


def built(data: bytes, count: int, *, base_timestamp: int = 0) -> list[Record]:
    """The records of such a body, read by other code."""
    batch = parse_header(memoryview(build_batch([Record(None, None)])))
    batch.view = memoryview(bytes(batch.view[:61]) + data)
    batch.record_count, batch.base_timestamp = count, base_timestamp
    return list(iter_records(batch))


def keyed(*keys: bytes) -> tuple[bytes, int]:
    return body(*(Record(key, b"v") for key in keys)), len(keys)


@EACH
def test_select__keeps_the_newest_of_each_key(offsets: ModuleType) -> None:
    newest = offsets.OffsetMap(1 << 20, 0.9, SECRET)
    data, count = keyed(b"a", b"b", b"a", b"")
    assert newest.put(data, count, 100, count - 1) == (OK, True)
    assert len(newest) == 3
    code, kept, tombstones, _, selected = newest.select(data, count, 100, count - 1, False, 0)
    assert (code, kept, tombstones) == (OK, 3, 0)
    assert [record.key for record in built(selected, kept)] == [b"b", b"a", b""]
    assert newest.select(data, count, 200, count - 1, False, 0)[1] == 4, "newer than all that it knows"
    assert newest.select(data, count, 50, count - 1, False, 0)[1] == 0
    assert newest.select(data, count, 200, count - 1, False, 0)[4] is None, "as they are"


@EACH
def test_select__lets_tombstones_and_records_without_a_key_go(offsets: ModuleType) -> None:
    newest = offsets.OffsetMap(1 << 20, 0.9, SECRET)
    data = body(Record(b"a", None), Record(None, b"v"), Record(b"b", b""))
    assert newest.select(data, 3, 0, 2, False, 0)[:3] == (OK, 2, 1)
    code, kept, tombstones, _, selected = newest.select(data, 3, 0, 2, True, 0)
    assert (code, kept, tombstones) == (OK, 1, 0)
    assert built(selected, 1) == [Record(b"b", b"", (), 0, 2)]


@EACH
def test_put__stops_where_the_room_ends_and_knows_what_it_took(offsets: ModuleType) -> None:
    entry_bytes = ENTRY_BYTES if "pure" in offsets.__name__ else NATIVE_ENTRY_BYTES
    newest = offsets.OffsetMap(10 * entry_bytes, 0.5, SECRET)
    data, count = keyed(*(b"%d" % n for n in range(8)))
    assert newest.put(data, count, 0, count - 1) == (OK, False)
    assert len(newest) == 5
    again, count = keyed(*(b"%d" % n for n in range(5)))
    assert newest.put(again, count, 8, count - 1) == (OK, True), "keys that it knows need no room"
    assert newest.select(data, 8, 0, 7, False, 0)[1] == 3


@EACH
def test_offset_map__is_full_of_keys_that_are_all_different(offsets: ModuleType) -> None:
    newest = offsets.OffsetMap(1 << 22, 0.9, SECRET)
    for start in range(0, 20_000, 1000):
        data, count = keyed(*(b"%d" % n for n in range(start, start + 1000)))
        assert newest.put(data, count, start, count - 1) == (OK, True)
    assert len(newest) == 20_000
    for start in range(0, 20_000, 1000):
        data, count = keyed(*(b"%d" % n for n in range(start, start + 1000)))
        assert newest.select(data, count, start, count - 1, False, 0)[1] == 1000
        assert newest.select(data, count, start - 1, count - 1, False, 0)[1] == 0


@EACH
def test_offsets_out_of_order_and_trailing_bytes__are_malformed(offsets: ModuleType) -> None:
    newest = offsets.OffsetMap(1 << 20, 0.9, SECRET)
    data = body(Record(b"a", b"", offset=5), Record(b"b", b"", offset=6))
    for call in (newest.put, lambda *a: newest.select(*a, False, 0)):
        assert call(data, 2, 0, 5)[0] == BAD_OFFSET_DELTA
        assert call(data, 1, 0, 6)[0] == TRAILING_BYTES
    assert len(newest) == 0
    repeated = body(Record(b"a", b"", offset=5), Record(b"b", b"", offset=5))
    assert newest.put(repeated, 2, 0, 5)[0] == BAD_OFFSET_DELTA


@EACH
def test_offset_map__without_room_or_secret_is_refused(offsets: ModuleType) -> None:
    for arguments in ((10, 0.9, SECRET), (1 << 20, 1.0, SECRET), (1 << 20, 0.0, SECRET), (1 << 20, 0.5, b"")):
        with pytest.raises(ValueError):
            offsets.OffsetMap(*arguments)


def column(keys: list[bytes | None], offsets: list[int]) -> tuple[bytes, bytes, bytes, bytes]:
    """As Arrow has it."""
    ends = [0]
    for key in keys:
        ends.append(ends[-1] + len(key or b""))
    validity = bytearray((len(keys) + 7) // 8)
    for row, key in enumerate(keys):
        validity[row // 8] |= (key is not None) << row % 8
    data = b"".join(key or b"" for key in keys)
    return bytes(validity), struct.pack(f"={len(ends)}i", *ends), data, struct.pack(f"={len(offsets)}q", *offsets)


@EACH
def test_columns__have_the_answers_of_batches(offsets: ModuleType) -> None:
    newest = offsets.OffsetMap(1 << 20, 0.9, SECRET)
    keys = column([b"a", None, b"b", b"a", b""], [100, 101, 105, 106, 110])
    assert newest.put_keys(*keys, 0, 5) == 5
    assert len(newest) == 3
    assert newest.newest(*keys, 0, 5) == bytes([0b11100])
    assert newest.newest(*keys, 2, 5) == bytes([0b111]), "bit 0 is the first row that was asked for"
    data, count = keyed(b"a", b"b", b"c")
    assert newest.select(data, count, 104, count - 1, False, 0)[1] == 2, "a at 104 is older than at 106"
    assert newest.newest(None, *keys[1:], 1, 2) == b"\0", "an empty key is none of none: it is newer at 110"


@EACH
def test_put_keys__stops_where_the_room_ends(offsets: ModuleType) -> None:
    entry_bytes = ENTRY_BYTES if "pure" in offsets.__name__ else NATIVE_ENTRY_BYTES
    newest = offsets.OffsetMap(10 * entry_bytes, 0.5, SECRET)
    keys = column([b"%d" % n for n in (0, 1, 2, 3, 0, 4, 1, 5, 6)], list(range(9)))
    assert newest.put_keys(*keys, 0, 9) == 7
    assert newest.put_keys(*keys, 0, 7) == 7
    assert len(newest) == 5


@EACH
def test_columns__that_contradict_themselves_are_refused(offsets: ModuleType) -> None:
    newest = offsets.OffsetMap(1 << 20, 0.9, SECRET)
    validity, ends, data, numbers = column([b"a", b"bc"], [1, 2])
    wrong = [
        (validity, ends, data, numbers, 0, 3),
        (validity, ends, data, numbers, -1, 2),
        (validity, ends, data, numbers, 2, 1),
        (b"", ends, data, numbers, 0, 2),
        (validity, ends[:8], data, numbers, 0, 2),
        (validity, ends, data[:2], numbers, 0, 2),
        (validity, ends, data, numbers[:8], 0, 2),
        (validity, struct.pack("=3i", 0, 3, 1), data, numbers, 0, 2),
        (validity, struct.pack("=3i", -1, 1, 3), data, numbers, 0, 2),
    ]
    for arguments in wrong:
        for call in (newest.put_keys, newest.newest):
            with pytest.raises(ValueError):
                call(*arguments)
    assert newest.newest(validity, ends, data, numbers, 2, 2) == b""


@settings(max_examples=150)
@given(
    keys=st.lists(st.none() | st.binary(max_size=3), max_size=40),
    gaps=st.lists(st.integers(1, 3), min_size=40, max_size=40),
    first=st.integers(0, 40),
)
def test_columns__get_the_same_answer_from_both(keys: list[bytes | None], gaps: list[int], first: int) -> None:
    numbers = [sum(gaps[: row + 1]) for row in range(len(keys))]
    first = min(first, len(keys))
    answers = set()
    for offsets in IMPLEMENTATIONS:
        newest = offsets.OffsetMap(1 << 20, 0.9, SECRET)
        put = newest.put_keys(*column(keys, numbers), first, len(keys))
        answers.add((put, len(newest), newest.newest(*column(keys, numbers), 0, len(keys))))
    assert len(answers) == 1


RECORDS = st.lists(
    st.tuples(
        st.none() | st.binary(max_size=20),
        st.none() | st.binary(max_size=200),
        st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=2),
        st.integers(0, 1 << 45),
    ).map(lambda fields: Record(*fields)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150)
@given(records=RECORDS, drop=st.booleans(), shift=st.sampled_from([0, 1, -1, 70, -9000, 1 << 44, -(1 << 44)]))
def test_shifted_timestamps__are_the_only_thing_that_changes(records: list[Record], drop: bool, shift: int) -> None:
    data, base = body(*records), records[0].timestamp_ms
    results = []
    for offsets in IMPLEMENTATIONS:
        newest = offsets.OffsetMap(1 << 20, 0.9, SECRET)
        assert newest.put(data, len(records), 1000, len(records) - 1) == (OK, True)
        results.append(newest.select(data, len(records), 1000, len(records) - 1, drop, shift))
        results.append(offsets.shift(data, len(records), shift, 300))
    assert results[:2] * (len(results) // 2) == results
    _, kept, tombstones, newest_delta, selected = results[0]
    wanted = {record.key: number for number, record in enumerate(records)}
    stays = [
        record._replace(offset=number, headers=tuple(record.headers))
        for number, record in enumerate(records)
        if record.key is not None and wanted[record.key] == number and not (drop and record.value is None)
    ]
    found = built(data if selected is None else selected, kept, base_timestamp=base - shift)
    assert found == stays
    assert tombstones == sum(record.value is None for record in stays)
    if stays:
        assert newest_delta == max(record.timestamp_ms for record in stays) - base + shift
    whole = built(results[1][4] or b"", len(records), base_timestamp=base - shift)
    assert [record.offset for record in whole] == [300 + number for number in range(len(records))]
    assert [record.timestamp_ms for record in whole] == [record.timestamp_ms for record in records]


@settings(max_examples=300)
@given(records=RECORDS, data=st.data())
def test_rubbish__gets_the_same_answer_from_both(records: list[Record], data: st.DataObject) -> None:
    garbage = bytearray(body(*records))
    for _ in range(data.draw(st.integers(1, 3))):
        garbage[data.draw(st.integers(0, len(garbage) - 1))] = data.draw(st.integers(0, 255))
    count = data.draw(st.integers(-2, len(records) + 1))
    shift = data.draw(st.sampled_from([0, 5]))
    answers = set()
    for offsets in IMPLEMENTATIONS:
        newest = offsets.OffsetMap(1 << 20, 0.9, SECRET)
        put = newest.put(bytes(garbage), count, 7, 20)
        answers.add((put, len(newest), newest.select(bytes(garbage), count, 7, 20, True, shift)))
    assert len(answers) == 1
