"""Requests for a shard that is between two brokers, or that is being loaded: they wait for it, a moment.

While a coordinator moves, its old owner has nothing to say any more, the next one is not there yet, and then reads its
log. To refuse requests meanwhile costs clients a back-off each time, and librdkafka tells the program of a commit that
was refused three times within 0.3 s because a coordinator loads.

Owns: who waits for one shard, in the order in which they came, and until when. Must not: know what becomes of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from bytemq.runtime.clock import Clock

PATIENCE_S: Final = 5.0
"""From when the first one came; as long as a commit waits (offsets.commit.timeout.ms). What else a client has sent on
the same connection is answered behind the request that waits.
"""


class ShardLine:
    """One for each shard that somebody waits for."""

    __slots__ = ("_moves", "_timer", "_waiting", "is_patient")

    def __init__(self, clock: Clock) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._moves = False
        self.is_patient = True
        """Until the shard was waited for in vain: whoever comes then is told at once."""
        self._timer = clock.call_later(PATIENCE_S, self._give_up)

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    async def turn(self) -> None:
        """Returns when the line moves and all who came before have gone on, up to where they wait for something."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._call_first()
        try:
            await turn
        finally:
            self._waiting.remove(turn)
            self._call_first()

    def move(self) -> None:
        """There is nothing to wait for any more."""
        self._timer.cancel()
        self._moves = True
        self._call_first()

    def _give_up(self) -> None:
        self.is_patient = False
        self.move()

    def _call_first(self) -> None:
        if self._moves and self._waiting and not self._waiting[0].done():
            self._waiting[0].set_result(None)
