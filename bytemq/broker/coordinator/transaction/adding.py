"""AddPartitionsToTxn and AddOffsetsToTxn: which partitions take part, told by the client (transaction version 0 and 1)
or by the broker that was sent the first batch (version 2); and the question whether one does (KIP-890).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bytemq.broker.coordinator.outcome import NOTHING, Outcome
from bytemq.broker.coordinator.transaction.environment import Entry, TransactionEnvironment
from bytemq.broker.coordinator.transaction.records import TransactionRecord
from bytemq.broker.coordinator.transaction.states import PREPARED, TransactionState
from bytemq.broker.coordinator.transaction.transaction import TopicPartition, Transaction
from bytemq.protocol.error_codes import ErrorCode, KafkaError


class Writer(NamedTuple):
    """Who writes: a transactional id and the producer that speaks for it."""

    transactional_id: str
    producer_id: int
    producer_epoch: int


class Adding:
    """Over the transactional ids of one shard."""

    __slots__ = ("_environment",)

    def __init__(self, environment: TransactionEnvironment) -> None:
        self._environment = environment

    def add(self, writer: Writer, partitions: Iterable[TopicPartition], client_version: int) -> Outcome[None]:
        """Puts the partitions into the writer's transaction, which begins with the first. Raises KafkaError."""
        entry, current = self._current(writer)
        if entry.pending is not None or current.state in PREPARED:
            raise KafkaError(ErrorCode.CONCURRENT_TRANSACTIONS)
        added = frozenset(partitions)
        if current.state is TransactionState.ONGOING and added <= current.partitions:
            return NOTHING
        ongoing = current.with_partitions(added, client_version, self._environment.wall_ms())
        return Outcome(None, [TransactionRecord(writer.transactional_id, ongoing)])

    def verify(self, writer: Writer, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, ErrorCode]:
        """NONE for those that take part, else TRANSACTION_ABORTABLE. Raises KafkaError for what concerns all.

        A step on its way is not looked at: what it changes is not there before it is committed.
        """
        _, current = self._current(writer)
        if current.state in PREPARED:
            raise KafkaError(ErrorCode.CONCURRENT_TRANSACTIONS)
        return {
            partition: ErrorCode.NONE if partition in current.partitions else ErrorCode.TRANSACTION_ABORTABLE
            for partition in partitions
        }

    def _current(self, writer: Writer) -> tuple[Entry, Transaction]:
        entry, current = self._environment.identified(writer.transactional_id, writer.producer_id)
        if current.producer_epoch != writer.producer_epoch:
            raise KafkaError(ErrorCode.PRODUCER_FENCED)
        return entry, current
