"""Control records as coordinators write them and as others read them."""

from __future__ import annotations

import pytest
from kafka.record.memory_records import MemoryRecords

from bytemq.protocol.records.batch import parse_header
from bytemq.protocol.records.builder import Record
from bytemq.protocol.records.control import (
    ControlType,
    EndTransactionMarker,
    control_type,
    end_transaction_batch,
    parse_end_transaction,
)
from bytemq.protocol.records.reader import iter_records


@pytest.mark.parametrize("committed", [True, False])
def test_end_transaction__round_trip(committed: bool) -> None:
    marker = EndTransactionMarker(committed, 17)
    built = end_transaction_batch(marker, producer_id=5, producer_epoch=2, timestamp_ms=99)
    batch = parse_header(memoryview(built))
    (record,) = iter_records(batch)
    assert parse_end_transaction(record) == marker
    assert (batch.is_control, batch.is_transactional, batch.producer_id, batch.producer_epoch) == (True, True, 5, 2)
    assert MemoryRecords(bytes(built)).next_batch().is_control_batch


@pytest.mark.parametrize("key", [None, b"", b"\x00\x00\x00", b"\xff\xff\x00\x00"])
def test_control_type__of_a_key_that_is_none(key: bytes | None) -> None:
    assert control_type(key) is None
    assert parse_end_transaction(Record(key, b"\x00" * 6)) is None


def test_control_type__newer_kinds_are_numbers() -> None:
    assert control_type(b"\x00\x00\x00\x02") == ControlType.LEADER_CHANGE
    assert control_type(b"\x00\x00\x00\x63") == 99
    assert parse_end_transaction(Record(b"\x00\x00\x00\x01", b"\x00\x00")) is None
