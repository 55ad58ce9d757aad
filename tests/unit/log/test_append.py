"""Appending: order, durability before the answer, failures that take back everything after them, Kafka's refusals."""

import asyncio

import pytest

from bytemq.broker.log.results import AppendResult
from bytemq.errors import Corrupt, Fenced, Full, Unavailable
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.records.batch import LOG_APPEND_TIME, check_crc
from tests.unit.log.harness import COORDINATOR, NOW_MS, Answer, Log, batch, open_log, sequenced, topic_config

DAY_MS = 86_400_000


def stored(log: Log) -> list[tuple[int, int]]:
    """(base offset, records) of what is on the disk, every batch checked."""
    batches = log.files.stored.batches
    for found in batches:
        check_crc(found)
        assert found.leader_epoch == log.epoch
    return [(found.base_offset, found.record_count) for found in batches]


async def test_append__gives_offsets_in_order_of_arrival() -> None:
    log = await open_log()
    answers = [log.send(batch(count)) for count in (1, 3, 2)]
    log.storage.settle()
    assert [answer.result.base_offset for answer in answers] == [0, 1, 4]
    assert stored(log) == [(0, 1), (1, 3), (4, 2)]


async def test_append__answers_and_shows_nothing_before_it_is_durable() -> None:
    log = await open_log()
    answer = log.send(batch(2))
    assert not answer.given
    assert (log.partition.end_offset, log.partition.high_watermark) == (2, 0)
    fetched = log.partition.read_cached(0, 1_000, isolation=0)
    assert fetched is not None and fetched.size_bytes == 0
    log.storage.settle()
    assert answer.result == AppendResult(ErrorCode.NONE, 0, -1, 0)
    assert log.partition.high_watermark == 2


async def test_append__wakes_waiters_once_per_commit() -> None:
    log = await open_log()
    seen: list[int] = []
    log.partition.waiters.register(lambda partition: seen.append(partition.high_watermark))
    log.send(batch(2))
    log.send(batch(1))
    assert seen == []
    log.storage.settle()
    assert seen == [2, 3]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("away"), ErrorCode.KAFKA_STORAGE_ERROR),
        (Full("no room"), ErrorCode.KAFKA_STORAGE_ERROR),
        (Corrupt("bits"), ErrorCode.KAFKA_STORAGE_ERROR),
        (Fenced("another owner"), ErrorCode.NOT_LEADER_OR_FOLLOWER),
    ],
)
async def test_append__turns_failures_of_storage_into_retriable_errors(error: Exception, code: ErrorCode) -> None:
    log = await open_log()
    answer = log.send(batch())
    log.storage.fail(error)  # type: ignore[arg-type]
    assert answer.result.error is code
    assert code.retriable


async def test_append__takes_everything_after_a_failure_back_before_it_answers() -> None:
    log = await open_log()
    log.append(sequenced(0, 2))
    ends: list[int] = []
    first = log.send(sequenced(2))
    log.partition.append(memoryview(sequenced(3)), lambda _: ends.append(log.partition.end_offset))
    second = log.send(sequenced(0, producer_id=8))
    log.storage.fail()
    assert ends == [2]
    assert {first.result.error, second.result.error} == {ErrorCode.KAFKA_STORAGE_ERROR}
    assert log.append(sequenced(2)).base_offset == 2
    assert log.append(sequenced(3)).base_offset == 3


async def test_append__may_be_repeated_from_inside_the_answer_to_a_failure() -> None:
    log = await open_log()
    again = [Answer(), Answer()]
    for number, retry in enumerate(again):
        payload = sequenced(number)

        def retried(_: AppendResult, payload: bytearray = payload, retry: Answer = retry) -> None:
            log.partition.append(memoryview(payload), retry)

        log.partition.append(memoryview(bytearray(payload)), retried)
    log.storage.fail()
    log.storage.settle()
    assert [(answer.result.error, answer.result.base_offset) for answer in again] == [
        (ErrorCode.NONE, 0),
        (ErrorCode.NONE, 1),
    ]


async def test_append__answers_a_retry_with_its_first_offset_and_the_time_of_the_batch() -> None:
    log = await open_log()
    log.append(sequenced(0, timestamp_ms=NOW_MS - 5))
    log.append(sequenced(1))
    assert log.append(sequenced(0, timestamp_ms=NOW_MS - 5)) == AppendResult(ErrorCode.NONE, 0, NOW_MS - 5, 0)
    assert stored(log) == [(0, 1), (1, 1)]


async def test_append__answers_a_retry_of_what_is_in_flight_when_that_commits() -> None:
    log = await open_log()
    original, retry, third = (log.send(sequenced(0)) for _ in range(3))
    assert not retry.given
    log.storage.settle()
    assert {answer.result.base_offset for answer in (original, retry, third)} == {0}
    assert stored(log) == [(0, 1)]


async def test_append__fails_a_retry_together_with_what_it_repeats() -> None:
    log = await open_log()
    original, retry = log.send(sequenced(0)), log.send(sequenced(0))
    log.storage.fail()
    assert original.result.error is retry.result.error is ErrorCode.KAFKA_STORAGE_ERROR


async def test_append__never_acknowledges_other_content_under_a_used_sequence() -> None:
    log = await open_log()
    log.send(sequenced(0, value=b"one"))
    in_flight = log.send(sequenced(0, value=b"two"))
    log.storage.settle()
    committed = log.append(sequenced(0, value=b"two"))
    for answer in (in_flight.result, committed):
        assert (answer.error, answer.base_offset) == (ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, -1)


