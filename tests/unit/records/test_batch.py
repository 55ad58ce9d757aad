"""The batch header: parsing, the checks of produced data, patching in place."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from crc32c import crc32c
from hypothesis import example, given
from hypothesis import strategies as st
from kafka.record.memory_records import MemoryRecords

from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.records.batch import (
    HEADER_BYTES,
    LOG_APPEND_TIME,
    InvalidBatch,
    RecordBatch,
    computed_crc,
    parse_header,
    produced_batch,
    set_log_append_time,
    set_max_timestamp,
    split_batches,
)
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.protocol.records.fields_pure import Fields
from tests.unit.records.native import native_part

RECORDS = [Record(b"a", b"1"), Record(None, b"2"), Record(b"c", None)]
NATIVE = native_part("produced")
FIELDS = [Fields] if NATIVE is None else [Fields, NATIVE.Fields]


def sample(**arguments: object) -> bytearray:
    return build_batch(RECORDS, timestamp_ms=1000, **arguments)  # type: ignore[arg-type]


def changed(position: int, layout: str, value: int, *, fix_crc: bool = True) -> memoryview:
    """A sample batch with one header field set, under a right checksum unless told otherwise."""
    batch = sample()
    struct.pack_into(layout, batch, position, value)
    if fix_crc:
        struct.pack_into(">I", batch, 17, crc32c(bytes(batch[21:])))
    return memoryview(batch)


def refused(payload: bytes | bytearray | memoryview, **limits: int) -> ErrorCode:
    with pytest.raises(InvalidBatch) as caught:
        produced_batch(memoryview(payload), **limits)  # type: ignore[arg-type]
    return caught.value.code


def test_parse_header__reads_every_field() -> None:
    built = sample(
        base_offset=7,
        leader_epoch=3,
        producer_id=99,
        producer_epoch=4,
        base_sequence=10,
        transactional=True,
        compression=0,
    )
    batch = parse_header(memoryview(b"xx" + built), 2)
    assert (batch.base_offset, batch.leader_epoch, batch.magic, batch.size_bytes) == (7, 3, 2, len(built))
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence, batch.last_sequence) == (99, 4, 10, 12)
    assert (batch.last_offset, batch.next_offset, batch.record_count) == (9, 10, 3)
    assert (batch.base_timestamp, batch.max_timestamp, batch.timestamp_type) == (1000, 1000, 0)
    assert batch.is_transactional and batch.has_producer and not batch.is_control
    assert bytes(batch.view) == built


def test_parse_header__header_only_needs_61_bytes_and_no_more() -> None:
    built = memoryview(sample())
    batch = parse_header(built[:HEADER_BYTES], header_only=True)
    assert (len(batch.view), batch.size_bytes) == (HEADER_BYTES, len(built))
    for size in (0, 12, HEADER_BYTES - 1):
        with pytest.raises(InvalidBatch):
            parse_header(built[:size], header_only=True)


@pytest.mark.parametrize("length", [-1, 0, 48, 1 << 30])
def test_parse_header__refuses_a_length_that_cannot_be(length: int) -> None:
    with pytest.raises(InvalidBatch):
        parse_header(changed(8, ">i", length))


def test_last_sequence__wraps_after_the_largest() -> None:
    batch = parse_header(memoryview(sample(producer_id=1, producer_epoch=0, base_sequence=(1 << 31) - 2)))
    assert batch.last_sequence == 0
    assert parse_header(memoryview(sample())).last_sequence == -1


def test_split_batches__takes_whole_batches_in_a_row_only() -> None:
    one, two = sample(), sample(base_offset=3)
    assert [batch.base_offset for batch in split_batches(memoryview(one + two))] == [0, 3]
    with pytest.raises(InvalidBatch):
        split_batches(memoryview(one + two[:-1]))


def test_produced_batch__accepts_one_batch_and_drops_a_cut_one_after_it() -> None:
    built = sample()
    for payload in (built, built + sample()[:-1], built + b"\x00" * 11):
        assert produced_batch(memoryview(payload)).size_bytes == len(built)


@pytest.mark.parametrize("payload", [b"", b"\x00" * 11, bytes(sample()[:-1]), bytes(sample()[:40])])
def test_produced_batch__without_a_whole_batch_is_invalid(payload: bytes) -> None:
    assert refused(payload) == ErrorCode.INVALID_RECORD


def test_produced_batch__two_batches_are_invalid() -> None:
    assert refused(sample() + sample()) == ErrorCode.INVALID_RECORD


@pytest.mark.parametrize("magic", [0, 1])
def test_produced_batch__old_message_formats_are_invalid(magic: int) -> None:
    assert refused(changed(16, ">b", magic)) == ErrorCode.INVALID_RECORD


@pytest.mark.parametrize("magic", [3, -1, 127])
def test_produced_batch__unknown_magic_is_corrupt(magic: int) -> None:
    assert refused(changed(16, ">b", magic)) == ErrorCode.CORRUPT_MESSAGE


def test_produced_batch__any_flipped_bit_under_the_crc_is_corrupt() -> None:
    built = sample()
    for position in range(21, len(built)):
        flipped = bytearray(built)
        flipped[position] ^= 0x10
        if position != 22 or flipped[22] & 7 <= 4:
            assert refused(flipped) == ErrorCode.CORRUPT_MESSAGE, position


@pytest.mark.parametrize(
    ("position", "layout", "value"),
    [
        (23, ">i", 1),  # last offset delta below the count
        (23, ">i", 3),
        (23, ">i", -1),
        (57, ">i", 0),
        (57, ">i", -1),
        (57, ">i", 4),
        (43, ">q", 5),  # a producer id without a sequence
        (21, ">h", 0x20),  # a control batch
        (21, ">h", 5),  # codecs that do not exist
        (21, ">h", 7),
    ],
)
def test_produced_batch__inconsistent_headers_are_invalid(position: int, layout: str, value: int) -> None:
    assert refused(changed(position, layout, value)) == ErrorCode.INVALID_RECORD


def test_produced_batch__base_offset_must_be_zero_even_under_a_wrong_crc() -> None:
    assert refused(changed(0, ">q", 1, fix_crc=False)) == ErrorCode.INVALID_RECORD


@pytest.mark.parametrize("attributes", [0x08, 0x40, 0x80, 0x4000])
def test_produced_batch__odd_attribute_bits_are_accepted(attributes: int) -> None:
    assert produced_batch(changed(21, ">h", attributes)).attributes == attributes


def test_produced_batch__size_limit_includes_the_whole_batch() -> None:
    size_bytes = len(sample())
    assert produced_batch(memoryview(sample()), max_message_bytes=size_bytes)
    assert refused(sample(), max_message_bytes=size_bytes - 1) == ErrorCode.MESSAGE_TOO_LARGE


def test_produced_batch__zstd_needs_a_newer_request() -> None:
    assert refused(sample(compression=4), zstd_allowed=False) == ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
    assert produced_batch(memoryview(sample(compression=4))).compression == 4


def test_produced_batch__coordinators_may_write_control_batches() -> None:
    control = memoryview(sample(control=True, producer_id=1, producer_epoch=0))
    assert produced_batch(control, from_client=False).is_control


def test_place__patches_what_is_not_under_the_crc() -> None:
    built = sample()
    batch = produced_batch(memoryview(built))
    batch.place(1 << 40, 9)
    again = parse_header(memoryview(built))
    assert (again.base_offset, again.leader_epoch, batch.base_offset, batch.last_offset) == (
        1 << 40,
        9,
        1 << 40,
        (1 << 40) + 2,
    )
    assert again.crc == computed_crc(again)


@pytest.mark.parametrize("fields", FIELDS, ids=lambda fields: fields.__module__)
@given(st.binary(max_size=300), st.integers(0, 70_000), st.integers(0, 2**32 - 1), st.integers(-1, 2**62))
@example(b"", 0, 0, 0)
@example(b"", 2**20, 2**32 - 1, 2**40)
def test_checksum__goes_on_behind_any_other(
    fields: type[Fields], value: bytes, repeated: int, before: int, base_offset: int
) -> None:
    built = build_batch([Record(None, value + b"v" * repeated)], timestamp_ms=1000)
    header = struct.unpack_from(">qiibIhiqqqhii", built)
    batch = fields(memoryview(built), header)
    batch.place(base_offset, 7)
    assert batch.checksum(before) == crc32c(built, before)


@pytest.mark.parametrize("fields", FIELDS[1:], ids=lambda fields: fields.__module__)
def test_checksum__needs_the_whole_batch(fields: type[Fields]) -> None:
    built = sample()
    header = struct.unpack_from(">qiibIhiqqqhii", built)
    for view in (memoryview(built)[:-1], memoryview(built)[:HEADER_BYTES], memoryview(bytes(built) + b"more")):
        with pytest.raises(ValueError, match="whole batch"):
            fields(view, header).checksum(0)


@pytest.mark.parametrize(
    "repair", [lambda batch: set_log_append_time(batch, 5000), lambda batch: set_max_timestamp(batch, 5000)]
)
def test_repair__leaves_a_batch_whose_checksum_is_right(repair: Callable[[RecordBatch], None]) -> None:
    built = sample()
    batch = produced_batch(memoryview(built))
    sent_crc = batch.crc
    repair(batch)
    again = produced_batch(memoryview(built))
    assert (again.max_timestamp, again.attributes, again.crc) == (5000, batch.attributes, batch.crc)
    assert batch.sent_crc == sent_crc != batch.crc


def test_repair__log_append_time_is_what_other_readers_see() -> None:
    built = sample()
    set_log_append_time(produced_batch(memoryview(built)), 5000)
    batch = MemoryRecords(bytes(built)).next_batch()
    assert batch.timestamp_type == LOG_APPEND_TIME
    assert [record.timestamp for record in batch] == [5000] * 3


def test_repair__a_client_set_timestamp_type_is_taken_back() -> None:
    payload = changed(21, ">h", 0x08)
    batch = produced_batch(payload)
    set_max_timestamp(batch, batch.max_timestamp)
    assert produced_batch(payload).timestamp_type == 0
