"""Who waits for a partition to grow: plain callbacks, one call per commit that moves the high watermark.

Must not: create asyncio objects (a long poll over a thousand partitions registers a thousand callbacks) or know what
the waiter wants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Subject = TypeVar("Subject")


class Waiters(Generic[Subject]):
    """Callbacks by identity, in order of registration. A callback may register or unregister anyone while it runs."""

    __slots__ = ("_callbacks",)

    def __init__(self) -> None:
        self._callbacks: dict[Callable[[Subject], None], None] | None = None  # an idle partition pays for no dict

    def __len__(self) -> int:
        return len(self._callbacks) if self._callbacks else 0

    def register(self, callback: Callable[[Subject], None]) -> None:
        """Call `callback(subject)` at each later wake, until it is unregistered. Registering twice is once."""
        if self._callbacks is None:
            self._callbacks = {}
        self._callbacks[callback] = None

    def unregister(self, callback: Callable[[Subject], None]) -> None:
        """Forget `callback`; unknown callbacks are fine, a waiter need not know whether it was woken already."""
        if self._callbacks is not None:
            self._callbacks.pop(callback, None)
            if not self._callbacks:
                self._callbacks = None

    def wake(self, subject: Subject) -> None:
        """Call everyone registered at this moment and still registered when their turn comes."""
        callbacks = self._callbacks
        if callbacks is None:
            return
        for callback in tuple(callbacks):
            if callback in callbacks:
                callback(subject)
