"""Which flushes are written on the event loop, with page-cache durability.

Owns: the decision, by size and by what has become of such writes. Must not: write.

A write into the page cache is a copy, and handing it to a thread and back costs as much. But a kernel that has too much
to write back lets whoever dirties pages sleep, and everybody would wait with the loop: after a write that slept,
threads wait for a while, unless the write is small. That it took long says little, for a busy machine takes processors
away.
"""

from __future__ import annotations

import resource
from collections.abc import Callable

from bytemq.runtime.clock import Clock

SMALL_BYTES = 64 * 1024
"""A thread costs more than the write by far."""
SLEPT_S = 0.002
"""Less is no reason to take another way."""
LONG_S = 0.02
"""Where nobody can say whether it slept."""
REST_S = 1.0

_THREAD = getattr(resource, "RUSAGE_THREAD", None)


def times_slept() -> int:
    """How often this thread has given up its processor by itself. Zero where the system does not tell."""
    return 0 if _THREAD is None else resource.getrusage(_THREAD).ru_nvcsw


class InlineWrites:
    """`most_bytes` below zero: none."""

    __slots__ = ("_clock", "_most_bytes", "_not_before", "_slept_before", "_small_bytes", "_started_at", "_times_slept")

    def __init__(self, most_bytes: int, clock: Clock, times_slept: Callable[[], int] = times_slept) -> None:
        self._most_bytes = most_bytes
        self._small_bytes = min(most_bytes, SMALL_BYTES)
        self._clock = clock
        self._times_slept = times_slept
        self._not_before = 0.0
        self._started_at = 0.0
        self._slept_before = 0

    def begins(self, size_bytes: int) -> bool:
        """Whether so much is written on the loop, now; then `ended` follows."""
        if size_bytes > self._most_bytes:
            return False
        self._started_at = self._clock.monotonic()
        if size_bytes > self._small_bytes and self._started_at < self._not_before:
            return False
        self._slept_before = self._times_slept()
        return True

    def ended(self) -> None:
        now = self._clock.monotonic()
        took_s = now - self._started_at
        if took_s > SLEPT_S and (took_s > LONG_S or self._times_slept() > self._slept_before):
            self._not_before = now + REST_S
