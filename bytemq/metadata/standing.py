"""Whether this node may still speak for what it owns: invariant 3.

Owns: until when. A lease that was renewed by a request sent at time t cannot end before t + TTL; until shortly before
that, whoever owned something owns it still. The monotonic clock is read at each question, so that a process that was
stopped and goes on finds its time over before it answers anything. Must not: renew (`scheduler/membership.py` does), or
be asked about writes: these are fenced where they are committed.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

MARGIN = 0.1
"""Part of the TTL that is left unused: for clocks that run at different speeds."""


class Standing:
    """Holds for ever until `renew` is called for the first time: where sessions end with their process alone."""

    __slots__ = ("_monotonic", "_until")

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._until = inf

    def holds(self) -> bool:
        return self._monotonic() < self._until

    def renew(self, sent_at: float, ttl_s: float) -> None:
        """A renewal that was sent at `sent_at` has succeeded. It changes nothing when the session is over."""
        if self._until != -inf:
            self._until = sent_at + ttl_s * (1 - MARGIN)

    def end(self) -> None:
        """The session is over."""
        self._until = -inf
