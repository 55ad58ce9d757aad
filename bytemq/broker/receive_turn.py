"""What all connections have received in one turn of the loop: it is worked on together, when all of it is there.

Owns: that each connection's bytes are looked at, in the order in which they came, when the turn is over or enough has
come together. Must not: know what is in them.

Costs that a request has by itself are a share of the turn's then: produce requests of all connections are one run, one
flush, and one time-out. What is gained by waiting for the end of the turn costs no time: the loop is busy receiving.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from bytemq.broker.frame_reader import Arena
from bytemq.broker.produce_run import ProduceRuns

TURN_BYTES = 1024 * 1024
"""So much is worked on at once although there may be more to receive."""


class Receiving(Protocol):
    def work_on(self, arena: Arena, position: int, end: int) -> None:
        """What lies there was received."""


class ReceiveTurn:
    __slots__ = ("_arrived", "_bytes", "_is_scheduled", "_loop", "_runs")

    def __init__(self, runs: ProduceRuns) -> None:
        self._loop = asyncio.get_running_loop()
        self._runs = runs
        self._arrived: list[tuple[Receiving, Arena, int, int]] = []
        self._bytes = 0
        self._is_scheduled = False

    def add(self, connection: Receiving, arena: Arena, position: int, end: int) -> None:
        """It has received what lies there."""
        self._arrived.append((connection, arena, position, end))
        self._bytes += end - position
        if self._bytes >= TURN_BYTES:
            self.work()
        elif not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._end)

    def work(self) -> None:
        """Now, whatever else is received in this turn."""
        arrived, self._arrived, self._bytes = self._arrived, [], 0
        for connection, arena, position, end in arrived:
            connection.work_on(arena, position, end)
        self._runs.begin()

    def _end(self) -> None:
        self._is_scheduled = False
        if self._arrived:
            self.work()
