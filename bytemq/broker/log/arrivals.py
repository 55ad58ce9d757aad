"""Requests for partitions that are about to be this broker's: they wait for it, a moment.

While a partition moves, its old owner sends clients to the next one at once, and they may be there before the metadata
say that it is the owner. To refuse them would cost them a back-off, often longer than the rest of the move.

Owns: who waits for which partition, and until when. Must not: know why a partition is expected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from bytemq.protocol.error_codes import ErrorCode
from bytemq.runtime.clock import Clock, TimerHandle
from bytemq.types import PartitionId

if TYPE_CHECKING:
    from bytemq.broker.log.partition import Partition

PATIENCE_S: Final = 1.0
"""What else a client has sent on the same connection is answered behind the request that waits."""
RESPITE_S: Final = 30.0
"""How long nobody waits again for a partition that did not come: a client that asks on and on is told at once."""

Opened = Callable[["Partition | ErrorCode"], None]


class Arrival:
    """A partition that is expected. `then` as that of `partitions.Opening`."""

    __slots__ = ("in_vain", "timer", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Opened] = []
        self.timer: TimerHandle | None = None
        self.in_vain = False
        """It did not come in time."""

    def then(self, opened: Opened) -> None:
        self.waiting.append(opened)


class Arrivals:
    """By partition."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._expected: dict[PartitionId, Arrival] = {}
        self._is_closed = False

    def get(self, pid: PartitionId) -> Arrival | None:
        """None: nothing is expected any more, or not just now."""
        arrival = self._expected.get(pid)
        if arrival is not None:
            return None if arrival.in_vain else arrival
        if self._is_closed:
            return None
        arrival = self._expected[pid] = Arrival()
        arrival.timer = self._clock.call_later(PATIENCE_S, lambda: self._give_up(pid, arrival))
        return arrival

    def take(self, pid: PartitionId) -> list[Opened]:
        """The partition is here: who has waited for it, in order."""
        arrival = self._expected.pop(pid, None)
        if arrival is None:
            return []
        if arrival.timer is not None:
            arrival.timer.cancel()
        return arrival.waiting

    def close(self) -> None:
        """Whoever waits is told that it does not come, and nobody waits from now on."""
        self._is_closed = True
        for pid in list(self._expected):
            _refuse(self.take(pid))

    def _give_up(self, pid: PartitionId, arrival: Arrival) -> None:
        if self._expected.get(pid) is arrival:
            waiting, arrival.waiting, arrival.in_vain = arrival.waiting, [], True
            arrival.timer = self._clock.call_later(RESPITE_S, lambda: self._forget(pid, arrival))
            _refuse(waiting)

    def _forget(self, pid: PartitionId, arrival: Arrival) -> None:
        if self._expected.get(pid) is arrival:
            del self._expected[pid]


def _refuse(waiting: list[Opened]) -> None:
    for opened in waiting:
        opened(ErrorCode.NOT_LEADER_OR_FOLLOWER)
