"""Open and aborted transactions of one partition, as committed markers left them. Pure.

Kafka's ongoing transactions and transaction index (KIP-98). The last stable offset is the first offset of the oldest
open transaction; an aborted transaction is kept until the log start offset passes its marker, so that read_committed
readers can be told what to skip.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from bytemq.storage.manifests.manifest import AbortedTxn

_NONE_OPEN: dict[int, int] = {}
_NONE_ABORTED: list[AbortedTxn] = []


class Transactions:
    """First offsets of the open ones in log order, and the index of the aborted ones by last offset."""

    __slots__ = ("_aborted", "_open", "forgotten_below")

    def __init__(self) -> None:
        self.forgotten_below = 0
        """Of aborted transactions that ended below this offset nothing is known any more."""
        # Most partitions never see a transaction: they share these empty ones until something is put in.
        self._open = _NONE_OPEN  # insertion order is offset order: transactions begin in the order of the log
        self._aborted = _NONE_ABORTED

    @property
    def aborted(self) -> list[AbortedTxn]:
        return list(self._aborted)

    def first_open_offset(self) -> int | None:
        """Where the oldest open transaction begins."""
        return next(iter(self._open.values())) if self._open else None

    def begin(self, producer_id: int, first_offset: int) -> None:
        """Repeated for every batch of the transaction; only the first counts."""
        if producer_id not in self._open:
            if self._open is _NONE_OPEN:
                self._open = {}
            self._open[producer_id] = first_offset

    def complete(self, producer_id: int, marker_offset: int, *, aborted: bool) -> None:
        """A marker is durable. One without an open transaction (nothing was written here) is normal."""
        first_offset = self._open.pop(producer_id, None)
        if first_offset is not None and aborted:
            stable = self.first_open_offset()
            last_stable_offset = marker_offset + 1 if stable is None else stable
            if self._aborted is _NONE_ABORTED:
                self._aborted = []
            self._aborted.append(AbortedTxn(producer_id, first_offset, marker_offset, last_stable_offset))

    def restore(self, aborted: Iterable[AbortedTxn], open_first_offsets: Iterable[tuple[int, int]]) -> None:
        """From a snapshot: the aborted in log order, the open as (producer id, first offset) in any order."""
        self._aborted = list(aborted) or _NONE_ABORTED
        self._open = dict(sorted(open_first_offsets, key=lambda entry: entry[1])) or _NONE_OPEN

    def aborted_between(self, offset: int, end_offset: int) -> list[tuple[int, int]]:
        """(producer id, first offset) of the aborted transactions with records in [offset, end_offset)."""
        found: list[tuple[int, int]] = []
        start = bisect_left(self._aborted, offset, key=_last_offset)
        for index in range(start, len(self._aborted)):
            transaction = self._aborted[index]
            if transaction.first_offset < end_offset:
                found.append((transaction.producer_id, transaction.first_offset))
            if transaction.last_stable_offset >= end_offset:
                break  # whatever was aborted later began at or above the last stable offset of that moment
        return found

    def forget_below(self, offset: int) -> None:
        """Forget the aborted ones that ended below `offset`: nothing of them is left in the log.

        They must not be told any more: without their markers, which go as well, a reader would take all that the same
        producer writes later for aborted.
        """
        del self._aborted[: bisect_left(self._aborted, offset, key=_last_offset)]
        self.forgotten_below = max(self.forgotten_below, offset)


def _last_offset(transaction: AbortedTxn) -> int:
    return transaction.last_offset
