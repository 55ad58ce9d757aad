"""Which of the partitions that are wished elsewhere their owner hands over now.

Owns: waiting, a moment, until the next owner is prepared, or while its session is in doubt, and the pace: of a thousand
partitions most are served on while the first ones are opened elsewhere. Must not: hand over anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from bytemq.metadata import keys
from bytemq.metadata.image import ClusterImage
from bytemq.runtime.clock import Clock, TimerHandle
from bytemq.types import PartitionId

PATIENCE_S: Final = 1.0
"""How long an owner waits for one that does not say that it is prepared: it may be of an older version."""
OPEN_AT_ONCE: Final = 250
IDLE_AT_ONCE: Final = 1_000
"""Those that nobody has used here are opened nowhere for now."""
PAUSE_S: Final = 0.5


class Departures:
    """`wake` is called when `due` should be asked again, apart from changes of the image."""

    def __init__(self, clock: Clock, wake: Callable[[], None]) -> None:
        self._clock = clock
        self._wake = wake
        self._since: dict[PartitionId, float] = {}
        self._pause_ends_at = float("-inf")
        self._timer: TimerHandle | None = None

    def due(
        self, image: ClusterImage, unwanted: Sequence[PartitionId], is_open: Callable[[PartitionId], bool]
    ) -> list[PartitionId]:
        """Of all that are unwanted now, those that go: first who has waited longest. Who went and is asked about again
        waits from then on: what storage does not let go of stands in nobody's way.
        """
        now = self._clock.monotonic()
        self._since = {pid: self._since.get(pid, now) for pid in unwanted}
        if now < self._pause_ends_at:
            self._look_again_at(self._pause_ends_at, now)
            return []
        left = {True: OPEN_AT_ONCE, False: IDLE_AT_ONCE}
        look_at = float("inf")
        due: list[PartitionId] = []
        for pid in sorted(unwanted, key=self._since.__getitem__):
            opened = is_open(pid)
            patience_ends_at = self._since[pid] + PATIENCE_S
            if not left[opened]:  # the first question: of tens of thousands it is the answer
                look_at = self._pause_ends_at = now + PAUSE_S
            elif image.doubts and _is_doubtful(image, pid):
                # If it lives it says so within a second; else somebody else is wished for.
                look_at = min(look_at, now + PATIENCE_S)
            elif opened and now < patience_ends_at and not _is_prepared(image, pid):
                look_at = min(look_at, patience_ends_at)
            else:
                left[opened] -= 1
                due.append(pid)
        for pid in due:
            del self._since[pid]
        self._look_again_at(max(look_at, self._pause_ends_at), now)
        return due

    def _look_again_at(self, look_at: float, now: float) -> None:
        """Asked anew by each look: a loop's timer may run a little early, and then that look waits for the rest."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.call_later(look_at - now, self._wake) if look_at < float("inf") else None


def _is_doubtful(image: ClusterImage, pid: PartitionId) -> bool:
    """Whether the broker that is wished to have it next may be dead."""
    topic = image.topics_by_id.get(pid.topic_id)
    return topic is not None and image.doubt_in(topic.partitions[pid.index].assigned) is not None


def _is_prepared(image: ClusterImage, pid: PartitionId) -> bool:
    """Whether the broker that is wished to have it next has looked at the wish."""
    topic = image.topics_by_id.get(pid.topic_id)
    if topic is None:
        return True
    wished_at = image.key_revision(keys.assignments(pid.topic_id, keys.chunk_of(pid.index)))
    return image.prepared.get(topic.partitions[pid.index].assigned, 0) >= wished_at
