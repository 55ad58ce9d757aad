"""What a cleaning knows of the transactions in a log. Pure.

Kafka's CleanedTransactionMetadata: batches of aborted transactions go, and a marker may go once no batch of its
transaction was left before it. Must not: look at records.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from operator import itemgetter

from bytemq.protocol.records.batch import RecordBatch
from bytemq.storage.manifests.manifest import AbortedTxn


class CleanedTransactions:
    """Is shown the batches of a log in order."""

    def __init__(self, aborted: Iterable[AbortedTxn]) -> None:
        self._aborted: dict[int, list[tuple[int, int]]] = {}
        for transaction in sorted(aborted, key=lambda one: one.first_offset):
            ranges = self._aborted.setdefault(transaction.producer_id, [])
            ranges.append((transaction.first_offset, transaction.last_offset))
        self._with_batches: set[int] = set()
        """Producers of which batches of a transaction were seen, and no marker yet."""

    def is_aborted(self, batch: RecordBatch) -> bool:
        """Of a data batch."""
        if not batch.is_transactional:
            return False
        self._with_batches.add(batch.producer_id)
        ranges = self._aborted.get(batch.producer_id, ())
        number = bisect_right(ranges, batch.base_offset, key=itemgetter(0)) - 1
        return number >= 0 and batch.base_offset <= ranges[number][1]

    def seen(self, producer_ids: Iterable[int]) -> None:
        """Records of transactions of these producers, which are known not to be aborted: rows of a table."""
        self._with_batches.update(producer_ids)

    def is_empty_before(self, marker: RecordBatch) -> bool:
        """Whether the marker ends a transaction that has no batches any more."""
        if marker.producer_id not in self._with_batches:
            return True
        self._with_batches.discard(marker.producer_id)
        return False
