"""The records of `__transaction_state`, in Kafka's format (TransactionLogKey 0, TransactionLogValue 0-1).

Values are written as version 1, as Kafka does with transaction version 2; both are read. Most of what a log holds is of
ids without a transaction; those are read by hand, so that a replay of a million records takes seconds.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from bytemq.broker.coordinator.transaction.states import TransactionState
from bytemq.broker.coordinator.transaction.transaction import NO_EPOCH, NO_PRODUCER_ID, Transaction
from bytemq.protocol.codec import decode_record, encode_record, record_type
from bytemq.protocol.messages.transaction_log_record import PartitionsSchema, TransactionLogKey, TransactionLogValue
from bytemq.protocol.primitives import MalformedMessage

_TRANSACTION_TYPE = 0
_VALUE_VERSION = 1
_NEVER_STORED = (TransactionState.DEAD, TransactionState.PREPARE_EPOCH_FENCE)
_STORED_STATES = {int(state): state for state in TransactionState if state not in _NEVER_STORED}
_WITHOUT_PARTITIONS = struct.Struct(">hqhibBqqB")
"""Version, producer id, epoch, timeout, status, number of partitions and one (0: null), times of the last update and of
the start, number of tagged fields."""
_TAGGED = {(0, 8): struct.Struct(">q"), (1, 8): struct.Struct(">q"), (2, 2): struct.Struct(">h")}
"""Previous producer id, next producer id, client's transaction version; by tag and size."""
_KEY_PREFIX = b"\0\0"
_KEY_HEAD_BYTES = 4
"""Type, and length of the id."""
_NO_PARTITIONS: frozenset[tuple[str, int]] = frozenset()


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
    if not key.startswith(_KEY_PREFIX) and record_type(key) != _TRANSACTION_TYPE:
        return None
    transactional_id = _transactional_id(key)
    if value is None:
        return TransactionRecord(transactional_id, None)
    transaction = _without_partitions(value)
    if transaction is None:
        transaction = _from_value(decode_record(TransactionLogValue, value))
    return TransactionRecord(transactional_id, transaction)


def _transactional_id(key: bytes) -> str:
    if len(key) >= _KEY_HEAD_BYTES and key[2] << 8 | key[3] == len(key) - _KEY_HEAD_BYTES:
        try:
            return key[_KEY_HEAD_BYTES:].decode()
        except UnicodeDecodeError:
            pass
    return decode_record(TransactionLogKey, key).transactional_id


def _without_partitions(value: bytes) -> Transaction | None:
    """The value by hand; None for anything but a version 1 without partitions and unknown fields."""
    position = _WITHOUT_PARTITIONS.size
    if len(value) < position:
        return None
    version, producer_id, epoch, timeout_ms, status, partitions, update_ms, start_ms, count = (
        _WITHOUT_PARTITIONS.unpack_from(value)
    )
    state = _STORED_STATES.get(status)
    if version != _VALUE_VERSION or partitions > 1 or state is None or producer_id < 0 or epoch < 0:
        return None
    previous_id = next_id = NO_PRODUCER_ID
    client_version = 0
    if count or len(value) != position:
        tagged = _tagged_fields(value, position, count)
        if tagged is None:
            return None
        previous_id, next_id, client_version = tagged
    fields = (producer_id, epoch, timeout_ms, state, _NO_PARTITIONS, start_ms, update_ms)
    return Transaction._make((*fields, previous_id, next_id, NO_EPOCH, client_version))


def _tagged_fields(value: bytes, position: int, count: int) -> tuple[int, int, int] | None:
    """Previous producer id, next producer id, client's transaction version; None where there is anything else."""
    tagged = [NO_PRODUCER_ID, NO_PRODUCER_ID, 0]
    last_tag = -1
    for _ in range(count):
        field = _TAGGED.get((value[position], value[position + 1])) if position + 2 <= len(value) else None
        if field is None or position + 2 + field.size > len(value) or value[position] <= last_tag:
            return None
        last_tag = value[position]
        (tagged[last_tag],) = field.unpack_from(value, position + 2)
        position += 2 + field.size
    return (tagged[0], tagged[1], tagged[2]) if position == len(value) else None


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
    if value.producer_id < 0 or value.producer_epoch < 0:
        raise MalformedMessage(f"a stored transaction of producer {value.producer_id}, epoch {value.producer_epoch}")
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
