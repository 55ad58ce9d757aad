"""Opening a log again: everything a client could notice is as before the crash."""

import pytest

from bytemq.protocol.error_codes import ErrorCode
from tests.unit.log.harness import Log, batch, open_log, sequenced


@pytest.mark.parametrize("snapshot_after", [0, 1, 3, 6])
async def test_reopened__knows_offsets_and_the_last_five_batches(snapshot_after: int) -> None:
    log = await open_log()
    for sequence in range(6):
        log.append(sequenced(sequence))
        if sequence + 1 == snapshot_after:
            log.storage.checkpoint(log.files)
    lost = log.send(sequenced(6))
    await log.reopen()
    assert not lost.given
    assert (log.partition.high_watermark, log.partition.end_offset) == (6, 6)
    for sequence in range(1, 6):
        assert log.append(sequenced(sequence)).base_offset == sequence
    assert log.append(sequenced(0)).error is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert log.append(sequenced(5, value=b"other")).error is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert log.append(sequenced(6)).base_offset == 6


async def test_reopened__knows_stamped_batches_as_they_were_sent() -> None:
    log = await open_log(message_timestamp_type="LogAppendTime")
    log.append(sequenced(0))
    await log.reopen()
    assert log.append(sequenced(0)).base_offset == 0


async def test_reopened__keeps_the_history_of_leader_epochs() -> None:
    log = await open_log()
    log.append(batch(2))
    log.storage.checkpoint(log.files)
    await log.reopen()
    await log.reopen()
    log.append(batch(3))
    await log.reopen()
    assert log.partition.snapshot().leader_epochs == [(0, 0), (2, 2), (3, 5)]


async def test_reopened__keeps_the_log_start_and_forgets_epochs_below() -> None:
    log = await open_log()
    log.append(batch(2))
    await log.reopen()
    log.append(batch(4))
    await log.partition.delete_records(3)
    await log.reopen()
    assert log.partition.log_start_offset == 3
    assert log.partition.snapshot().leader_epochs == [(1, 3), (2, 6)]


async def test_reopened__does_not_take_producers_for_silent_because_their_records_are_old() -> None:
    log = await open_log()
    log.append(sequenced(0, timestamp_ms=1))
    await log.reopen()
    assert log.partition.expire_producers(log.clock.wall_ms() + 86_399_999) == 0
    assert log.partition.expire_producers(log.clock.wall_ms() + 86_400_000) == 1


async def test_snapshot__describes_the_committed_end_while_appends_are_pending() -> None:
    log = await open_log()
    log.append(sequenced(0))
    log.send(sequenced(1))
    snapshot = log.partition.snapshot()
    assert snapshot.offset == 1
    assert [len(producer.batches) for producer in snapshot.producers] == [1]


async def test_describe_producers__lists_committed_ones() -> None:
    log: Log = await open_log()
    log.append(sequenced(0, 3, timestamp_ms=5))
    log.send(sequenced(0, producer_id=9))
    (producer,) = log.partition.describe_producers()
    assert producer == (7, 0, 2, 5, -1, -1)
