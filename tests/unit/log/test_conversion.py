"""Batches that are opened before they are appended: done elsewhere, in order, and known as their clients sent them."""

import asyncio
import gc

import pytest

from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.records.batch import check_crc, parse_header, set_max_timestamp
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.protocol.records.reader import iter_records
from bytemq.runtime.budget import MemoryBudget
from tests.unit.log.harness import NOW_MS, Answer, Log, batch, open_log, sequenced

LARGE = b"x" * 5_000


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def values(log: Log) -> list[bytes | None]:
    found = []
    for stored in log.files.stored.batches:
        check_crc(stored)
        found += [record.value for record in iter_records(stored)]
    return found


@pytest.mark.parametrize("target", ["uncompressed", "gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("sent", [0, 1, 4])
async def test_compression_type__of_the_topic_is_what_is_stored(target: str, sent: int) -> None:
    log = await open_log(compression_type=target)
    answer = log.send(batch(3, value=LARGE, compression=sent))
    await turns()
    log.storage.settle()
    assert answer.result.base_offset == 0
    assert values(log) == [LARGE + b"0", LARGE + b"1", LARGE + b"2"]
    names = {"uncompressed": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
    assert {stored.compression for stored in log.files.stored.batches} == {names[target]}


async def test_compression_type__producer_stores_what_was_sent() -> None:
    log = await open_log()
    payload = batch(3, value=LARGE, compression=4)
    log.append(payload)
    assert bytes(log.files.stored.batches[0].view[21:]) == bytes(payload[21:])


async def test_conversion__keeps_the_order_of_appends() -> None:
    log = await open_log(compression_type="zstd")
    log.executor.holding = True
    payloads = [batch(1, value=LARGE), batch(2, value=LARGE), batch(1, value=b"already", compression=4)]
    answers = [log.send(payload) for payload in payloads]
    await turns()
    assert len(log.executor.held) == 1, "the others wait, and take no memory"
    for _ in range(2):
        assert log.partition.end_offset < 3
        log.executor.run(0)
        await turns()
    log.storage.settle()
    assert [answer.result.base_offset for answer in answers] == [0, 1, 3]


async def test_conversion__knows_a_retry_by_what_the_client_sent_even_after_a_crash() -> None:
    log = await open_log(compression_type="gzip")
    payload = sequenced(0, 2, value=LARGE)
    for _ in range(2):
        answer = log.send(payload)
        await turns()
        log.storage.settle()
        assert (answer.result.error, answer.result.base_offset) == (ErrorCode.NONE, 0)
        await log.reopen()
    assert log.partition.high_watermark == 2


async def test_conversion__of_a_small_plain_batch_needs_no_trip() -> None:
    log = await open_log(cleanup_policy="compact")
    log.executor.holding = True
    assert log.append(batch()).error is ErrorCode.NONE


async def test_compacted_topic__refuses_a_missing_key_inside_a_compressed_batch() -> None:
    log = await open_log(cleanup_policy="compact")
    answer = log.send(batch(3, key=None, compression=4))
    await turns()
    assert answer.result.error is ErrorCode.INVALID_RECORD


async def test_validate_records__repairs_a_wrong_max_timestamp() -> None:
    log = await open_log(bytemq_validate_records="true")
    payload = sequenced(0)
    set_max_timestamp(parse_header(memoryview(payload)), NOW_MS + 50)
    log.append(payload)
    assert log.files.stored.batches[0].max_timestamp == NOW_MS
    check_crc(log.files.stored.batches[0])
    assert log.append(payload).base_offset == 0, "still a duplicate"


async def test_validate_records__refuses_compressed_rubbish() -> None:
    log = await open_log(bytemq_validate_records="true")
    payload = batch(2)
    rubbish = parse_header(memoryview(payload))
    rubbish.attributes |= 4
    payload[22] |= 4
    set_max_timestamp(rubbish, NOW_MS - 1)  # for the checksum
    answer = log.send(payload)
    await turns()
    assert answer.result.error in (ErrorCode.INVALID_RECORD, ErrorCode.CORRUPT_MESSAGE)


OLDEST = {"message_timestamp_before_max_ms": "1000"}


@pytest.mark.parametrize("configs", [OLDEST, {**OLDEST, "compression_type": "zstd"}])
@pytest.mark.parametrize("codec", [0, 1])
@pytest.mark.parametrize(
    ("timestamps", "code"),
    [
        ((0, -1_000, 500), ErrorCode.NONE),
        ((0, -1_001, 500), ErrorCode.INVALID_TIMESTAMP),
        ((0, 3_600_001), ErrorCode.INVALID_TIMESTAMP),
    ],
)
async def test_age__of_every_record_is_looked_at_where_it_is_limited(
    configs: dict[str, str], codec: int, timestamps: tuple[int, ...], code: ErrorCode
) -> None:
    log = await open_log(**configs)
    records = [Record(b"k", b"v", (), NOW_MS + timestamp) for timestamp in timestamps]
    answer = log.send(build_batch(records, compression=codec))
    await turns()
    log.storage.settle()
    assert answer.result.error is code
    assert log.partition.end_offset == (len(records) if code is ErrorCode.NONE else 0)


async def test_age__is_of_no_interest_where_the_log_gives_the_time() -> None:
    log = await open_log(message_timestamp_type="LogAppendTime", **OLDEST)
    assert log.append(batch(timestamp_ms=1)).error is ErrorCode.NONE


async def test_age__of_a_small_plain_batch_is_known_at_once() -> None:
    log = await open_log(**OLDEST)
    log.executor.holding = True
    assert log.append(batch(timestamp_ms=NOW_MS - 1_001)).error is ErrorCode.INVALID_TIMESTAMP


async def test_conversion__fails_retriably_when_the_executor_is_gone() -> None:
    log = await open_log(compression_type="gzip")
    log.executor.holding = True
    answer = log.send(batch(value=LARGE))
    log.executor.held.pop()[0].set_exception(RuntimeError("worker died"))
    await turns()
    assert answer.result.error is ErrorCode.KAFKA_STORAGE_ERROR


async def test_conversion__refuses_what_is_too_large_afterwards() -> None:
    payload = batch(value=b"x" * 5_000, compression=4)
    log = await open_log(compression_type="uncompressed", max_message_bytes=str(len(payload)))
    answer = log.send(payload)
    await turns()
    assert answer.result.error is ErrorCode.MESSAGE_TOO_LARGE


async def test_close__answers_conversions_under_way_and_drains_them() -> None:
    log = await open_log(compression_type="gzip")
    log.executor.holding = True
    answer: Answer = log.send(batch(value=LARGE))
    closing = asyncio.create_task(log.partition.close(drain=True))
    await turns()
    assert not closing.done()
    log.executor.run(0)
    await closing
    assert answer.result.error is ErrorCode.NOT_LEADER_OR_FOLLOWER


@pytest.mark.parametrize("value", [b"small", LARGE])
async def test_conversion__refused_batch_leaves_nothing_to_the_collector(value: bytes) -> None:
    """An error that is part of a cycle keeps the request and all that was decompressed until a collection, seldom."""
    log = await open_log(cleanup_policy="compact")
    gc.collect()
    others = {id(found) for found in gc.get_objects() if isinstance(found, KafkaError)}
    gc.disable()
    try:
        for compression in (0, 1):
            answer = log.send(batch(2, value=value, key=None, compression=compression))
            await turns()
            assert answer.result.error is ErrorCode.INVALID_RECORD
        del answer
        assert not [found for found in gc.get_objects() if isinstance(found, KafkaError) and id(found) not in others]
    finally:
        gc.enable()


def memory(log: Log) -> MemoryBudget:
    return log.services.opener.memory


async def test_memory__is_given_back_whatever_becomes_of_a_batch() -> None:
    log = await open_log(cleanup_policy="compact", compression_type="gzip")
    for payload in (batch(3, value=LARGE, compression=4), batch(2, value=LARGE, key=None), batch(2, value=LARGE)):
        log.send(payload)
        await turns()
    assert 0 < memory(log).used_bytes < 1_000, "what was converted is on its way to the storage"
    log.storage.settle()
    assert memory(log).used_bytes == 0


async def test_memory__a_batch_that_needs_more_room_gives_its_own_back_first() -> None:
    log = await open_log(bytemq_validate_records="true")
    log.executor.holding = True
    answer = log.send(batch(40, value=bytes(10_000), compression=4))
    rooms = []
    while log.executor.held:
        rooms.append(memory(log).used_bytes)
        log.executor.run(0)
        await turns()
    log.storage.settle()
    assert answer.result.error is ErrorCode.NONE
    assert rooms == [2 * 64 * 1024, 2 * 256 * 1024, 2 * 1024 * 1024]
    assert memory(log).used_bytes == 0


async def test_memory__partitions_wait_for_each_other_when_there_is_no_more() -> None:
    first = await open_log(bytemq_validate_records="true")
    first.services.opener.memory.limit_bytes = 200_000
    second = Log(bytemq_validate_records="true")
    second.services.opener = first.services.opener
    await second.open()
    first.executor.holding = True
    answers = [log.send(batch(3, compression=4)) for log in (first, second)]
    assert len(first.executor.held) == 1
    first.executor.run(0)
    await turns()
    first.executor.run(0)
    await turns()
    first.storage.settle()
    second.storage.settle()
    assert [answer.result.error for answer in answers] == [ErrorCode.NONE, ErrorCode.NONE]


async def test_memory__a_batch_that_fits_in_no_case_is_refused() -> None:
    log = await open_log(bytemq_validate_records="true")
    memory(log).limit_bytes = 1_000_000
    answer = log.send(batch(100, value=bytes(10_000), compression=4))
    await turns()
    assert answer.result.error is ErrorCode.MESSAGE_TOO_LARGE
    assert memory(log).used_bytes == 0


async def test_memory__what_was_made_larger_is_counted_until_the_storage_has_it() -> None:
    log = await open_log(compression_type="uncompressed")
    answer = log.send(batch(10, value=bytes(20_000), compression=4))
    await turns()
    assert memory(log).used_bytes > 200_000
    log.storage.settle()
    assert answer.result.error is ErrorCode.NONE and memory(log).used_bytes == 0


@pytest.mark.parametrize(
    ("codec", "sizes", "code"),
    [
        (4, [290] * 10, ErrorCode.NONE),  # it is about each record, and not the batch
        (4, [290, 300], ErrorCode.INVALID_RECORD),
        (0, [290, 500], ErrorCode.NONE),  # and about what is compressed only
    ],
)
async def test_max_decompressed_message_bytes__limits_each_record_of_a_compressed_batch(
    codec: int, sizes: list[int], code: ErrorCode
) -> None:
    log = await open_log(max_decompressed_message_bytes="300")
    answer = log.send(build_batch([Record(b"k", bytes(size)) for size in sizes], compression=codec))
    await turns()
    log.storage.settle()
    assert answer.result.error is code


@pytest.mark.parametrize("codec", [0, 1])
@pytest.mark.parametrize("configs", [OLDEST, {}, {"compression_type": "zstd"}])
async def test_timestamps__the_records_out_of_range_are_named(configs: dict[str, str], codec: int) -> None:
    log = await open_log(**configs)
    timestamps = [NOW_MS, NOW_MS + 3_600_001, NOW_MS, NOW_MS + 4_000_000]
    records = [Record(b"k", b"v", (), timestamp) for timestamp in timestamps]
    answer = log.send(build_batch(records, compression=codec))
    await turns()
    assert answer.result.error is ErrorCode.INVALID_TIMESTAMP
    assert answer.result.message == "One or more records have been rejected due to invalid timestamp"
    assert [index for index, _ in answer.result.record_errors] == [1, 3]
    text = answer.result.record_errors[0][1]
    assert text is not None and text.startswith(f"Timestamp {NOW_MS + 3_600_001} of message with offset 1 is out of ra")
    assert text.endswith(f", {NOW_MS + 3_600_000}]")


async def test_timestamps__a_header_that_only_claims_to_be_out_of_range_is_repaired() -> None:
    log = await open_log()
    payload = batch()
    set_max_timestamp(parse_header(memoryview(payload)), NOW_MS + 10_000_000)
    assert log.append(payload).error is ErrorCode.NONE
    assert log.files.stored.batches[0].max_timestamp == NOW_MS


NO_KEY = "Compacted topic cannot accept message without key in topic partition events-0"


@pytest.mark.parametrize("codec", [0, 1])
async def test_compacted_topic__records_without_key_are_named(codec: int) -> None:
    log = await open_log(cleanup_policy="compact")
    keys = [b"k", None, None, b"k", None, None]
    answer = log.send(build_batch([Record(key, b"v", (), NOW_MS) for key in keys], compression=codec))
    await turns()
    assert answer.result.error is ErrorCode.INVALID_RECORD
    assert answer.result.record_errors == [(index, NO_KEY) for index in (1, 2, 4, 5)]
    shown = ", ".join(f"RecordError(batchIndex={index}, message='{NO_KEY}')" for index in (1, 2, 4))
    assert answer.result.message == (
        "One or more records have been rejected due to 4 record errors in total, and only showing the first three "
        f"errors at most: [{shown}]"
    )


async def test_compacted_topic__a_timestamp_at_fault_decides_the_code_and_a_missing_key_the_record() -> None:
    log = await open_log(cleanup_policy="compact")
    records = [Record(None, b"v", (), NOW_MS + 4_000_000), Record(b"k", b"v", (), NOW_MS + 4_000_000)]
    answer = log.send(build_batch(records))
    assert answer.result.error is ErrorCode.INVALID_TIMESTAMP
    assert answer.result.record_errors[0] == (0, NO_KEY)
    assert str(answer.result.record_errors[1][1]).startswith(f"Timestamp {NOW_MS + 4_000_000} of message with offset 1")


async def test_compacted_topic__counts_all_and_names_a_thousand_records_at_most() -> None:
    log = await open_log(cleanup_policy="compact", message_timestamp_type="LogAppendTime")
    answer = log.send(build_batch([Record(None, b"v")] * 3_000))
    await turns()
    assert [index for index, _ in answer.result.record_errors] == list(range(1_000))
    assert "due to 3000 record errors in total" in str(answer.result.message)
