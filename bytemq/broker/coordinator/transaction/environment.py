"""What the transaction machine is given: settings, timers, the time, a way to send markers, and the ids of the shard.

Owns the two views of each transactional id: committed, and on its way. A step is decided on the committed state, and
only when none is on its way; Kafka calls that the pending state, and answers CONCURRENT_TRANSACTIONS meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from bytemq.broker.coordinator.timers import Timers
from bytemq.broker.coordinator.transaction.states import TransactionState
from bytemq.broker.coordinator.transaction.transaction import NO_PRODUCER_ID, TopicPartition, Transaction
from bytemq.protocol.error_codes import ErrorCode, KafkaError


class TransactionSettings(NamedTuple):
    """Kafka's settings, under its names."""

    max_timeout_ms: int = 900_000
    id_expiration_ms: int = 7 * 24 * 60 * 60 * 1_000
    remove_expired_interval_ms: int = 3_600_000
    two_phase_commit_enable: bool = False


class EndedTransaction(NamedTuple):
    """A decision on its way to the partitions that took part, as control batches (WriteTxnMarkers)."""

    transactional_id: str
    producer_id: int
    producer_epoch: int
    committed: bool
    coordinator_epoch: int
    transaction_version: int
    partitions: frozenset[TopicPartition]


class Markers(Protocol):
    """Writes markers, here or on other brokers, again and again until each partition has its own."""

    def send(self, ended: EndedTransaction) -> None:
        """Tell the machine of each partition that is done: `Ending.marker_written`. Never from within this call."""


class NeedsProducerId(Exception):
    """The step needs a producer id that nobody had: get one, and ask again. Nothing has changed."""


class Entry:
    """One transactional id. `committed` is None until its first record is durable.

    `unmarked`: of a prepared transaction, the partitions that have no marker yet.
    """

    __slots__ = ("committed", "pending", "unmarked")

    def __init__(self, committed: Transaction | None) -> None:
        self.committed = committed
        self.pending: Transaction | None = None
        self.unmarked: set[TopicPartition] = set()


@dataclass(slots=True)
class TransactionEnvironment:
    """`wall_ms` is for what is stored and shown, `timers` for what must happen later."""

    settings: TransactionSettings
    timers: Timers
    wall_ms: Callable[[], int]
    markers: Markers
    coordinator_epoch: int
    on_timeout: Callable[[], None] = lambda: None
    """Called for each transaction that was aborted because its time was over."""
    entries: dict[str, Entry] = field(default_factory=dict)
    state_counts: Counter[TransactionState] = field(default_factory=Counter)
    """Of the committed: 100,000 ids are not counted anew for each look at them."""
    unmarked_count: int = 0
    """Markers of prepared transactions that are not written yet."""

    def identified(self, transactional_id: str, producer_id: int) -> tuple[Entry, Transaction]:
        """Raises KafkaError: INVALID_REQUEST for no id, INVALID_PRODUCER_ID_MAPPING for one that is not this
        producer's, CONCURRENT_TRANSACTIONS for the producer id that it goes on with once its markers are written.
        """
        entry, transaction = self.known(transactional_id)
        check_producer_id(transaction, producer_id)
        return entry, transaction

    def known(self, transactional_id: str) -> tuple[Entry, Transaction]:
        """Raises KafkaError INVALID_REQUEST or INVALID_PRODUCER_ID_MAPPING."""
        if not transactional_id:
            raise KafkaError(ErrorCode.INVALID_REQUEST)
        entry = self.entries.get(transactional_id)
        if entry is None or entry.committed is None:
            raise KafkaError(ErrorCode.INVALID_PRODUCER_ID_MAPPING)
        return entry, entry.committed


def check_producer_id(transaction: Transaction, producer_id: int) -> None:
    """See `identified`. The next id was told with the decision, so its producer may be faster than the markers."""
    if producer_id != transaction.producer_id:
        is_next = producer_id == transaction.next_producer_id != NO_PRODUCER_ID
        raise KafkaError(ErrorCode.CONCURRENT_TRANSACTIONS if is_next else ErrorCode.INVALID_PRODUCER_ID_MAPPING)


def timeout_key(transactional_id: str) -> tuple[str, str]:
    """The timer of a transaction: when it is aborted, or tried to be completed again."""
    return ("transaction", transactional_id)
