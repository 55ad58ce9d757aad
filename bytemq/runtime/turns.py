"""Long work on the event loop in slices: one slice of all such work in each turn of the loop.

Owns the queue of those who have more to do. Work that merely yields goes on in the very next turn of the loop; twenty
such works then make that turn twenty slices long, and everybody else waits for it. Here they wait for each other.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from itertools import islice
from typing import TypeVar

from bytemq.runtime.steps import Steps

_T = TypeVar("_T")


class Turns:
    """First come, first served. Sockets and short work are served between two slices."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], object]] = deque()

    def call(self, slice_of_work: Callable[[], object]) -> None:
        """Calls it in a turn of its own, later than this returns."""
        self._waiting.append(slice_of_work)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._give)

    async def next(self) -> None:
        """Returns when the caller may do its next slice: a few milliseconds at most."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.call(partial(_begin, turn))
        await turn

    def _give(self) -> None:
        slice_of_work = self._waiting.popleft()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._give)
        slice_of_work()


async def each(turns: Turns, items: Iterable[_T], at_once: int) -> AsyncIterator[_T]:
    """The items in their order; after so many of them others have their turn."""
    for number, item in enumerate(items, 1):
        yield item
        if number % at_once == 0:
            await turns.next()


async def side_by_side(turns: Turns, work: Iterable[Awaitable[_T]], at_once: int) -> list[_T]:
    """What comes of each, in their order. So many are begun in one turn, and done before the next ones are begun."""
    results: list[_T] = []
    left = iter(work)
    while begun := list(islice(left, at_once)):
        if results:
            await turns.next()
        results += await asyncio.gather(*begun)
    return results


def _begin(turn: asyncio.Future[None]) -> None:
    if not turn.done():  # whoever waited may have been cancelled
        turn.set_result(None)


async def in_turns(steps: Steps[_T]) -> _T:
    """What comes of work that is rare, and has the loop to itself but for clients: one step in each turn."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: _T = end.value
            return result
        await asyncio.sleep(0)
