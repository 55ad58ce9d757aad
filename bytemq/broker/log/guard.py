"""Whether a transactional batch of a client may enter a partition (KIP-890).

The transaction coordinator must have been told of the partition first; who asks it, and how, is behind this border.
Until a broker has transactions, `RefuseTransactions` stands here.
"""

from __future__ import annotations

from typing import Protocol

from bytemq.broker.log.producer_state import Producer
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.records.batch import RecordBatch


class TransactionGuard(Protocol):
    """Asked for every transactional batch of a client, before it gets an offset."""

    def check(self, topic: str, index: int, batch: RecordBatch, producer: Producer | None) -> ErrorCode:
        """NONE to let it in. `producer` is what the partition knows of the batch's producer."""


class RefuseTransactions:
    """No transaction can have been begun: no partition was ever added to one (Kafka: INVALID_TXN_STATE)."""

    def check(self, topic: str, index: int, batch: RecordBatch, producer: Producer | None) -> ErrorCode:
        return ErrorCode.INVALID_TXN_STATE
