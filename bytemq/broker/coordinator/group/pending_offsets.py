"""Offsets committed in transactions that have not ended: durable, and not yet true (KIP-98, KIP-447).

A marker makes those of its producer count, or takes them back. What was committed or deleted without a transaction
after them in the log wins over them.
"""

from __future__ import annotations

from typing import NamedTuple

from bytemq.broker.coordinator.group.records import OffsetCommitRecord
from bytemq.protocol.records.control import EndTransactionMarker, end_transaction_key_value

Key = tuple[str, str, int]
"""Group id, topic, partition."""


class TransactionalOffsetRecord(NamedTuple):
    """An offset inside a producer's transaction; it is stored as any other, in a batch of the producer's."""

    producer_id: int
    offset: OffsetCommitRecord

    def encode_key(self) -> bytes:
        return self.offset.encode_key()

    def encode_value(self) -> bytes | None:
        return self.offset.encode_value()


class EndTransactionRecord(NamedTuple):
    """The one record of the control batch that ends a producer's transaction."""

    producer_id: int
    marker: EndTransactionMarker

    def encode_key(self) -> bytes:
        return end_transaction_key_value(self.marker)[0]

    def encode_value(self) -> bytes | None:
        return end_transaction_key_value(self.marker)[1]


class PendingOffsets:
    """By producer, and by what they are for."""

    __slots__ = ("_added", "_holders", "_open", "_per_group")

    def __init__(self) -> None:
        self._open: dict[int, dict[Key, tuple[int, bytes]]] = {}
        self._added = 0
        """Records until now: their numbers are in the order of the log."""
        self._holders: dict[Key, set[int]] = {}
        self._per_group: dict[str, set[Key]] = {}

    def __bool__(self) -> bool:
        return bool(self._open)

    def add(self, producer_id: int, record: OffsetCommitRecord) -> None:
        """A record of an open transaction is durable. A tombstone has no meaning there."""
        if record.encoded is None:
            return
        key = record[:3]
        self._open.setdefault(producer_id, {})[key] = self._added, record.encoded
        self._added += 1
        self._holders.setdefault(key, set()).add(producer_id)
        self._per_group.setdefault(record.group_id, set()).add(key)

    def end(self, producer_id: int, *, committed: bool) -> list[OffsetCommitRecord]:
        """The producer's transaction has ended; its offsets, which are pending no more. Once committed they win over
        what others wrote before them in the log, whenever these end.
        """
        ended = dict(self._open.get(producer_id, {}))
        for key, (number, _) in ended.items():
            self._remove(producer_id, key)
            for other in list(self._holders.get(key, ())) if committed else ():
                if self._open[other][key][0] < number:
                    self._remove(other, key)
        return [OffsetCommitRecord(*key, encoded) for key, (_, encoded) in ended.items()]

    def supersede(self, record: OffsetCommitRecord) -> None:
        """The same offset was committed or deleted without a transaction, later in the log."""
        key = record[:3]
        for producer_id in list(self._holders.get(key, ())):
            self._remove(producer_id, key)

    def is_pending(self, group_id: str, topic: str, partition: int) -> bool:
        return (group_id, topic, partition) in self._holders

    def of_group(self, group_id: str) -> set[Key]:
        """Look, don't touch."""
        return self._per_group.get(group_id, set())

    def _remove(self, producer_id: int, key: Key) -> None:
        offsets = self._open[producer_id]
        del offsets[key]
        if not offsets:
            del self._open[producer_id]
        holders = self._holders[key]
        holders.discard(producer_id)
        if not holders:
            del self._holders[key]
            of_group = self._per_group[key[0]]
            of_group.discard(key)
            if not of_group:
                del self._per_group[key[0]]
