"""Which of the partitions that are wished elsewhere their owner hands over now.

Owns: waiting, a moment, until the next owner is prepared, and the pace: of a thousand partitions most are served on
while the first ones are opened elsewhere. Must not: hand over anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from bytemq.metadata import keys
from bytemq.metadata.image import ClusterImage
from bytemq.runtime.clock import Clock
from bytemq.types import PartitionId

PATIENCE_S: Final = 1.0
"""How long an owner waits for one that does not say that it is prepared: it may be of an older version."""
OPEN_AT_ONCE: Final = 1_000
IDLE_AT_ONCE: Final = 2_000
"""Those that nobody has used here are opened nowhere for now."""
PAUSE_S: Final = 1.0


class Departures:
    """`wake` is called when `due` should be asked again, apart from changes of the image."""

    def __init__(self, clock: Clock, wake: Callable[[], None]) -> None:
        self._clock = clock
        self._wake = wake
        self._since: dict[PartitionId, float] = {}
        self._pause_ends_at = float("-inf")

    def due(
        self, image: ClusterImage, unwanted: Sequence[PartitionId], is_open: Callable[[PartitionId], bool]
    ) -> list[PartitionId]:
        """Of all that are unwanted now, those that go, in their order."""
        now = self._clock.monotonic()
        since, self._since = self._since, {pid: self._since.get(pid, now) for pid in unwanted}
        if now < self._pause_ends_at:
            return []
        left = {True: OPEN_AT_ONCE, False: IDLE_AT_ONCE}
        due: list[PartitionId] = []
        for pid in unwanted:
            opened = is_open(pid)
            if opened and now - self._since[pid] < PATIENCE_S and not _is_prepared(image, pid):
                if pid not in since:
                    self._clock.call_later(PATIENCE_S, self._wake)
                continue
            if left[opened]:
                left[opened] -= 1
                due.append(pid)
            elif now >= self._pause_ends_at:
                self._pause_ends_at = now + PAUSE_S
                self._clock.call_later(PAUSE_S, self._wake)
        return due


def _is_prepared(image: ClusterImage, pid: PartitionId) -> bool:
    """Whether the broker that is wished to have it next has looked at the wish."""
    topic = image.topics_by_id.get(pid.topic_id)
    if topic is None:
        return True
    wished_at = image.key_revision(keys.assignments(pid.topic_id, keys.chunk_of(pid.index)))
    return image.prepared.get(topic.partitions[pid.index].assigned, 0) >= wished_at
