"""What one Fetch has of the memory that all answers share.

Owns: how much is taken before something is read, and waiting for it. Must not: read.
"""

from __future__ import annotations

from collections.abc import Callable

from bytemq.runtime.budget import MemoryBudget, Waiter
from bytemq.runtime.clock import Clock, TimerHandle

LEAST_GRANT_BYTES = 1024 * 1024
"""Less memory than this is not worth a read: the fetch waits instead."""

GRANT_DIVISOR = 4
"""A fetch gets at most this part of the free memory: many slow readers come to share, none takes all."""

LEAST_WAIT_S = 0.5
"""How long a fetch waits for memory, at least; then it is answered without records."""


class AnswerMemory:
    """`is_gradual`: memory is taken as it is needed, not before. A pass over very many partitions takes many turns, and
    most of them have nothing new.
    """

    __slots__ = ("_budget", "_clock", "_is_gradual", "_max_bytes", "_timer", "_waiter", "granted_bytes", "is_refused")

    def __init__(self, budget: MemoryBudget, clock: Clock, max_bytes: int, *, is_gradual: bool) -> None:
        self._budget = budget
        self._clock = clock
        self._max_bytes = max_bytes
        self._is_gradual = is_gradual
        self._waiter: Waiter | None = None
        self._timer: TimerHandle | None = None
        self.granted_bytes = 0
        self.is_refused = False
        """None could be had: the answer has no records."""

    def take(self) -> bool:
        """Whether there is enough to read something now."""
        want_bytes = self._want_bytes()
        if not self._budget.try_reserve(want_bytes):
            return False
        self.granted_bytes = want_bytes
        return True

    def wait(self, wait_s: float, over: Callable[[], None]) -> None:
        """Calls `over` when memory came, or is refused; never, if this is abandoned before."""

        def granted() -> None:
            waiter = self._waiter
            assert waiter is not None
            self.granted_bytes = waiter.size_bytes
            self._waiter = None
            self._cancel_timer()
            over()

        def refused() -> None:
            self.abandon()
            self.is_refused = True
            over()

        self._waiter = self._budget.wait(min(self._want_bytes(), LEAST_GRANT_BYTES), granted)
        self._timer = self._clock.call_later(max(wait_s, LEAST_WAIT_S), refused)

    def left_bytes(self, used_bytes: int) -> int:
        """What the next partition may give, when so much was read."""
        if self._is_gradual:
            self._take_more(self.granted_bytes - used_bytes)
        left_bytes = self.granted_bytes - used_bytes
        return left_bytes if left_bytes > 0 else 0

    def settle(self, size_bytes: int) -> None:
        """What was read takes the place of what was granted."""
        surplus = self.granted_bytes - size_bytes
        self.granted_bytes = size_bytes
        if surplus > 0:
            self._budget.release(surplus)
        elif surplus < 0:
            self._budget.reserve_anyway(-surplus)  # one whole batch, whatever the limits

    def hand_over(self) -> int:
        """Whoever sends the answer has the memory from now on."""
        granted_bytes, self.granted_bytes = self.granted_bytes, 0
        return granted_bytes

    def abandon(self) -> None:
        """Nothing is waited for any more; what is granted stays."""
        waiter, self._waiter = self._waiter, None
        self._cancel_timer()
        if waiter is not None:
            waiter.cancel()

    def _want_bytes(self) -> int:
        if self._is_gradual:
            return min(self._max_bytes, LEAST_GRANT_BYTES)
        return min(self._max_bytes, max(LEAST_GRANT_BYTES, self._budget.free_bytes // GRANT_DIVISOR))

    def _take_more(self, left_bytes: int) -> None:
        if 2 * left_bytes >= LEAST_GRANT_BYTES or self.granted_bytes >= self._budget.free_bytes // GRANT_DIVISOR:
            return
        more_bytes = min(LEAST_GRANT_BYTES, self._max_bytes - self.granted_bytes)
        if more_bytes > 0 and self._budget.try_reserve(more_bytes):
            self.granted_bytes += more_bytes

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
