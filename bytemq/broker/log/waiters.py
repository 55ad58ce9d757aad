"""Who waits for something: for a partition to grow, again and again (`Waiters`), or for a partition to be there, once
(`Awaited`).

Owns: plain callbacks and their order. Must not: create asyncio objects (a long poll over a thousand partitions
registers a thousand callbacks; those who can wait have a future made for them), or know what the waiter wants.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

Subject = TypeVar("Subject")
Outcome = TypeVar("Outcome")


class Waiters(Generic[Subject]):
    """Callbacks by identity, in order of registration. A callback may register or unregister anyone while it runs."""

    __slots__ = ("callbacks",)

    def __init__(self) -> None:
        self.callbacks: dict[Callable[[Subject], None], None] | None = None
        """None when there are none: an idle partition pays for no dict."""

    @property
    def count(self) -> int:
        return len(self.callbacks) if self.callbacks else 0

    def register(self, callback: Callable[[Subject], None]) -> None:
        """Call `callback(subject)` at each later wake, until it is unregistered. Registering twice is once."""
        if self.callbacks is None:
            self.callbacks = {}
        self.callbacks[callback] = None

    def unregister(self, callback: Callable[[Subject], None]) -> None:
        """Forget `callback`; unknown callbacks are fine, a waiter need not know whether it was woken already."""
        if self.callbacks is not None:
            self.callbacks.pop(callback, None)
            if not self.callbacks:
                self.callbacks = None

    def wake(self, subject: Subject) -> None:
        """Call everyone registered at this moment and still registered when their turn comes."""
        callbacks = self.callbacks
        if callbacks is None:
            return
        for callback in tuple(callbacks):
            if callback in callbacks:
                callback(subject)


def register_with_all(all_waiters: Iterable[Waiters[Any]], callback: Callable[[Any], None]) -> None:
    """As `register` with each: a long poll does so hundreds of thousands of times a second."""
    for waiters in all_waiters:
        if waiters.callbacks is None:
            waiters.callbacks = {callback: None}
        else:
            waiters.callbacks[callback] = None


def unregister_from_all(all_waiters: Iterable[Waiters[Any]], callback: Callable[[Any], None]) -> None:
    """As `unregister` from each."""
    for waiters in all_waiters:
        callbacks = waiters.callbacks
        if callbacks is not None:
            callbacks.pop(callback, None)
            if not callbacks:
                waiters.callbacks = None


class Awaited(Waiters[Outcome]):
    """Something that is not here yet: whoever waits is told once, what came or why it did not, and is forgotten."""

    __slots__ = ()

    def then(self, told: Callable[[Outcome], None]) -> None:
        """Call `told` with what comes of it; once, and later than this returns."""
        self.register(told)

    def future(self) -> asyncio.Future[Outcome]:
        """For those who can wait: asked for when this returns, whenever it is awaited."""
        told: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.then(lambda outcome: None if told.done() else told.set_result(outcome))
        return told

    def tell(self, outcome: Outcome) -> None:
        """Who asks from now on, also while this runs, waits for the next time."""
        callbacks, self.callbacks = self.callbacks, None
        for told in callbacks or ():
            told(outcome)

    def hand_over(self, successor: Awaited[Outcome]) -> None:
        """Who waits here waits there from now on."""
        callbacks, self.callbacks = self.callbacks, None
        for told in callbacks or ():
            successor.then(told)
