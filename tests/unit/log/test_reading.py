"""Reading: what is visible, what is out of range, and offsets by time."""

import pytest

from bytemq.broker.log.results import ListedOffset
from bytemq.errors import Corrupt, Fenced, NotFound, Unavailable
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.records.batch import parse_header, set_max_timestamp, split_batches
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.storage.reading import Read
from tests.unit.log.harness import NOW_MS, Log, batch, open_log, topic_config


async def ten_records(**configs: str) -> Log:
    """Two batches of five records, 10 ms apart each."""
    log = await open_log(**configs)
    for start in (0, 5):
        records = [Record(b"k", b"v", timestamp_ms=NOW_MS + 10 * n) for n in range(start, start + 5)]
        log.append(build_batch(records, compression=start and 4))
    return log


async def test_read__starts_with_the_batch_that_contains_the_offset() -> None:
    log = await ten_records()
    fetched = await log.partition.read(7, 10_000, isolation=0)
    assert [found.base_offset for found in split_batches(memoryview(fetched.buffers[0]))] == [5]
    assert (fetched.high_watermark, fetched.last_stable_offset, fetched.log_start_offset) == (10, 10, 0)


async def test_read__gives_one_batch_beyond_the_limit_if_asked_to() -> None:
    log = await ten_records()
    one, none = [await log.partition.read(0, 1, isolation=0, at_least_one=wanted) for wanted in (True, False)]
    assert (len(one.buffers), none.size_bytes, none.error) == (1, 0, ErrorCode.NONE)


@pytest.mark.parametrize(
    ("offset", "error"),
    [(-1, ErrorCode.OFFSET_OUT_OF_RANGE), (10, ErrorCode.NONE), (11, ErrorCode.OFFSET_OUT_OF_RANGE)],
)
async def test_read__knows_its_range(offset: int, error: ErrorCode) -> None:
    log = await ten_records()
    fetched = log.partition.read_cached(offset, 1_000, isolation=0)
    assert fetched is not None
    assert (fetched.error, fetched.size_bytes, fetched.high_watermark) == (error, 0, 10)


async def test_read__finds_nothing_below_the_log_start() -> None:
    log = await ten_records()
    await log.partition.delete_records(3)
    low, first = [await log.partition.read(offset, 1_000, isolation=0) for offset in (2, 3)]
    assert (low.error, low.log_start_offset) == (ErrorCode.OFFSET_OUT_OF_RANGE, 3)
    assert first.size_bytes > 0


async def test_read_cached__says_when_it_would_wait() -> None:
    log = await ten_records()
    log.files.cached = False
    assert log.partition.read_cached(0, 1_000, isolation=0) is None
    assert log.partition.read_cached(10, 1_000, isolation=0) is not None, "at the end there is nothing to wait for"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("away"), ErrorCode.KAFKA_STORAGE_ERROR),
        (NotFound("gone"), ErrorCode.KAFKA_STORAGE_ERROR),
        (Corrupt("bits"), ErrorCode.CORRUPT_MESSAGE),
        (Fenced("another owner"), ErrorCode.NOT_LEADER_OR_FOLLOWER),
    ],
)
async def test_read__turns_failures_of_storage_into_kafkas_errors(error: Exception, code: ErrorCode) -> None:
    log = await ten_records()
    log.files.read_error = error
    cached = log.partition.read_cached(0, 1_000, isolation=0)
    assert cached is not None and cached.error is code
    assert (await log.partition.read(0, 1_000, isolation=0)).error is code


async def test_read__that_waits_while_its_partition_goes_is_told_to_ask_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = await ten_records()

    async def read(*arguments: object, **options: object) -> Read:
        await log.partition.close()
        raise NotFound("the log was deleted")

    monkeypatch.setattr(log.files, "read", read)
    assert (await log.partition.read(0, 1_000, isolation=0)).error is ErrorCode.NOT_LEADER_OR_FOLLOWER


