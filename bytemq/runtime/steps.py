"""Work over a hundred thousand partitions in steps of a few milliseconds, with something else in between. Pure.

Owns: how such work is written: it yields between two steps. What it is made from must stay as it is meanwhile, or be
looked up anew in each step. `turns.in_turns` does it on the event loop.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TypeVar

STEP_ITEMS = 2_000

_T = TypeVar("_T")
Steps = Generator[None, None, _T]
"""Work that may be left alone for a while between any two of its steps."""


def finished(steps: Steps[_T]) -> _T:
    """What comes of it, all at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: _T = end.value
            return result


class Pace:
    """Tells of work whose parts are of many sizes when a step has become long enough: behind so many `step_items`,
    whatever is counted.
    """

    __slots__ = ("_items", "_step_items")

    def __init__(self, step_items: int = STEP_ITEMS) -> None:
        self._items = 0
        self._step_items = step_items

    def is_over(self, items: int) -> bool:
        """Whether a step ends behind so many more; the next one begins then."""
        self._items += items
        if self._items < self._step_items:
            return False
        self._items = 0
        return True


def slices(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), STEP_ITEMS):
        yield items[start : start + STEP_ITEMS]
