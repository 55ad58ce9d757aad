"""How much of each log comes: what decides whether a file of its own is worth it.

Owns: sums by log over two intervals, the one that goes on and the one before. Must not: know what is done with them.
"""

from __future__ import annotations

from bytemq.runtime.clock import Clock
from bytemq.storage.log_files import LogFiles


class BulkFlows:
    def __init__(self, interval_s: float, clock: Clock) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._now: dict[LogFiles, int] = {}
        self._before: dict[LogFiles, int] = {}
        self._ends_at = clock.monotonic() + interval_s
        self.intervals = 0
        """That have ended."""

    def turn(self) -> bool:
        """Begins another interval when it is time. Returns whether it did."""
        now = self._clock.monotonic()
        if now < self._ends_at:
            return False
        is_late = now >= self._ends_at + self._interval_s
        self._before, self._now = {} if is_late else self._now, {}
        self._ends_at = now + self._interval_s
        self.intervals += 1
        return True

    def add(self, files: LogFiles, size_bytes: int) -> int:
        """Bytes of the log in the interval, with these, or in the one before, whichever is more."""
        so_far = self._now.get(files, 0) + size_bytes
        self._now[files] = so_far
        return max(so_far, self._before.get(files, 0))

    def is_idle(self, files: LogFiles) -> bool:
        return files not in self._now and files not in self._before
