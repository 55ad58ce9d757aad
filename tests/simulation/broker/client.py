"""What all clients of a simulated broker share: connections, and asking again what may be asked again."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, TypeVar

from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.schema import Message
from tests.simulation.broker.history import TopicPartition
from tests.simulation.broker.network import Connection, Disconnected

if TYPE_CHECKING:
    from tests.simulation.broker.node import Node
    from tests.simulation.broker.world import World

R = TypeVar("R", bound=Message)

COORDINATOR_AWAY = frozenset(
    {
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode.COORDINATOR_NOT_AVAILABLE,
        ErrorCode.NOT_COORDINATOR,
        ErrorCode.REQUEST_TIMED_OUT,
    }
)
_SOON_S = 0.02
"""Who pauses so soon after a pause has got nowhere."""
_LONGER = 16
FENCED = frozenset({ErrorCode.PRODUCER_FENCED, ErrorCode.INVALID_PRODUCER_EPOCH})


class Client:
    """One client process: a connection to each broker it talks to."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.history = world.history
        self.name = name
        self.random = Random(f"{world.seed} {name}")
        self._connections: dict[Node, Connection] = {}
        self._pauses = 0
        """In a row."""
        self._paused_until = 0.0
        self._line = asyncio.Lock()
        self._waiting = 0

    async def ask(
        self,
        request: Message,
        version: int,
        response_class: type[R],
        *,
        at: TopicPartition | None = None,
        timeout_s: float | None = None,
    ) -> R:
        """Asks the owner of a partition, or anybody. Raises Disconnected; whether the request was carried out nobody
        knows.
        """
        if self._waiting or not self.world.serving_nodes():
            await self._wait_in_line()
        connection = self._connection_to(self._node(at))
        patience_s = self.world.patience_s if timeout_s is None else timeout_s
        return await connection.ask(request, version, response_class, patience_s)

    async def insist(
        self, request: Message, version: int, response_class: type[R], *, at: TopicPartition | None = None
    ) -> R:
        """The same request again and again until there is an answer."""
        while True:
            try:
                return await self.ask(request, version, response_class, at=at)
            except Disconnected:
                self.history.note(f"{self.name}: no answer to {type(request).__name__}")
                await self.pause()

    async def pause(self) -> None:
        """Before something is asked again: the longer, the more often in a row."""
        now = asyncio.get_running_loop().time()
        self._pauses = self._pauses + 1 if now < self._paused_until + _SOON_S else 0
        pause_s = self.random.choice((0.001, 0.01, 0.05)) * min(1 << self._pauses, _LONGER)
        self._paused_until = now + pause_s
        await asyncio.sleep(pause_s)

    async def idle(self) -> None:
        """Thinks, works, or is held up for a while."""
        await asyncio.sleep(self.random.choice(self.world.idle_times_s))

    async def wait_for_work(self) -> None:
        await asyncio.sleep(self.random.choice((0.02, 0.1, 0.3)))

    async def _wait_in_line(self) -> None:
        """Until a broker serves, and those who came before have asked."""
        self._waiting += 1
        try:
            async with self._line:
                await self.world.serving()
        finally:
            self._waiting -= 1

    def hang_up(self) -> None:
        for connection in self._connections.values():
            connection.break_down()

    def _connection_to(self, node: Node) -> Connection:
        connection = self._connections.get(node)
        if connection is None or connection.broken:
            connection = self._connections[node] = Connection(node, self.name, self.random, self.world.loss)
        return connection

    def _node(self, at: TopicPartition | None) -> Node:
        """Whoever owns it as far as somebody knows; whoever serves if nobody does. Somebody must serve."""
        serving = self.world.serving_nodes()
        asked = self.random.choice(serving)
        owner = None if at is None else self.world.nodes.get(asked.owner_of(*at))
        return owner if owner is not None and owner.serving else asked
