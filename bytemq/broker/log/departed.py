"""Partitions that were this broker's a moment ago, and who has been told where they are now.

Owns: since when they are gone, and the clients that were sent on without an error (decision 93). Must not: know where
they went.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from bytemq.runtime.clock import Clock
from bytemq.types import PartitionId

GRACE_S: Final = 1.0
"""How long a client that was told may ask on. One that has not understood is refused then, as everywhere."""


class Departed:
    """By partition, in the order in which they left."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left: OrderedDict[PartitionId, tuple[float, set[str]]] = OrderedDict()  # the first is found at once

    def left(self, pid: PartitionId) -> None:
        self._forget_old()
        self.came_back(pid)
        self._left[pid] = (self._clock.monotonic() + GRACE_S, set())

    def came_back(self, pid: PartitionId) -> None:
        self._left.pop(pid, None)

    def told(self, pid: PartitionId) -> set[str] | None:
        """The connections whose clients know, to be added to; None: it has been gone for long, or never was here."""
        self._forget_old()
        found = self._left.get(pid)
        return None if found is None else found[1]

    def _forget_old(self) -> None:
        now = self._clock.monotonic()
        while self._left:
            pid = next(iter(self._left))
            if self._left[pid][0] > now:
                break
            del self._left[pid]
