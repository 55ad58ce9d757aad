"""The records of `__transaction_state`: what is read by hand is what the generated codec reads."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemq.broker.coordinator.transaction import records
from bytemq.broker.coordinator.transaction.records import TransactionRecord, decode
from bytemq.broker.coordinator.transaction.states import TransactionState
from bytemq.broker.coordinator.transaction.transaction import Transaction
from bytemq.protocol.codec import decode_record
from bytemq.protocol.messages.transaction_log_record import TransactionLogValue
from bytemq.protocol.primitives import MalformedMessage

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
TRANSACTIONS = st.builds(
    Transaction,
    producer_id=st.integers(0, (1 << 63) - 1),
    producer_epoch=st.integers(0, 0x7FFF),
    timeout_ms=st.integers(0, (1 << 31) - 1),
    state=st.sampled_from([state for state in TransactionState if state < TransactionState.DEAD]),
    partitions=st.frozensets(st.tuples(st.text(max_size=3), st.integers(0, 9)), max_size=2),
    start_ms=INT64,
    update_ms=INT64,
    previous_producer_id=st.sampled_from([-1, 7]),
    next_producer_id=st.sampled_from([-1, 8]),
    last_epoch=st.just(-1),
    client_version=st.integers(0, 3),
)


def by_codec(value: bytes) -> Transaction | None:
    try:
        return records._from_value(decode_record(TransactionLogValue, value))
    except MalformedMessage:
        return None


@settings(max_examples=200)
@given(transaction=TRANSACTIONS, transactional_id=st.text(max_size=20))
def test_record__comes_back_as_it_was(transaction: Transaction, transactional_id: str) -> None:
    if transaction.state is TransactionState.EMPTY:
        transaction = transaction._replace(partitions=frozenset())
    record = TransactionRecord(transactional_id, transaction)
    value = record.encode_value()
    assert value is not None
    assert decode(record.encode_key(), value) == record
    assert decode(record.encode_key(), None) == TransactionRecord(transactional_id, None)
    assert (records._without_partitions(value) is None) == bool(transaction.partitions)


@pytest.mark.parametrize("partitions", [frozenset(), frozenset({("t", 0)})])
@pytest.mark.parametrize("who", [(-1, 0), (7, -1)])
def test_record__of_a_producer_that_nobody_can_be_is_damaged(
    who: tuple[int, int], partitions: frozenset[tuple[str, int]]
) -> None:
    record = TransactionRecord("id", Transaction(*who, 60_000, TransactionState.ONGOING, partitions))
    with pytest.raises(MalformedMessage):
        decode(record.encode_key(), record.encode_value())


@settings(max_examples=400)
@given(transaction=TRANSACTIONS, data=st.data())
def test_value_read_by_hand__is_what_the_codec_reads(transaction: Transaction, data: st.DataObject) -> None:
    value = bytearray(TransactionRecord("id", transaction).encode_value() or b"")
    for _ in range(data.draw(st.integers(0, 3))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(value[: data.draw(st.integers(len(value) // 2, len(value)))])
    by_hand = records._without_partitions(cut)
    assert by_hand is None or by_hand == by_codec(cut)
