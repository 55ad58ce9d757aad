"""Classic bugs of a log, planted on purpose: each must be found, or the simulation is not worth its time.

Each is a context manager that breaks the log while it lasts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from bytemq.broker.log import reading
from bytemq.broker.log.appender import Appender
from bytemq.broker.log.producer_state import Producer, ProducerTable
from bytemq.broker.log.results import AppendResult
from bytemq.broker.log.state import LogState
from bytemq.broker.log.transactions import Transactions
from bytemq.protocol.error_codes import ErrorCode

Planted = Callable[[], AbstractContextManager[Any]]


def acknowledge_before_durable() -> AbstractContextManager[Any]:
    hand_over = Appender._hand_over

    def broken(self: Appender, batch: Any, prepared: Any, done: Any) -> None:
        hand_over(self, batch, prepared, lambda result: None)
        done(AppendResult(ErrorCode.NONE, prepared.base_offset))

    return patch.object(Appender, "_hand_over", broken)


def watermark_early() -> AbstractContextManager[Any]:
    fetched = reading._fetched

    def broken(state: Any, offset: int, read: Any, isolation: int) -> Any:
        return fetched(state, offset, read, isolation)._replace(high_watermark=state.end_offset)

    return patch.object(reading, "_fetched", broken)


def sequences_not_rolled_back() -> AbstractContextManager[Any]:
    return patch.object(ProducerTable, "rollback", lambda self, producers: list(producers))


def failed_beginning_forgotten() -> AbstractContextManager[Any]:
    return patch.object(ProducerTable, "await_beginning", lambda self, *producer: None)


def offsets_not_rolled_back() -> AbstractContextManager[Any]:
    rollback = LogState.rollback

    def broken(self: LogState[Any]) -> None:
        end_offset = self.end_offset
        rollback(self)
        self.end_offset = end_offset

    return patch.object(LogState, "rollback", broken)


def duplicates_by_sequence_alone() -> AbstractContextManager[Any]:
    prepare = LogState.prepare

    def broken(self: LogState[Any], batch: Any, *rest: Any, **options: Any) -> Any:
        batch.sent_crc = 0
        return prepare(self, batch, *rest, **options)

    return patch.object(LogState, "prepare", broken)


def duplicate_answered_before_its_original() -> AbstractContextManager[Any]:
    return patch.object(
        Appender, "_answer_duplicate", lambda self, duplicate, done: done(self._duplicate_result(duplicate.appended))
    )


def snapshot_of_what_is_pending() -> AbstractContextManager[Any]:
    snapshot = ProducerTable.snapshot

    def broken(self: ProducerTable) -> Any:
        committed, self._committed = self._committed, self._current
        try:
            return snapshot(self)
        finally:
            self._committed = committed

    return patch.object(ProducerTable, "snapshot", broken)


def producers_not_replayed() -> AbstractContextManager[Any]:
    return patch.object(LogState, "replay", lambda self, batch, now_ms: None)


def stable_offset_ignores_transactions() -> AbstractContextManager[Any]:
    return patch.object(LogState, "last_stable_offset", property(lambda self: self.high_watermark))


def aborted_transactions_lost_at_restart() -> AbstractContextManager[Any]:
    restore = Transactions.restore
    return patch.object(Transactions, "restore", lambda self, aborted, opened: restore(self, (), opened))


def marker_counts_before_durable() -> AbstractContextManager[Any]:
    admit_marker = ProducerTable.admit_marker

    def broken(self: ProducerTable, batch: Any, marker: Any, now_ms: int, **more: Any) -> Producer:
        admitted = admit_marker(self, batch, marker, now_ms, **more)
        self.transactions.complete(batch.producer_id, 1 << 40, aborted=not marker.committed)
        return admitted

    return patch.object(ProducerTable, "admit_marker", broken)


PLANTED: dict[Planted, int] = {
    acknowledge_before_durable: 5,
    watermark_early: 0,
    sequences_not_rolled_back: 2,
    failed_beginning_forgotten: 10,
    offsets_not_rolled_back: 2,
    duplicates_by_sequence_alone: 1,
    duplicate_answered_before_its_original: 6,
    snapshot_of_what_is_pending: 2,
    producers_not_replayed: 0,
    stable_offset_ignores_transactions: 1,
    aborted_transactions_lost_at_restart: 2,
    marker_counts_before_durable: 0,
}
"""Each with a seed that finds it."""
