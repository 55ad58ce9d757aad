"""Bounded memory: a number of bytes that many parties share, with those who must wait served in order.

Owns the counting only. What to do with a party that holds memory and makes no progress is its owner's business
(broker/connection.py closes its connection).
"""

from collections import deque
from collections.abc import Callable


class Waiter:
    """A reservation that could not be had at once."""

    __slots__ = ("_budget", "granted", "size_bytes")

    def __init__(self, budget: "MemoryBudget", size_bytes: int, granted: Callable[[], None]) -> None:
        self._budget = budget
        self.size_bytes = size_bytes
        self.granted: Callable[[], None] | None = granted

    def cancel(self) -> None:
        """Gives up. Harmless when it was granted: what was reserved then is the caller's to release."""
        self.granted = None
        self._budget.forget_cancelled()


class MemoryBudget:
    """`limit_bytes` shared by all who reserve. Single-threaded.

    `try_reserve` and `wait` obey the limit. `reserve_anyway` does not: it is for bytes that are in memory already, and
    its callers take in no more while the budget is `exhausted`.
    """

    __slots__ = ("_waiters", "limit_bytes", "peak_bytes", "used_bytes", "waits")

    def __init__(self, limit_bytes: int) -> None:
        if limit_bytes <= 0:
            raise ValueError(f"a memory budget of {limit_bytes} bytes")
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.peak_bytes = 0
        self.waits = 0
        """How often somebody had to wait, so far."""
        self._waiters: deque[Waiter] = deque()

    @property
    def free_bytes(self) -> int:
        return max(0, self.limit_bytes - self.used_bytes)

    @property
    def exhausted(self) -> bool:
        return self.used_bytes >= self.limit_bytes

    @property
    def waiting(self) -> int:
        """How many wait, at most (one that gave up behind the first is still counted)."""
        return len(self._waiters)

    def try_reserve(self, size_bytes: int) -> bool:
        """True when the bytes fit and nobody waits: who waits comes first."""
        if self._waiters or self.used_bytes + size_bytes > self.limit_bytes:
            return False
        self.reserve_anyway(size_bytes)
        return True

    def reserve_anyway(self, size_bytes: int) -> None:
        self.used_bytes += size_bytes
        if self.used_bytes > self.peak_bytes:
            self.peak_bytes = self.used_bytes

    def wait(self, size_bytes: int, granted: Callable[[], None]) -> Waiter:
        """Reserves as soon as the bytes fit and all earlier waiters were served, then calls `granted`.

        More than the whole limit is granted when nothing else is reserved.
        """
        self.waits += 1
        waiter = Waiter(self, size_bytes, granted)
        self._waiters.append(waiter)
        return waiter

    def release(self, size_bytes: int) -> None:
        self.used_bytes -= size_bytes
        assert self.used_bytes >= 0, "released more than was reserved"
        if self._waiters:
            self._serve_waiters()

    def forget_cancelled(self) -> None:
        """A waiter gave up: those behind it may fit where it did not."""
        self._serve_waiters()

    def _serve_waiters(self) -> None:
        waiters = self._waiters
        while waiters:
            first = waiters[0]
            granted = first.granted
            if granted is not None:
                if self.used_bytes and self.used_bytes + first.size_bytes > self.limit_bytes:
                    return
                self.reserve_anyway(first.size_bytes)
                first.granted = None
            waiters.popleft()
            if granted is not None:
                granted()
