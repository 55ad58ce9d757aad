"""How transactions end: EndTxn, fencing, time-outs, and the way from the decision over the markers to completion.

Version 0 and 1: the epoch stays; a repeated EndTxn is recognised by the state. Version 2 (KIP-890): the epoch is bumped
with the decision, so a repeated one has the epoch before, and one with the current epoch is the next transaction's; an
abort of nothing is legal, and bumps.
"""

from __future__ import annotations

from functools import partial
from typing import Final, NamedTuple, TypeVar

from bytemq.broker.coordinator.outcome import NOTHING, Outcome
from bytemq.broker.coordinator.transaction.environment import (
    EndedTransaction,
    NeedsProducerId,
    TransactionEnvironment,
    check_producer_id,
    timeout_key,
)
from bytemq.broker.coordinator.transaction.records import TransactionRecord
from bytemq.broker.coordinator.transaction.states import PREPARED, TransactionState
from bytemq.broker.coordinator.transaction.transaction import (
    EPOCH_BUMP_VERSION,
    LAST_CLIENT_EPOCH,
    MAX_EPOCH,
    NO_PRODUCER_ID,
    NO_TIMEOUT_MS,
    TopicPartition,
    Transaction,
)
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.end_txn import EndTxnRequest, EndTxnResponse

BROKER_VERSION: Final = 2
"""The transaction version that the broker itself ends transactions with."""
_RETRY_MS: Final = 1_000

R = TypeVar("R")


class _Decision(NamedTuple):
    commit: bool
    client_version: int


