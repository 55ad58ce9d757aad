"""ListTransactions and DescribeTransactions over the ids of one shard (KIP-664, KIP-994, KIP-1152)."""

from __future__ import annotations

from collections.abc import Container, Iterator

from bytemq.broker.coordinator.transaction.environment import TransactionEnvironment
from bytemq.broker.coordinator.transaction.states import PREPARED, TransactionState
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.describe_transactions import TopicData
from bytemq.protocol.messages.describe_transactions import TransactionState as Description
from bytemq.protocol.messages.list_transactions import TransactionState as Listing


class Describing:
    """Reads what is committed."""

    __slots__ = ("_environment",)

    def __init__(self, environment: TransactionEnvironment) -> None:
        self._environment = environment

    def describe(self, transactional_id: str) -> Description:
        """Raises KafkaError INVALID_REQUEST or TRANSACTIONAL_ID_NOT_FOUND."""
        if not transactional_id:
            raise KafkaError(ErrorCode.INVALID_REQUEST)
        entry = self._environment.entries.get(transactional_id)
        if entry is None or entry.committed is None:
            raise KafkaError(ErrorCode.TRANSACTIONAL_ID_NOT_FOUND)
        transaction = entry.committed
        partitions = entry.unmarked if transaction.state in PREPARED else transaction.partitions
        topics: dict[str, list[int]] = {}
        for topic, index in sorted(partitions):
            topics.setdefault(topic, []).append(index)
        return Description(
            transactional_id=transactional_id,
            transaction_state=transaction.state.label,
            transaction_timeout_ms=transaction.timeout_ms,
            transaction_start_time_ms=transaction.start_ms,
            producer_id=transaction.producer_id,
            producer_epoch=transaction.producer_epoch,
            topics=[TopicData(topic=topic, partitions=indexes) for topic, indexes in topics.items()],
        )

    def listing(
        self,
        states: Container[TransactionState] | None,
        producer_ids: Container[int] | None,
        longer_than_ms: int,
    ) -> Iterator[Listing]:
        """Those that pass every filter; None, or a negative time, filters nothing."""
        now_ms = self._environment.wall_ms()
        for transactional_id, entry in self._environment.entries.items():
            transaction = entry.committed
            if transaction is None:
                continue
            if states is not None and transaction.state not in states:
                continue
            if producer_ids is not None and transaction.producer_id not in producer_ids:
                continue
            if longer_than_ms >= 0 and now_ms - transaction.start_ms <= longer_than_ms:
                continue
            yield Listing(transactional_id, transaction.producer_id, transaction.state.label)
