"""Classic bugs of a transaction coordinator, and of what takes part in transactions, planted on purpose. Each is a
context manager that breaks it while it lasts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from bytemq.broker.coordinator.outcome import NOTHING, Outcome
from bytemq.broker.coordinator.transaction import environment, records, shard
from bytemq.broker.coordinator.transaction.adding import Adding
from bytemq.broker.coordinator.transaction.ending import Ending
from bytemq.broker.coordinator.transaction.initialising import Initialising
from bytemq.broker.coordinator.transaction.shard import TransactionShard
from bytemq.broker.coordinator.transaction.states import TransactionState
from bytemq.broker.coordinator.transaction.transaction import Transaction
from bytemq.broker.log.producer_state import ProducerTable
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from tests.simulation.broker.planted import (
    abort_answered_as_commit,
    completed_before_all_markers,
    failed_step_not_taken_back,
    marker_lost,
    marker_of_an_older_coordinator_accepted,
    markers_not_sent_again_after_reload,
    offset_committed_before_its_marker,
    partition_not_verified,
    pending_offsets_dropped_at_reload,
    unstable_offsets_given,
    zombie_may_end_the_transaction,
    zombie_not_fenced_by_its_successor,
)

Planted = Callable[[], AbstractContextManager[Any]]


def time_not_watched_after_reload() -> AbstractContextManager[Any]:
    """Transactions that were open when their coordinator died are not aborted when their time is over."""
    loaded = TransactionShard.loaded

    def broken(self: TransactionShard) -> list[Outcome[None]]:
        with patch.object(Ending, "watch", lambda *_: None):
            return loaded(self)

    return patch.object(TransactionShard, "loaded", broken)


def open_transaction_expires() -> AbstractContextManager[Any]:
    """An id that was not used for long is forgotten in the middle of its transaction."""

    def broken(entry: Any, expired_before_ms: int) -> bool:
        return entry is not None and entry.committed is not None and entry.committed.update_ms <= expired_before_ms

    return patch.object(shard, "_is_expired", broken)


def epoch_not_bumped_at_the_end() -> AbstractContextManager[Any]:
    """Transaction version 2 without what it is for."""
    prepared = Transaction.prepared

    def broken(self: Transaction, commit: bool, client_version: int, *rest: Any) -> Transaction:
        return prepared(self, commit, 0, *rest)._replace(client_version=client_version)

    return patch.object(Transaction, "prepared", broken)


def marker_may_end_the_next_transaction() -> AbstractContextManager[Any]:
    """A late marker of version 2, whose epoch is that of the next transaction, ends that (KIP-1228)."""
    admit_marker = ProducerTable.admit_marker

    def broken(self: ProducerTable, batch: Any, marker: Any, now_ms: int, *, is_bumped: bool = False) -> Any:
        return admit_marker(self, batch, marker, now_ms)

    return patch.object(ProducerTable, "admit_marker", broken)


def markers_sent_before_the_decision_is_durable() -> AbstractContextManager[Any]:
    decided = Ending._decided

    def broken(self: Ending, transactional_id: str, prepared: Transaction, response: Any) -> Any:
        outcome = decided(self, transactional_id, prepared, response)
        entry = self._environment.entries[transactional_id]
        committed, entry.committed = entry.committed, prepared
        self.resume(transactional_id)
        entry.committed = committed
        return outcome

    return patch.object(Ending, "_decided", broken)


def completion_not_written_again() -> AbstractContextManager[Any]:
    """The write that ends a transaction fails, and nobody tries again."""
    return patch.object(Ending, "_retry", lambda *_: None)


def step_begun_beside_another_one() -> AbstractContextManager[Any]:
    """A partition is added to what is about to be decided otherwise."""
    add = Adding.add

    def broken(self: Adding, writer: Any, *rest: Any) -> Any:
        entry = self._environment.entries.get(writer.transactional_id)
        if entry is None or entry.pending is None:
            return add(self, writer, *rest)
        return NOTHING

    return patch.object(Adding, "add", broken)


def partitions_not_in_the_log() -> AbstractContextManager[Any]:
    """A coordinator that loads a transaction does not know who takes part."""
    return patch.object(records, "_to_topics", lambda transaction: [])


def partition_not_added() -> AbstractContextManager[Any]:
    """A transaction that is open is answered well whatever is added to it."""
    add = Adding.add

    def broken(self: Adding, writer: Any, *rest: Any) -> Any:
        _, current = self._current(writer)
        return NOTHING if current.state is TransactionState.ONGOING else add(self, writer, *rest)

    return patch.object(Adding, "add", broken)


def open_transaction_not_aborted_by_a_successor() -> AbstractContextManager[Any]:
    """InitProducerId begins anew over the transaction that is open."""
    initialise = Initialising.initialise

    def broken(self: Initialising, request: Any, new_producer_id: int | None) -> Any:
        entry = self._environment.entries.get(request.transactional_id)
        if entry is not None and entry.committed is not None and entry.committed.state is TransactionState.ONGOING:
            entry.committed = entry.committed._replace(state=TransactionState.EMPTY, partitions=frozenset())
        return initialise(self, request, new_producer_id)

    return patch.object(Initialising, "initialise", broken)


def next_producer_id_not_known() -> AbstractContextManager[Any]:
    """Who goes on with the id that it was told is a stranger until the markers are written."""

    def broken(transaction: Transaction, producer_id: int) -> None:
        if producer_id != transaction.producer_id:
            raise KafkaError(ErrorCode.INVALID_PRODUCER_ID_MAPPING)

    return patch.object(environment, "check_producer_id", broken)


PLANTED: dict[Planted, int] = {
    marker_lost: 0,
    markers_not_sent_again_after_reload: 0,
    completed_before_all_markers: 39,
    marker_of_an_older_coordinator_accepted: 37,
    marker_may_end_the_next_transaction: 108,
    markers_sent_before_the_decision_is_durable: 48,
    completion_not_written_again: 0,
    abort_answered_as_commit: 96,
    epoch_not_bumped_at_the_end: 0,
    zombie_not_fenced_by_its_successor: 0,
    zombie_may_end_the_transaction: 2,
    open_transaction_not_aborted_by_a_successor: 17,
    step_begun_beside_another_one: 1,
    failed_step_not_taken_back: 0,
    partition_not_added: 1,
    partition_not_verified: 75,
    partitions_not_in_the_log: 0,
    time_not_watched_after_reload: 2,
    open_transaction_expires: 0,
    next_producer_id_not_known: 8,
    offset_committed_before_its_marker: 2,
    pending_offsets_dropped_at_reload: 0,
    unstable_offsets_given: 1,
}
"""Each with a seed that finds it."""
