"""The last changes of a store, for watchers that resume. Pure; bounded by bytes and count."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from bytemq.metadata.store import Compacted, Event

MAX_BYTES = 8 * 1024 * 1024
MAX_REVISIONS = 20_000
EVENT_OVERHEAD_BYTES = 100


class History:
    """Knows every change after `compacted_revision`, and forgets the oldest first."""

    def __init__(self, revision: int, *, max_bytes: int = MAX_BYTES, max_revisions: int = MAX_REVISIONS) -> None:
        self.revision = revision
        self.compacted_revision = revision
        self._max_bytes = max_bytes
        self._max_revisions = max_revisions
        self._size_bytes = 0
        self._changes: deque[tuple[int, Sequence[Event], int]] = deque()

    def add(self, revision: int, events: Sequence[Event]) -> None:
        """The events of one revision, which is above all before it."""
        assert revision > self.revision, "revisions only grow"
        size_bytes = sum(EVENT_OVERHEAD_BYTES + len(key) + len(value or b"") for key, value, _ in events)
        self._changes.append((revision, events, size_bytes))
        self._size_bytes += size_bytes
        self.revision = revision
        while self._size_bytes > self._max_bytes or len(self._changes) > self._max_revisions:
            self.compacted_revision, _, dropped_bytes = self._changes.popleft()
            self._size_bytes -= dropped_bytes

    def since(self, revision: int, prefix: str) -> list[Event]:
        """Events under `prefix` after `revision`, oldest first; costs what happened since. Raises `Compacted`."""
        if revision < self.compacted_revision:
            raise Compacted(f"changes after revision {revision} are no longer known")
        found: list[Sequence[Event]] = []
        for changed_at, events, _ in reversed(self._changes):
            if changed_at <= revision:
                break
            found.append(events)
        return [event for events in reversed(found) for event in events if event.key.startswith(prefix)]
