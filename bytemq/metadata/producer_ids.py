"""Producer ids: each is given out once, ever, in the whole cluster.

Owns: reserving blocks. As in Kafka a broker reserves 1,000 at once, durably, before it gives out the first; what it has
not used when it stops is lost (KIP-360, AllocateProducerIds of KIP-730).
"""

from __future__ import annotations

import asyncio

from bytemq.metadata import keys, values
from bytemq.metadata.store import Compare, MetadataStore, Put

BLOCK_SIZE = 1000


class ProducerIds:
    """Allocates from this broker's block."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store
        self._next = 0
        self._end = 0
        self._reserving = asyncio.Lock()

    async def allocate(self) -> int:
        """A producer id that nobody else has or had. Raises `Unavailable` when no block can be reserved."""
        if self._next == self._end:
            async with self._reserving:
                if self._next == self._end:
                    await self._reserve()
        self._next += 1
        return self._next - 1

    async def _reserve(self) -> None:
        """A reservation whose answer was lost costs a block, no more."""
        while True:
            current = await self._store.get(keys.PRODUCER_IDS)
            first = 0 if current is None else values.decode_number(current.value)
            reserved = await self._store.txn(
                [Compare(keys.PRODUCER_IDS, 0 if current is None else current.revision)],
                [Put(keys.PRODUCER_IDS, values.encode_number(first + BLOCK_SIZE))],
            )
            if reserved.succeeded:
                self._next, self._end = first, first + BLOCK_SIZE
                return