async def test_append__keeps_duplicates_known_after_delete_records() -> None:
    log = await open_log()
    log.append(sequenced(0, 3))
    await log.partition.delete_records(-1)
    assert log.append(sequenced(0, 3)).base_offset == 0
    assert log.partition.log_start_offset == 3


async def test_append__stamps_log_append_time_and_still_knows_the_batch_as_sent() -> None:
    log = await open_log(message_timestamp_type="LogAppendTime")
    payload = sequenced(0, 2, timestamp_ms=1)
    assert log.append(payload) == AppendResult(ErrorCode.NONE, 0, NOW_MS, 0)
    assert log.append(payload) == AppendResult(ErrorCode.NONE, 0, NOW_MS, 0), "a duplicate, with its time"
    found = log.files.stored.batches[0]
    assert (found.timestamp_type, found.max_timestamp) == (LOG_APPEND_TIME, NOW_MS)
    assert stored(log) == [(0, 2)]


@pytest.mark.parametrize(
    ("configs", "payload", "code"),
    [
        ({"max_message_bytes": "100"}, batch(value=b"x" * 100), ErrorCode.MESSAGE_TOO_LARGE),
        ({"segment_bytes": "1048576"}, batch(value=b"x" * 1_048_577), ErrorCode.RECORD_LIST_TOO_LARGE),
        ({}, batch(timestamp_ms=NOW_MS + 3_600_001), ErrorCode.INVALID_TIMESTAMP),
        ({"message_timestamp_before_max_ms": "5"}, batch(timestamp_ms=NOW_MS - 6), ErrorCode.INVALID_TIMESTAMP),
        ({}, batch(control=True), ErrorCode.INVALID_RECORD),
        ({}, batch() + batch(), ErrorCode.INVALID_RECORD),
        ({}, bytearray(), ErrorCode.INVALID_RECORD),
        ({}, batch()[:40] + b"\xff" + batch()[41:], ErrorCode.CORRUPT_MESSAGE),
        ({"cleanup_policy": "compact"}, batch(key=None), ErrorCode.INVALID_RECORD),
        ({}, sequenced(0, transactional=True), ErrorCode.INVALID_TXN_STATE),
    ],
)
async def test_append__refuses_with_kafkas_error(configs: dict[str, str], payload: bytearray, code: ErrorCode) -> None:
    log = await open_log(**({"max_message_bytes": "2000000"} | configs))
    answer = log.append(payload)
    assert (answer.error, answer.base_offset, answer.log_start_offset) == (code, -1, 0)
    assert log.partition.end_offset == 0


@pytest.mark.parametrize("timestamp_ms", [-2, 0, NOW_MS - 10 * DAY_MS, NOW_MS + 3_600_000])
async def test_append__takes_old_and_slightly_future_timestamps(timestamp_ms: int) -> None:
    log = await open_log()
    assert log.append(batch(timestamp_ms=timestamp_ms)).error is ErrorCode.NONE


async def test_append__takes_a_batch_of_exactly_max_message_bytes() -> None:
    payload = batch(value=b"x" * 200)
    log = await open_log(max_message_bytes=str(len(payload)))
    assert log.append(payload).error is ErrorCode.NONE


async def test_append__lets_a_coordinator_write_what_a_client_may_not() -> None:
    log = await open_log(cleanup_policy="compact")
    assert log.append(batch(key=None), origin=COORDINATOR).error is ErrorCode.NONE


async def test_reconfigure__holds_for_the_next_append() -> None:
    log = await open_log()
    log.partition.reconfigure(topic_config(max_message_bytes="100", segment_bytes="2000000"))
    assert log.append(batch(value=b"x" * 100)).error is ErrorCode.MESSAGE_TOO_LARGE
    assert log.files.segment_bytes == 2_000_000


async def test_close__answers_what_is_on_its_way_and_refuses_what_comes() -> None:
    log = await open_log()
    pending, retry = log.send(sequenced(0)), log.send(sequenced(0))
    woken: list[bool] = []
    log.partition.waiters.register(lambda partition: woken.append(partition.is_closed))
    await log.partition.close()
    late = log.send(sequenced(1))
    for answer in (pending, retry, late):
        assert answer.result.error is ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert woken == [True]
    log.storage.settle()  # durable after all: kept for the next owner, answered to nobody
    assert log.partition.snapshot().offset == 1


async def test_close__with_drain_lets_storage_decide_first() -> None:
    log = await open_log()
    pending = log.send(batch())
    closing = asyncio.create_task(log.partition.close(drain=True))
    await asyncio.sleep(0)
    assert not closing.done()
    assert log.send(batch()).result.error is ErrorCode.NOT_LEADER_OR_FOLLOWER
    log.storage.settle()
    await closing
    assert pending.result.error is ErrorCode.NONE


async def test_fenced__ends_the_ownership() -> None:
    log = await open_log()
    log.send(batch())
    woken: list[bool] = []
    log.partition.waiters.register(lambda partition: woken.append(partition.is_closed))
    log.storage.fail(Fenced("another owner"))
    assert woken == [True]
    assert log.send(batch()).result.error is ErrorCode.NOT_LEADER_OR_FOLLOWER
    fetched = await log.partition.read(0, 100, isolation=0)
    assert fetched.error is ErrorCode.NOT_LEADER_OR_FOLLOWER
