"""Turns of the event loop that are counted."""

from __future__ import annotations

from bytemq.runtime.turns import Turns


class CountedTurns(Turns):
    taken = 0
    """How often others had their turn."""

    async def next(self) -> None:
        self.taken += 1
        await super().next()
