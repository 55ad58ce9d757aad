"""Builder and reader against each other, against kafka-python, and on what real producers wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords

from bytemq.errors import Corrupt
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.records.batch import RecordBatch, parse_header, produced_batch
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.protocol.records.compression import decompress
from bytemq.protocol.records.reader import first_at_or_after, iter_records
from bytemq.protocol.records.walk import Walk, records_at_fault, walk_records

DATA = Path(__file__).parent / "data"
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}

optional_bytes = st.none() | st.binary(max_size=40)
header_lists = st.lists(st.tuples(st.text(max_size=8), optional_bytes), max_size=4)
records = st.builds(
    Record,
    key=optional_bytes,
    value=optional_bytes,
    headers=header_lists,
    timestamp_ms=st.integers(0, 1 << 45),
    offset=st.just(-1),
)


def walked(batch: RecordBatch, *, require_keys: bool = False) -> Walk:
    return walk_records(batch, decompress(batch.compression, batch.records), require_keys=require_keys)


@given(st.lists(records, min_size=1, max_size=20), st.integers(0, 4), st.integers(0, 1 << 50))
def test_round_trip__gives_the_records_back(written: list[Record], compression: int, base_offset: int) -> None:
    built = build_batch(written, compression=compression, base_offset=base_offset)
    batch = parse_header(memoryview(built))
    read = list(iter_records(batch))
    assert [record.offset for record in read] == list(range(base_offset, base_offset + len(written)))
    assert [(r.key, r.value, list(r.headers), r.timestamp_ms) for r in read] == [
        (r.key, r.value, list(r.headers), r.timestamp_ms) for r in written
    ]
    walk = walked(batch)
    assert walk.max_timestamp == batch.max_timestamp == max(record.timestamp_ms for record in written)
    assert walk.is_dense


@given(st.lists(records, min_size=1, max_size=10))
def test_builder__is_read_alike_by_kafka_python(written: list[Record]) -> None:
    batch = MemoryRecords(bytes(build_batch(written))).next_batch()
    assert batch.validate_crc()
    assert [(r.key, r.value, list(r.headers), r.timestamp) for r in batch] == [
        (r.key, r.value, list(r.headers), r.timestamp_ms) for r in written
    ]


@pytest.mark.parametrize("codec", CODECS)
def test_reader__reads_what_kafka_python_writes(codec: str) -> None:
    builder = DefaultRecordBatchBuilder(2, CODECS[codec], False, 7, 3, 11, 1 << 20)
    for index in range(50):
        builder.append(index, 1000 - index, b"key", b"value %d" % index, [("h", b"x"), ("h", b"y")])
    batch = produced_batch(memoryview(bytearray(builder.build())))
    read = list(iter_records(batch))
    assert [record.value for record in read] == [b"value %d" % index for index in range(50)]
    assert [record.timestamp_ms for record in read] == [1000 - index for index in range(50)]
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (7, 3, 11)


@pytest.mark.parametrize("codec", CODECS)
def test_reader__reads_what_the_java_client_writes(codec: str) -> None:
    batch = produced_batch(memoryview(bytearray((DATA / f"java_{codec}.bin").read_bytes())))
    read = list(iter_records(batch))
    assert batch.compression == CODECS[codec]
    assert read[0] == Record(b"k0", b"v0", (("h", b"x"), ("h", None)), 1000, 0)
    assert read[1] == Record(None, b"v1", (), 900, 1)
    assert read[2] == Record(b"k2", None, (), 1100, 2)
    assert [record.value for record in read[3:]] == [b"some value that repeats itself %d" % i for i in range(200)]
    assert walked(batch).max_timestamp == batch.max_timestamp == 1100


@pytest.mark.parametrize("codec", CODECS)
def test_reader__reads_what_librdkafka_writes(codec: str) -> None:
    batch = produced_batch(memoryview(bytearray((DATA / f"librdkafka_{codec}.bin").read_bytes())))
    read = list(iter_records(batch))
    assert batch.compression == CODECS[codec]
    assert [record.value for record in read] == [b"some value that repeats itself %d" % i for i in range(200)]
    assert [record.key for record in read] == [b"key%d" % i if i % 3 else None for i in range(200)]
    assert read[1].headers == (("h", b"x"), ("h", None))


def test_reader__keeps_header_keys_that_are_no_utf_8() -> None:
    record = Record(b"k", b"v", (("caf\udce9", b"x"),), 1)
    (read,) = iter_records(parse_header(memoryview(build_batch([record]))))
    assert read.headers == record.headers
    assert build_batch([read]) == build_batch([record])


def test_reader__log_append_time_holds_for_every_record() -> None:
    built = build_batch([Record(b"a", None, (), 1), Record(b"b", None, (), 2)], timestamp_ms=99, log_append_time=True)
    assert [record.timestamp_ms for record in iter_records(parse_header(memoryview(built)))] == [99, 99]


def test_reader__offsets_with_gaps_and_empty_batches_survive() -> None:
    kept = [Record(b"a", b"1", (), 5, 103), Record(b"b", b"2", (), 5, 107)]
    batch = parse_header(memoryview(build_batch(kept, base_offset=100, last_offset=109)))
    assert [record.offset for record in iter_records(batch)] == [103, 107]
    assert batch.last_offset == 109
    empty = parse_header(memoryview(build_batch([], base_offset=100, last_offset=109, timestamp_ms=3)))
    assert list(iter_records(empty)) == []
    assert (empty.last_offset, empty.record_count) == (109, 0)


def test_reader__a_malformed_record_is_corrupt_after_those_before_it() -> None:
    built = build_batch([Record(b"a", b"1"), Record(b"b", b"2")])
    built[-1] = 0x7F  # the second record now claims headers that are not there
    records = iter_records(parse_header(memoryview(built)))
    assert next(records).key == b"a"
    with pytest.raises(Corrupt):
        next(records)


def test_first_at_or_after__finds_by_timestamp_and_offset() -> None:
    written = [Record(None, b"x", (), timestamp_ms) for timestamp_ms in (10, 30, 20, 40)]
    for compression in CODECS.values():
        batch = parse_header(memoryview(build_batch(written, base_offset=100, compression=compression)))
        assert first_at_or_after(batch, 0, 0) == (100, 10)
        assert first_at_or_after(batch, 20, 0) == (101, 30)
        assert first_at_or_after(batch, 20, 102) == (102, 20)
        assert first_at_or_after(batch, 40, 0) == (103, 40)
        assert first_at_or_after(batch, 41, 0) is None
        assert first_at_or_after(batch, 0, 104) is None


def test_first_at_or_after__log_append_time_needs_no_look_inside() -> None:
    built = build_batch([Record(None, b"x")] * 3, base_offset=10, timestamp_ms=50, log_append_time=True)
    batch = parse_header(memoryview(built))
    assert first_at_or_after(batch, 50, 11) == (11, 50)
    assert first_at_or_after(batch, 51, 0) is None


def test_walk_records__a_compacted_topic_needs_keys() -> None:
    records = [Record(None if number % 400 == 7 else b"k", b"v") for number in range(1_300)]
    batch = parse_header(memoryview(build_batch(records)))
    assert walked(batch, require_keys=True) == walked(batch)._replace(lacks_keys=True)
    at_fault = records_at_fault(batch, batch.records, 0, 1 << 62, require_keys=True)
    assert list(at_fault) == [(7, None), (407, None), (807, None), (1_207, None)]


def test_walk_records__what_is_malformed_is_told_before_keys_that_are_missing() -> None:
    batch = parse_header(memoryview(build_batch([Record(None, b"v"), Record(b"k", b"v")])))
    batch.view[-1] = 1  # one header, and nothing of it
    with pytest.raises(KafkaError, match="malformed"):
        walked(batch, require_keys=True)


def test_walk_records__compressed_rubbish_is_corrupt() -> None:
    for compression in (1, 2, 3, 4):
        built = build_batch([Record(b"a", b"1" * 100)], compression=compression)
        built[65:] = b"\x99" * (len(built) - 65)
        with pytest.raises(KafkaError) as caught:
            walked(parse_header(memoryview(built)))
        assert caught.value.code in (ErrorCode.CORRUPT_MESSAGE, ErrorCode.INVALID_RECORD)
