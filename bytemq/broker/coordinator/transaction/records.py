"""The records of `__transaction_state`, in Kafka's format (TransactionLogKey 0, TransactionLogValue 0-1).

Values are written as version 1, as Kafka does with transaction version 2; both are read.
"""

from __future__ import annotations

from typing import NamedTuple

from bytemq.broker.coordinator.transaction.states import TransactionState
from bytemq.broker.coordinator.transaction.transaction import Transaction
from bytemq.protocol.codec import decode_record, encode_record, record_type
from bytemq.protocol.messages.transaction_log_record import PartitionsSchema, TransactionLogKey, TransactionLogValue
from bytemq.protocol.primitives import MalformedMessage

_TRANSACTION_TYPE = 0
_VALUE_VERSION = 1
_NEVER_STORED = (TransactionState.DEAD, TransactionState.PREPARE_EPOCH_FENCE)


class TransactionRecord(NamedTuple):
    """The state of one transactional id; None removes it."""

    transactional_id: str
    transaction: Transaction | None

    def encode_key(self) -> bytes:
        return bytes(encode_record(TransactionLogKey(transactional_id=self.transactional_id)))

    def encode_value(self) -> bytes | None:
        return None if self.transaction is None else bytes(encode_record(_to_value(self.transaction), _VALUE_VERSION))


def decode(key: bytes, value: bytes | None) -> TransactionRecord | None:
    """A stored record; None for a type that this version does not know. Raises MalformedMessage."""
    if record_type(key) != _TRANSACTION_TYPE:
        return None
    transactional_id = decode_record(TransactionLogKey, key).transactional_id
    if value is None:
        return TransactionRecord(transactional_id, None)
    return TransactionRecord(transactional_id, _from_value(decode_record(TransactionLogValue, value)))


def _to_value(transaction: Transaction) -> TransactionLogValue:
    return TransactionLogValue(
        producer_id=transaction.producer_id,
        previous_producer_id=transaction.previous_producer_id,
        next_producer_id=transaction.next_producer_id,
        producer_epoch=transaction.producer_epoch,
        transaction_timeout_ms=transaction.timeout_ms,
        transaction_status=int(transaction.state),
        transaction_partitions=None if transaction.state is TransactionState.EMPTY else _to_topics(transaction),
        transaction_last_update_timestamp_ms=transaction.update_ms,
        transaction_start_timestamp_ms=transaction.start_ms,
        client_transaction_version=transaction.client_version,
    )


def _to_topics(transaction: Transaction) -> list[PartitionsSchema]:
    topics: dict[str, list[int]] = {}
    for topic, index in sorted(transaction.partitions):
        topics.setdefault(topic, []).append(index)
    return [PartitionsSchema(topic=topic, partition_ids=indexes) for topic, indexes in topics.items()]


def _from_value(value: TransactionLogValue) -> Transaction:
    try:
        state = TransactionState(value.transaction_status)
    except ValueError as error:
        raise MalformedMessage(f"transaction status {value.transaction_status}") from error
    if state in _NEVER_STORED:
        raise MalformedMessage(f"a stored transaction that is {state.label}")
    topics = value.transaction_partitions or ()
    return Transaction(
        value.producer_id,
        value.producer_epoch,
        value.transaction_timeout_ms,
        state,
        frozenset((each.topic, index) for each in topics for index in each.partition_ids),
        value.transaction_start_timestamp_ms,
        value.transaction_last_update_timestamp_ms,
        value.previous_producer_id,
        value.next_producer_id,
        client_version=value.client_transaction_version,
    )