class Ending:
    """Over the transactional ids of one shard."""

    __slots__ = ("_environment",)

    def __init__(self, environment: TransactionEnvironment) -> None:
        self._environment = environment

    # -- what clients ask

    def end(self, request: EndTxnRequest, client_version: int, new_producer_id: int | None) -> Outcome[EndTxnResponse]:
        """Answers when the decision is durable; the markers follow. Raises NeedsProducerId or KafkaError."""
        transactional_id = request.transactional_id
        entry, current = self._environment.known(transactional_id)
        bumps = client_version >= EPOCH_BUMP_VERSION
        repeated = bumps and _is_repeated(current, request)
        rotated = repeated and current.producer_id != request.producer_id
        if not rotated:
            check_producer_id(current, request.producer_id)
        if not repeated and request.producer_epoch != current.producer_epoch:
            raise KafkaError(ErrorCode.PRODUCER_FENCED)
        if repeated and current.producer_epoch == MAX_EPOCH and current.next_producer_id == NO_PRODUCER_ID:
            raise KafkaError(ErrorCode.PRODUCER_FENCED)  # that epoch is only to fence with: nobody goes on with it
        if entry.pending is not None or (bumps and not repeated and current.state in PREPARED):
            # The next transaction's: its epoch was told with the decision, and the markers are still on their way.
            raise KafkaError(ErrorCode.CONCURRENT_TRANSACTIONS)
        if current.state is TransactionState.ONGOING or (bumps and not repeated and _may_abort(current, request)):
            return self._decide(transactional_id, _Decision(request.committed, client_version), new_producer_id)
        _check_repeated(current, request, may_repeat=repeated or not bumps)
        if bumps:
            return Outcome(EndTxnResponse(producer_id=current.producer_id, producer_epoch=current.producer_epoch))
        return Outcome(EndTxnResponse())

    def fence(self, transactional_id: str, response: R) -> Outcome[R]:
        """Aborts the open transaction; the bump that every end of version 2 has is what fences its producer, and once
        is enough: asking with the epoch before, that producer may go on. CONCURRENT_TRANSACTIONS where a step is on its
        way.
        """
        entry, current = self._environment.known(transactional_id)
        if entry.pending is not None:
            raise KafkaError(ErrorCode.CONCURRENT_TRANSACTIONS)
        aborted = current.prepared(False, BROKER_VERSION, NO_PRODUCER_ID, self._environment.wall_ms())
        return self._decided(transactional_id, aborted, response)

    # -- what follows

    def watch(self, transactional_id: str, ongoing: Transaction) -> None:
        """The transaction is open: it is aborted when its time is over."""
        if ongoing.timeout_ms != NO_TIMEOUT_MS:
            left_ms = ongoing.start_ms + ongoing.timeout_ms - self._environment.wall_ms()
            self._environment.timers.schedule(
                timeout_key(transactional_id), left_ms + 1, partial(self._timed_out, transactional_id)
            )

    def resume(self, transactional_id: str) -> Outcome[None]:
        """A decision is durable: its markers are sent. Without partitions it is complete."""
        _, prepared = self._environment.known(transactional_id)
        entry = self._environment.entries[transactional_id]
        entry.unmarked = set(prepared.partitions)
        self._environment.unmarked_count += len(entry.unmarked)
        self._environment.timers.cancel(timeout_key(transactional_id))
        if not prepared.partitions:
            return self._complete(transactional_id)
        self._environment.markers.send(
            EndedTransaction(
                transactional_id,
                prepared.producer_id,
                prepared.producer_epoch,
                prepared.is_commit,
                self._environment.coordinator_epoch,
                prepared.client_version,
                prepared.partitions,
            )
        )
        return NOTHING

    def marker_written(self, ended: EndedTransaction, partition: TopicPartition) -> Outcome[None]:
        """A partition has the marker, durably, or is gone. The last one completes the transaction."""
        entry = self._environment.entries.get(ended.transactional_id)
        if entry is None or entry.committed is None or entry.committed.state not in PREPARED:
            return NOTHING
        if (entry.committed.producer_id, entry.committed.producer_epoch) != ended[1:3]:
            return NOTHING
        if partition in entry.unmarked:
            entry.unmarked.remove(partition)
            self._environment.unmarked_count -= 1
        return NOTHING if entry.unmarked else self._complete(ended.transactional_id)

    # -- within

    def _decide(
        self, transactional_id: str, decision: _Decision, new_producer_id: int | None
    ) -> Outcome[EndTxnResponse]:
        _, current = self._environment.known(transactional_id)
        bumps = decision.client_version >= EPOCH_BUMP_VERSION
        next_producer_id = NO_PRODUCER_ID
        if bumps and current.is_epoch_exhausted:
            if new_producer_id is None:
                raise NeedsProducerId
            next_producer_id = new_producer_id
        now_ms = self._environment.wall_ms()
        prepared = current.prepared(decision.commit, decision.client_version, next_producer_id, now_ms)
        response = EndTxnResponse()
        if bumps:
            done = prepared.completed(now_ms)
            response = EndTxnResponse(producer_id=done.producer_id, producer_epoch=done.producer_epoch)
        return self._decided(transactional_id, prepared, response)

    def _decided(self, transactional_id: str, prepared: Transaction, response: R) -> Outcome[R]:
        def appended(code: ErrorCode) -> Outcome[None]:
            return self.resume(transactional_id) if code is ErrorCode.NONE else NOTHING

        return Outcome(response, [TransactionRecord(transactional_id, prepared)], appended)

    def _complete(self, transactional_id: str) -> Outcome[None]:
        entry, prepared = self._environment.known(transactional_id)
        if entry.pending is not None or prepared.state not in PREPARED:
            return NOTHING
        completed = prepared.completed(self._environment.wall_ms())

        def appended(code: ErrorCode) -> Outcome[None]:
            if code is not ErrorCode.NONE:
                self._retry(transactional_id, partial(self._complete, transactional_id))
            return NOTHING

        return Outcome(None, [TransactionRecord(transactional_id, completed)], appended)

    def _timed_out(self, transactional_id: str) -> Outcome[None]:
        entry = self._environment.entries.get(transactional_id)
        if entry is None or entry.committed is None or entry.committed.state is not TransactionState.ONGOING:
            return NOTHING
        self._retry(transactional_id, partial(self._timed_out, transactional_id))  # until the abort is durable
        if entry.pending is not None:
            return NOTHING
        fenced = self.fence(transactional_id, None)

        def appended(code: ErrorCode) -> Outcome[None]:
            if code is ErrorCode.NONE:
                self._environment.on_timeout()
            return NOTHING if fenced.on_appended is None else fenced.on_appended(code)

        return fenced._replace(on_appended=appended)

    def _retry(self, transactional_id: str, action: partial[Outcome[None]]) -> None:
        self._environment.timers.schedule(timeout_key(transactional_id), _RETRY_MS, action)


def _is_repeated(current: Transaction, request: EndTxnRequest) -> bool:
    """Version 2: the request was decided before; its epoch is the one before the current."""
    if current.state in (TransactionState.EMPTY, TransactionState.ONGOING):
        return False
    if current.producer_id == request.producer_id and current.producer_epoch == request.producer_epoch + 1:
        return True
    rotated = current.previous_producer_id == request.producer_id and current.producer_epoch == 0
    return rotated and request.producer_epoch == LAST_CLIENT_EPOCH and current.is_at_rest


def _may_abort(current: Transaction, request: EndTxnRequest) -> bool:
    """Version 2: to abort nothing is legal."""
    return not request.committed and current.is_at_rest


def _check_repeated(current: Transaction, request: EndTxnRequest, *, may_repeat: bool) -> None:
    """Raises CONCURRENT_TRANSACTIONS for a repetition whose markers are on their way, INVALID_TXN_STATE for what is
    none.
    """
    same = current.state is not TransactionState.EMPTY and request.committed == current.is_commit
    if same and current.state in PREPARED:
        raise KafkaError(ErrorCode.CONCURRENT_TRANSACTIONS)
    if not (same and may_repeat):
        raise KafkaError(ErrorCode.INVALID_TXN_STATE)
