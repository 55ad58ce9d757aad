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

Opened = Callable[["Partition | ErrorCode"], None]


class Arrival:
    """A partition that is expected. `then` as that of `partitions.Opening`."""

    __slots__ = ("timer", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Opened] = []
        self.timer: TimerHandle | None = None

    def then(self, opened: Opened) -> None:
        self.waiting.append(opened)


class Arrivals:
    """By partition."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._expected: dict[PartitionId, Arrival] = {}
        self._is_closed = False

    def get(self, pid: PartitionId) -> Arrival | None:
        """None: nothing is expected any more."""
        arrival = self._expected.get(pid)
        if arrival is None and not self._is_closed:
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
            _refuse(self.take(pid))


def _refuse(waiting: list[Opened]) -> None:
    for opened in waiting:
        opened(ErrorCode.NOT_LEADER_OR_FOLLOWER)
