"""InitProducerId of a transactional producer: its id and epoch, and the end of whoever had them before.

KIP-98; KIP-360: a producer that says which id and epoch it has goes on after an error without being fenced by itself,
and hears the same answer when it has to ask twice. An open transaction is aborted first, with a bump of the epoch; the
client is told CONCURRENT_TRANSACTIONS meanwhile and asks again.
"""

from __future__ import annotations

from typing import NamedTuple

from bytemq.broker.coordinator.outcome import Outcome
from bytemq.broker.coordinator.transaction.ending import Ending
from bytemq.broker.coordinator.transaction.environment import (
    NeedsProducerId,
    TransactionEnvironment,
    TransactionSettings,
)
from bytemq.broker.coordinator.transaction.records import TransactionRecord
from bytemq.broker.coordinator.transaction.states import PREPARED, TransactionState
from bytemq.broker.coordinator.transaction.transaction import (
    LAST_CLIENT_EPOCH,
    MAX_EPOCH,
    NO_EPOCH,
    NO_TIMEOUT_MS,
    Transaction,
)
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse

_MAX_ID_BYTES = 0x7FFF


class ProducerIdentity(NamedTuple):
    """The id and epoch that a producer believes it has."""

    producer_id: int
    producer_epoch: int


class Initialising:
    """Over the transactional ids of one shard."""

    __slots__ = ("_ending", "_environment")

    def __init__(self, environment: TransactionEnvironment, ending: Ending) -> None:
        self._environment = environment
        self._ending = ending

    def initialise(
        self, request: InitProducerIdRequest, new_producer_id: int | None
    ) -> Outcome[InitProducerIdResponse]:
        """`new_producer_id` is one that nobody had. Raises NeedsProducerId where it takes one and has None.

        Raises KafkaError: INVALID_REQUEST, INVALID_TRANSACTION_TIMEOUT, PRODUCER_FENCED, CONCURRENT_TRANSACTIONS, ...
        """
        transactional_id = request.transactional_id or ""
        timeout_ms = checked_timeout_ms(request, self._environment.settings)
        entry = self._environment.entries.get(transactional_id)
        if entry is not None and entry.pending is not None:
            raise KafkaError(ErrorCode.CONCURRENT_TRANSACTIONS)
        if entry is None or entry.committed is None:
            if new_producer_id is None:
                raise NeedsProducerId
            blank = Transaction(new_producer_id, NO_EPOCH, timeout_ms)
            return self._begin(transactional_id, blank, new_producer_id, 0, NO_EPOCH, timeout_ms)
        current = entry.committed
        if current.state in PREPARED:
            raise KafkaError(ErrorCode.CONCURRENT_TRANSACTIONS)
        expected = None
        if request.producer_id >= 0:
            expected = ProducerIdentity(request.producer_id, request.producer_epoch)
            _check_producer_id(current, expected)
        if current.state is TransactionState.ONGOING:
            ask_again = InitProducerIdResponse(
                error_code=ErrorCode.CONCURRENT_TRANSACTIONS, producer_id=-1, producer_epoch=-1
            )
            return self._ending.fence(transactional_id, ask_again)
        if _takes_new_id(current, expected):
            if new_producer_id is None:
                raise NeedsProducerId
            last_epoch = NO_EPOCH if expected is None else expected.producer_epoch
            return self._begin(transactional_id, current, new_producer_id, 0, last_epoch, timeout_ms)
        epoch, last_epoch = _next_epoch(current, None if expected is None else expected.producer_epoch)
        return self._begin(transactional_id, current, current.producer_id, epoch, last_epoch, timeout_ms)

    def _begin(
        self,
        transactional_id: str,
        current: Transaction,
        producer_id: int,
        epoch: int,
        last_epoch: int,
        timeout_ms: int,
    ) -> Outcome[InitProducerIdResponse]:
        emptied = current.emptied(producer_id, epoch, last_epoch, timeout_ms, self._environment.wall_ms())
        response = InitProducerIdResponse(producer_id=producer_id, producer_epoch=epoch)
        return Outcome(response, [TransactionRecord(transactional_id, emptied)])


def checked_timeout_ms(request: InitProducerIdRequest, settings: TransactionSettings) -> int:
    """The transaction's time-out. Raises KafkaError for what is wrong with the request whoever coordinates the id."""
    transactional_id = request.transactional_id or ""
    too_long = len(transactional_id.encode("utf-8", "surrogatepass")) > _MAX_ID_BYTES
    if not transactional_id or too_long:
        raise KafkaError(ErrorCode.INVALID_REQUEST)
    if request.enable2_pc and not settings.two_phase_commit_enable:
        raise KafkaError(ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
    if request.keep_prepared_txn:
        raise KafkaError(ErrorCode.UNSUPPORTED_VERSION)
    if request.enable2_pc:
        return NO_TIMEOUT_MS
    if not 0 < request.transaction_timeout_ms <= settings.max_timeout_ms:
        raise KafkaError(ErrorCode.INVALID_TRANSACTION_TIMEOUT)
    return request.transaction_timeout_ms


def _check_producer_id(current: Transaction, expected: ProducerIdentity) -> None:
    """Raises PRODUCER_FENCED. The id before counts as well: the answer that gave the next one may have been lost."""
    if current.producer_epoch == NO_EPOCH or expected.producer_id == current.producer_id:
        return
    is_before = expected.producer_id == current.previous_producer_id
    if not (is_before and expected.producer_epoch >= LAST_CLIENT_EPOCH):
        raise KafkaError(ErrorCode.PRODUCER_FENCED)


def _takes_new_id(current: Transaction, expected: ProducerIdentity | None) -> bool:
    """The epochs are used up. The largest is only to fence with: who had the one before gets a new id, too."""
    if not current.is_epoch_exhausted:
        return False
    had = (
        {current.producer_epoch, current.last_epoch}
        if current.producer_epoch == MAX_EPOCH
        else {current.producer_epoch}
    )
    return expected is None or (expected.producer_id == current.producer_id and expected.producer_epoch in had)


def _next_epoch(current: Transaction, expected_epoch: int | None) -> tuple[int, int]:
    """(epoch, epoch before). Raises PRODUCER_FENCED."""
    if expected_epoch is None:
        return current.producer_epoch + 1, NO_EPOCH
    if expected_epoch == current.producer_epoch or current.producer_epoch == NO_EPOCH:
        return current.producer_epoch + 1, current.producer_epoch
    if expected_epoch == current.last_epoch:
        return current.producer_epoch, current.last_epoch  # asked before, and answered: nothing new
    raise KafkaError(ErrorCode.PRODUCER_FENCED)
