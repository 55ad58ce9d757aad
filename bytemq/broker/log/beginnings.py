"""First batches of idempotent producers that were refused while their partition was not open here. Pure.

A producer has up to five batches on the wire. When the first is refused because the partition cannot be opened yet, or
is not ours yet, and it is ours when the second arrives, that one must not be taken: a log knows nothing of the producer
and would let it begin there, and the retry of the first would be out of order for ever.
"""

from __future__ import annotations

from typing import Final

from bytemq.types import PartitionId

MAX_REMEMBERED: Final = 10_000


class Beginnings:
    """By partition: producer ids with their epochs. Bounded; the oldest partitions go first."""

    __slots__ = ("_count", "_refused")

    def __init__(self) -> None:
        self._refused: dict[PartitionId, dict[int, int]] = {}
        self._count = 0

    def refused(self, pid: PartitionId, producer_id: int, producer_epoch: int) -> None:
        """A batch with sequence 0 was answered with an error after which it comes again."""
        if producer_id not in self._refused.get(pid, ()):
            while self._count >= MAX_REMEMBERED:
                self._count -= len(self._refused.pop(next(iter(self._refused))))
            self._count += 1
        self._refused.setdefault(pid, {})[producer_id] = producer_epoch

    def take(self, pid: PartitionId) -> dict[int, int]:
        """Those of a partition that is open from now on: its own state remembers them."""
        producers = self._refused.pop(pid, {})
        self._count -= len(producers)
        return producers
