"""Requests for partitions that are about to be this broker's: they wait for it, a moment.

While a partition moves, its old owner sends clients to the next one at once, and they may be there before the metadata
say that it is the owner. To refuse them would cost them a back-off, often longer than the rest of the move.

Owns: who waits for which partition, and until when. Must not: know why a partition is expected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bytemq.broker.log.waiters import Awaited
from bytemq.protocol.error_codes import ErrorCode
from bytemq.runtime.clock import Clock, TimerHandle
from bytemq.types import PartitionId

if TYPE_CHECKING:
    from bytemq.broker.log.partition import Partition

PATIENCE_S: Final = 1.0
"""How long anybody waits while nothing comes. What else a client has sent on the same connection is answered behind
the request that waits, also if that is for another partition that does not come.
"""
RESPITE_S: Final = 30.0
"""How long nobody waits again, for a partition that did not come, or for any while none does: a client that asks on and
on is told at once.
"""


class Arrival(Awaited["Partition | ErrorCode"]):
    """A partition that is expected."""

    __slots__ = ("in_vain", "timer")

    def __init__(self) -> None:
        super().__init__()
        self.timer: TimerHandle | None = None
        self.in_vain = False
        """It did not come in time."""


class Arrivals:
    """By partition."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._expected: dict[PartitionId, Arrival] = {}
        self._patience_ends_at = float("-inf")
        """A second after somebody began to wait, while nothing has come since."""
        self._is_closed = False

    def get(self, pid: PartitionId) -> Arrival | None:
        """None: nothing is expected any more, or not just now."""
        arrival = self._expected.get(pid)
        if arrival is not None:
            return None if arrival.in_vain else arrival
        patience_s = 0.0 if self._is_closed else self._patience_s()
        if patience_s <= 0:
            return None
        arrival = self._expected[pid] = Arrival()
        arrival.timer = self._clock.call_later(patience_s, lambda: self._give_up(pid, arrival))
        return arrival

    def arrived(self, pid: PartitionId, partition: Awaited[Partition | ErrorCode]) -> None:
        """It is here, and is to be opened for those who have waited, if there are any."""
        self._patience_ends_at = float("-inf")
        arrival = self._taken(pid)
        if arrival is not None:
            arrival.hand_over(partition)

    def close(self) -> None:
        """Whoever waits is told that it does not come, and nobody waits from now on."""
        self._is_closed = True
        for pid in list(self._expected):
            arrival = self._taken(pid)
            if arrival is not None:
                arrival.tell(ErrorCode.NOT_LEADER_OR_FOLLOWER)

    def _patience_s(self) -> float:
        now = self._clock.monotonic()
        if now >= self._patience_ends_at + RESPITE_S:
            self._patience_ends_at = now + PATIENCE_S
        return self._patience_ends_at - now

    def _taken(self, pid: PartitionId) -> Arrival | None:
        arrival = self._expected.pop(pid, None)
        if arrival is not None and arrival.timer is not None:
            arrival.timer.cancel()
        return arrival

    def _give_up(self, pid: PartitionId, arrival: Arrival) -> None:
        if self._expected.get(pid) is arrival:
            arrival.in_vain = True
            arrival.timer = self._clock.call_later(RESPITE_S, lambda: self._forget(pid, arrival))
            arrival.tell(ErrorCode.NOT_LEADER_OR_FOLLOWER)

    def _forget(self, pid: PartitionId, arrival: Arrival) -> None:
        if self._expected.get(pid) is arrival:
            del self._expected[pid]
