"""Transactions in a log: last stable offset, markers, what read_committed is told to skip, and their recovery."""

from typing import Any

import pytest

from bytemq.broker.log.results import Origin
from bytemq.broker.log.transactions import Transactions
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.records.control import EndTransactionMarker, end_transaction_batch, marker_of, marker_word
from tests.unit.log.harness import COORDINATOR, NOW_MS, LetIn, Log, batch, open_log, sequenced

COMMIT, ABORT = EndTransactionMarker(True, 3), EndTransactionMarker(False, 3)


async def open_transactional() -> Log:
    log = await open_log()
    log.services.guard = LetIn()
    return log


def write(log: Log, sequence: int, *, producer_id: int = 7, **options: Any) -> int:
    answer = log.append(sequenced(sequence, producer_id=producer_id, transactional=True, **options))
    assert answer.error is ErrorCode.NONE
    return answer.base_offset


def end(log: Log, marker: EndTransactionMarker, *, producer_id: int = 7, producer_epoch: int = 0) -> ErrorCode:
    payload = end_transaction_batch(marker, producer_id=producer_id, producer_epoch=producer_epoch, timestamp_ms=NOW_MS)
    return log.append(payload, origin=COORDINATOR).error


def aborted(log: Log, offset: int = 0) -> list[tuple[int, int]] | None:
    fetched = log.partition.read_cached(offset, 100_000, isolation=1)
    assert fetched is not None
    return fetched.aborted


async def test_last_stable_offset__waits_for_the_oldest_open_transaction() -> None:
    log = await open_transactional()
    log.append(batch())
    write(log, 0, producer_id=1)
    write(log, 0, producer_id=2)
    assert (log.partition.high_watermark, log.partition.last_stable_offset) == (3, 1)
    end(log, COMMIT, producer_id=1)
    assert log.partition.last_stable_offset == 2
    end(log, ABORT, producer_id=2)
    assert log.partition.last_stable_offset == log.partition.high_watermark == 5


async def test_last_stable_offset__is_never_below_the_log_start() -> None:
    log = await open_transactional()
    for sequence in range(3):
        write(log, sequence)
    await log.partition.delete_records(2)
    assert log.partition.last_stable_offset == 2
    assert log.partition.high_watermark == 3


async def test_last_stable_offset__does_not_count_a_marker_before_it_is_durable() -> None:
    log = await open_transactional()
    write(log, 0)
    payload = end_transaction_batch(COMMIT, producer_id=7, producer_epoch=0, timestamp_ms=NOW_MS)
    log.send(payload, origin=COORDINATOR)
    assert log.partition.last_stable_offset == 0
    log.storage.fail()
    assert log.partition.last_stable_offset == 0
    end(log, COMMIT)
    assert log.partition.last_stable_offset == 2


async def test_read_committed__is_told_which_transactions_were_aborted() -> None:
    log = await open_transactional()
    write(log, 0, producer_id=1)  # 0
    write(log, 0, producer_id=2)  # 1
    end(log, ABORT, producer_id=1)  # 2
    end(log, COMMIT, producer_id=2)  # 3
    write(log, 1, producer_id=1)  # 4
    end(log, ABORT, producer_id=1)  # 5
    assert aborted(log) == [(1, 0), (1, 4)]
    assert aborted(log, 3) == [(1, 4)]
    assert aborted(log, 6) == []
    uncommitted = log.partition.read_cached(0, 1_000, isolation=0)
    assert uncommitted is not None and uncommitted.aborted is None


async def test_transactions__survive_a_crash_with_and_without_a_snapshot() -> None:
    log = await open_transactional()
    write(log, 0, producer_id=1)
    end(log, ABORT, producer_id=1)
    write(log, 0, producer_id=2)
    for snapshot in (False, True):
        if snapshot:
            log.storage.checkpoint(log.files)
        await log.reopen()
        assert aborted(log) == [(1, 0)]
        assert log.partition.last_stable_offset == 2
        assert log.partition.describe_producers()[0].coordinator_epoch == 3
    end(log, COMMIT, producer_id=2)
    assert log.partition.last_stable_offset == log.partition.high_watermark


async def test_markers__of_an_older_coordinator_or_producer_epoch_are_refused() -> None:
    log = await open_transactional()
    write(log, 0, epoch=5)
    assert end(log, ABORT, producer_epoch=4) is ErrorCode.INVALID_PRODUCER_EPOCH
    assert end(log, ABORT, producer_epoch=5) is ErrorCode.NONE
    assert end(log, EndTransactionMarker(True, 2), producer_epoch=5) is ErrorCode.TRANSACTION_COORDINATOR_FENCED


async def test_append__refuses_a_plain_batch_inside_a_transaction() -> None:
    log = await open_transactional()
    write(log, 0)
    assert log.append(sequenced(1)).error is ErrorCode.INVALID_TXN_STATE


async def test_guard__is_asked_at_the_start_of_a_transaction_and_not_for_retries() -> None:
    log = await open_transactional()
    guard = log.services.guard
    assert isinstance(guard, LetIn)
    write(log, 0)
    write(log, 1)
    end(log, COMMIT)
    write(log, 1)  # a retry that came late
    assert guard.asked == 1
    write(log, 2)
    assert guard.asked == 2


async def test_sequences__go_on_after_a_marker_and_restart_with_its_new_epoch() -> None:
    log = await open_transactional()
    write(log, 0)
    end(log, COMMIT)
    assert write(log, 1) == 2
    end(log, COMMIT, producer_epoch=1)
    assert log.append(sequenced(2, transactional=True)).error is ErrorCode.INVALID_PRODUCER_EPOCH
    assert write(log, 0, epoch=1) == 4


async def test_delete_records__forgets_aborted_transactions_below() -> None:
    log = await open_transactional()
    write(log, 0)
    end(log, ABORT)
    log.append(batch())
    await log.partition.delete_records(2)
    assert log.partition.snapshot().aborted == []


@pytest.mark.parametrize("marker", [COMMIT, ABORT, EndTransactionMarker(False, -1), None])
def test_marker_word__can_be_read_back(marker: EndTransactionMarker | None) -> None:
    word = marker_word(marker)
    assert 0 <= word < 1 << 32
    assert marker_of(word) == marker


def test_aborted_between__stops_where_nothing_later_can_overlap() -> None:
    transactions = Transactions()
    for number in range(100):
        transactions.begin(number, number * 10)
        transactions.complete(number, number * 10 + 5, aborted=True)
    assert transactions.aborted_between(500, 520) == [(50, 500), (51, 510)]
    assert transactions.aborted_between(506, 510) == []


async def test_bumped_marker__does_not_end_the_transaction_that_began_under_its_epoch() -> None:
    """Transaction version 2: the marker of one transaction has the epoch of the next (KIP-1228)."""
    log = await open_transactional()

    def end_bumped(producer_epoch: int) -> ErrorCode:
        payload = end_transaction_batch(COMMIT, producer_id=7, producer_epoch=producer_epoch, timestamp_ms=NOW_MS)
        return log.append(payload, origin=Origin.BUMPED_MARKER).error

    write(log, 0)
    assert end_bumped(1) is ErrorCode.NONE
    assert end_bumped(1) is ErrorCode.NONE  # repeated, before anything else was written
    first_offset = write(log, 0, epoch=1)
    assert end_bumped(1) is ErrorCode.INVALID_PRODUCER_EPOCH
    assert log.partition.last_stable_offset == first_offset
    assert end_bumped(2) is ErrorCode.NONE
    assert log.partition.last_stable_offset == log.partition.high_watermark