async def test_read__that_finds_damage_is_logged_once_a_minute_however_often_consumers_ask(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = await ten_records()
    log.files.read_error = Corrupt("bits")
    for _ in range(50):
        log.partition.read_cached(0, 1_000, isolation=0)
        await log.partition.read(3, 1_000, isolation=0)
    assert caplog.text.count("a read failed") == 1
    log.files.read_error = NotFound("the log was deleted")
    log.clock.advance(61)
    await log.partition.read(0, 1_000, isolation=0)
    assert caplog.text.count("a read failed") == 1, "nothing is wrong with a deleted log"
    log.files.read_error = Corrupt("bits")
    await log.partition.read(0, 1_000, isolation=0)
    assert caplog.text.count("a read failed") == 2


async def test_available_bytes__is_zero_only_at_the_end() -> None:
    log = await ten_records()
    partition = log.partition
    enough = partition.size_bytes + 1
    assert partition.available_bytes(10, 0, enough) == 0
    assert partition.available_bytes(0, 0, enough) == partition.size_bytes
    assert 0 < (partition.available_bytes(9, 0, enough) or 0) < partition.size_bytes
    assert partition.available_bytes(0, 0, 1) == 1, "what is beyond enough is not counted"


async def test_available_bytes__is_none_where_something_else_is_to_be_said() -> None:
    partition = (await ten_records()).partition
    assert partition.available_bytes(11, 0, 1) is None
    await partition.delete_records(3)
    assert partition.available_bytes(2, 0, 1) is None
    await partition.close()
    assert partition.available_bytes(10, 0, 1) is None


@pytest.mark.parametrize(
    ("timestamp_ms", "answer"),
    [
        (-1, (10, -1)),
        (-2, (0, -1)),
        (-3, (9, NOW_MS + 90)),
        (-4, (0, -1)),
        (-5, (-1, -1)),
        (0, (0, NOW_MS)),
        (NOW_MS + 31, (4, NOW_MS + 40)),
        (NOW_MS + 41, (5, NOW_MS + 50)),
        (NOW_MS + 70, (7, NOW_MS + 70)),
        (NOW_MS + 91, (-1, -1)),
    ],
)
async def test_list_offset__finds_the_exact_record(timestamp_ms: int, answer: tuple[int, int]) -> None:
    log = await ten_records()
    listed = await log.partition.list_offset(timestamp_ms, 0)
    assert (listed.error, listed.offset, listed.timestamp_ms) == (ErrorCode.NONE, *answer)
    assert listed.leader_epoch == (-1 if listed.offset < 0 else 0)


async def test_list_offset__does_not_know_other_negative_numbers() -> None:
    log = await ten_records()
    assert await log.partition.list_offset(-7, 0) == ListedOffset(ErrorCode.UNSUPPORTED_VERSION)


async def test_list_offset__of_the_largest_timestamp_is_its_first_record() -> None:
    log = await open_log()
    for timestamp_ms in (5, 9, 9, 7):
        log.append(batch(2, timestamp_ms=timestamp_ms))
    listed = await log.partition.list_offset(-3, 0)
    assert (listed.offset, listed.timestamp_ms) == (2, 9)


async def test_list_offset__passes_over_records_deleted_with_the_front_of_their_batch() -> None:
    log = await open_log()
    records = [Record(b"k", b"v", timestamp_ms=NOW_MS + ahead) for ahead in (50, 0, 0)]
    log.append(build_batch(records))
    log.append(batch(timestamp_ms=NOW_MS + 60))
    await log.partition.delete_records(1)
    listed = await log.partition.list_offset(NOW_MS + 20, 0)
    assert (listed.offset, listed.timestamp_ms) == (3, NOW_MS + 60)


async def test_list_offset__is_at_worst_early_where_a_header_promises_too_much() -> None:
    log = await open_log()
    payload = build_batch([Record(b"k", b"v", timestamp_ms=NOW_MS)] * 2)
    log.append(batch())
    log.append(overstated(payload, NOW_MS + 40))
    listed = await log.partition.list_offset(NOW_MS + 20, 0)
    assert (listed.error, listed.offset) == (ErrorCode.NONE, 1)


async def test_list_offset__reads_stamped_batches_by_their_stamp() -> None:
    log = await open_log(message_timestamp_type="LogAppendTime")
    log.append(batch(3, timestamp_ms=1))
    listed = await log.partition.list_offset(NOW_MS - 10, 0)
    assert (listed.offset, listed.timestamp_ms) == (0, NOW_MS)


async def test_list_offset__turns_failures_of_storage_into_kafkas_errors() -> None:
    log = await ten_records()

    async def away() -> None:
        raise Unavailable("away")

    log.storage.wait = away  # type: ignore[method-assign]
    assert (await log.partition.list_offset(5, 0)).error is ErrorCode.KAFKA_STORAGE_ERROR


async def test_offset_for_leader_epoch__ends_the_latest_at_the_high_watermark() -> None:
    log = await ten_records()
    await log.reopen()
    log.append(batch())
    partition = log.partition
    assert partition.offset_for_leader_epoch(0, -1)[1:] == (0, 10)
    assert partition.offset_for_leader_epoch(1, 1)[1:] == (1, 11)
    assert partition.offset_for_leader_epoch(1, 0).error is ErrorCode.FENCED_LEADER_EPOCH
    assert partition.offset_for_leader_epoch(1, 2).error is ErrorCode.UNKNOWN_LEADER_EPOCH


@pytest.mark.parametrize(
    ("offset", "error", "low_watermark"),
    [
        (4, ErrorCode.NONE, 4),
        (-1, ErrorCode.NONE, 10),
        (11, ErrorCode.OFFSET_OUT_OF_RANGE, -1),
        (-2, ErrorCode.OFFSET_OUT_OF_RANGE, -1),
    ],
)
async def test_delete_records__moves_the_log_start(offset: int, error: ErrorCode, low_watermark: int) -> None:
    log = await ten_records()
    assert await log.partition.delete_records(offset) == (error, low_watermark)


async def test_delete_records__backwards_is_no_error() -> None:
    log = await ten_records()
    await log.partition.delete_records(5)
    assert await log.partition.delete_records(2) == (ErrorCode.NONE, 5)


async def test_delete_records__is_against_the_policy_of_a_compacted_topic() -> None:
    log = await open_log(cleanup_policy="compact")
    assert (await log.partition.delete_records(0)).error is ErrorCode.POLICY_VIOLATION


async def test_apply_retention__lets_old_segments_go_but_not_of_a_compacted_topic() -> None:
    for policy, start in (("delete", 5), ("compact", 0)):
        log = await ten_records()
        log.partition.reconfigure(topic_config(retention_ms="60", cleanup_policy=policy))
        await log.partition.apply_retention(NOW_MS + 140)
        assert log.partition.log_start_offset == start


def overstated(payload: bytearray, max_timestamp_ms: int) -> bytearray:
    """The batch with a header, and a checksum, that promise a later record than there is."""
    set_max_timestamp(parse_header(memoryview(payload)), max_timestamp_ms)
    return payload


async def test_read__of_what_is_cleaned_meanwhile_is_read_again_for_nobody_knows_what_of_it_was_aborted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = await ten_records()
    read, asked = log.partition.files.read, []

    async def slow(*arguments: object, **named: object) -> Read:
        found = await read(*arguments, **named)  # type: ignore[arg-type]
        asked.append(found)
        if len(asked) == 1:
            log.partition.forget_aborted(5)
        return found

    monkeypatch.setattr(log.partition.files, "read", slow)
    assert (await log.partition.read(0, 10_000, isolation=1)).size_bytes
    assert len(asked) == 2
    await log.partition.read(5, 10_000, isolation=1)
    log.partition.forget_aborted(7)
    await log.partition.read(7, 10_000, isolation=1)
    assert len(asked) == 4
