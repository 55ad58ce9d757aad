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


def slices(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), STEP_ITEMS):
        yield items[start : start + STEP_ITEMS]
