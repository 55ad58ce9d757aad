"""Who knows better than a broker that has not heard of the end of its session: a record is written where its partition
has gone, and that broker is asked what it has.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bytemq.protocol.error_codes import ErrorCode
from tests.simulation.broker.client import Client
from tests.simulation.broker.history import Sent, TopicPartition
from tests.simulation.broker.producers import payload_of, produce
from tests.simulation.broker.readers import READ_UNCOMMITTED, fetch

if TYPE_CHECKING:
    from tests.simulation.broker.node import Node
    from tests.simulation.broker.world import World

LOOKS_S = 0.05
PATIENCE_S = 3.0


class Witness(Client):
    """Asks one broker at a time, whatever others say."""

    def __init__(self, world: World, name: str, old: Node, partition: TopicPartition) -> None:
        super().__init__(world, name)
        self._old = old
        self._asked = old
        self._partition = partition

    async def run(self) -> None:
        """Ends when the old owner was asked, or is no more, or nobody else comes to be the owner."""
        until = asyncio.get_running_loop().time() + PATIENCE_S
        while asyncio.get_running_loop().time() < until and self._old.serving:
            await asyncio.sleep(LOOKS_S)
            if (new := self._new_owner()) is not None:
                self._asked = new
                if await self._write() and await self._read() and self._old.serving:
                    self._asked = self._old
                    await self._read()  # an answer that knows less than the one before is a broken promise
                    return

    def _new_owner(self) -> Node | None:
        """As any other broker says."""
        for node in self.world.serving_nodes():
            if node is not self._old:
                owner = self.world.nodes.get(node.owner_of(*self._partition))
                if owner is not None and owner is not self._old and owner.serving:
                    return owner
        return None

    async def _write(self) -> bool:
        """By no idempotent producer, and only once: it may be there without an answer."""
        value = b"%s %d" % (self.name.encode(), self._pauses)
        batch = Sent(self.name, self._partition, [value], once=False)
        self.history.sending(batch)
        payload = payload_of(self.world, [value], -1, -1, -1)
        return await produce(self, batch, payload, None, 9) is ErrorCode.NONE

    async def _read(self) -> bool:
        return await fetch(self, self._partition, 0, READ_UNCOMMITTED, max_bytes=1) is not None

    def _node(self, at: TopicPartition | None) -> Node:
        return self._asked
