"""Single keys read by many at the same time: one request for those who ask in the same turn of the event loop.

Owns: putting them together. Must not: keep an answer for whoever asks later.

A broker that takes over a thousand partitions reads a thousand manifests at once; a request for each would cost it more
than all else about them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from bytemq.metadata.store import MAX_TXN_OPERATIONS, KeyValue
from bytemq.runtime.tasks import retrieved

Read = Callable[[Sequence[str]], Awaitable[Sequence[KeyValue | None]]]


class _Reading(NamedTuple):
    keys: list[str]
    """Nobody adds to them once it has begun."""
    found: asyncio.Task[Sequence[KeyValue | None]]


class SharedReads:
    """`read` gives what is at some keys, `MAX_TXN_OPERATIONS` at most, in their order."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._next: _Reading | None = None

    async def get(self, key: str) -> KeyValue | None:
        """As it is now, or later. Raises what `read` raises."""
        reading = self._next
        if reading is None or len(reading.keys) == MAX_TXN_OPERATIONS:
            keys: list[str] = []
            reading = self._next = _Reading(keys, asyncio.ensure_future(self._begin(keys)))
            reading.found.add_done_callback(retrieved)
        reading.keys.append(key)
        place = len(reading.keys) - 1
        return (await asyncio.shield(reading.found))[place]

    async def _begin(self, keys: list[str]) -> Sequence[KeyValue | None]:
        await asyncio.sleep(0)
        if self._next is not None and self._next.keys is keys:
            self._next = None
        return await self._read(keys)
