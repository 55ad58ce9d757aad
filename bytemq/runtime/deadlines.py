"""Time-outs that are almost never reached: setting and clearing one costs a dictionary operation, and no timer.

Owns the set of deadlines and the one timer that looks at them every 100 ms while there are any. That is also how late a
deadline may be noticed.
"""

from collections.abc import Hashable
from typing import Protocol

from bytemq.runtime.clock import Clock

INTERVAL_S = 0.1


class Expiring(Hashable, Protocol):
    """What has a deadline; told so at most once for each `add`."""

    def expired(self) -> None: ...


class Deadlines:
    """Deadlines of objects by identity or equality of the objects."""

    __slots__ = ("_clock", "_due", "_ticking")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: dict[Expiring, float] = {}
        self._ticking = False

    def __len__(self) -> int:
        return len(self._due)

    def add(self, item: Expiring, seconds: float) -> None:
        """Calls `item.expired()` unless it is discarded within `seconds`."""
        self._due[item] = self._clock.monotonic() + seconds
        if not self._ticking:
            self._ticking = True
            self._clock.call_later(INTERVAL_S, self._tick)

    def discard(self, item: Expiring) -> None:
        self._due.pop(item, None)

    def _tick(self) -> None:
        now = self._clock.monotonic()
        expired = [item for item, due in self._due.items() if due <= now]
        try:
            for item in expired:
                if self._due.pop(item, None) is not None:
                    item.expired()
        finally:  # one that crashes takes no other with it
            self._ticking = bool(self._due)
            if self._ticking:
                self._clock.call_later(INTERVAL_S, self._tick)
