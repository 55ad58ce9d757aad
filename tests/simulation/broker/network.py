"""Connections between clients and brokers: requests and answers as bytes, in order, late, and sometimes lost.

A connection that breaks loses what is on its way in either direction: a request may have been carried out, and nobody
will say so. A broker that dies breaks all of its connections.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from bytemq.broker.context import ClientInfo
from bytemq.broker.exchange import Answered, Exchange
from bytemq.broker.frame_reader import Arena
from bytemq.broker.produce_run import ProduceShare
from bytemq.protocol.api_keys import ApiKey
from bytemq.protocol.api_versions import API_VERSIONS
from bytemq.protocol.codec import decode, encode
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.framing import SIZE_BYTES, request_prefix, split_request
from bytemq.protocol.schema import Message
from tests.simulation.broker.loop import NOBODY

if TYPE_CHECKING:
    from tests.simulation.broker.node import Node

R = TypeVar("R", bound=Message)
_DELAYS_S = (0.0, 0.0, 0.0005, 0.002, 0.01)
_LINGERING_S = (0.1, 0.4, 1.0)
_NEXT_S = 1e-6
PEER_TIMEOUT_S = 2.0


class Disconnected(Exception):
    """There will be no answer. The request may have been carried out."""


class _Asked:
    __slots__ = ("answer", "exchange")

    def __init__(self, answer: asyncio.Future[bytes]) -> None:
        self.answer = answer
        self.exchange: Exchange | ProduceShare | None = None


class Connection:
    """`loss` is the chance that it breaks with an answer on its way."""

    def __init__(self, node: Node, client: str, random: Random, loss: float) -> None:
        self.node = node
        self.broken = False
        self._random = random
        self._loss = loss
        self._loop = asyncio.get_running_loop()
        node.accepted += 1
        connection_id = f"127.0.0.1:9092-127.0.0.1:1-{client}-{node.accepted}"
        self._client = ClientInfo(connection_id, "PLAINTEXT", "127.0.0.1", 1)
        self._asked: deque[_Asked] = deque()
        self._name = client
        self._sent_at = self._answered_at = self._late_at = 0.0
        self._is_cut = False
        node.connections.append(self)

    async def ask(self, request: Message, version: int, response_class: type[R], timeout_s: float) -> R:
        """Raises Disconnected, also when the time is over: the client hangs up then."""
        if self.broken:
            raise Disconnected
        body = memoryview(bytearray(encode(request, version)))
        key = type(request).API_KEY or 0
        asked = _Asked(self._loop.create_future())
        self._asked.append(asked)
        self._sent_at = self._later(self._sent_at, key)
        self._loop.call_at(self._sent_at, self._arrive, asked, key, version, body, context=NOBODY)
        patience = self._loop.call_later(timeout_s, self._hang_up_on, asked)
        try:
            answer = await asked.answer
        finally:
            patience.cancel()
        flexible = API_VERSIONS[key].is_flexible(version)
        return decode(response_class, version, memoryview(answer)[9 if flexible else 8 :])

    def break_down(self) -> None:
        self.broken = True
        if self in self.node.connections:
            self.node.connections.remove(self)
        while self._asked:
            asked = self._asked.popleft()
            if asked.exchange is not None and self.node.process.alive:
                self.node.process.run(asked.exchange.abandon)
            if not asked.answer.done():
                asked.answer.set_exception(Disconnected())
                asked.answer.exception()  # whoever asked may have gone

    def _hang_up_on(self, asked: _Asked) -> None:
        """The client waits no longer. It may have been answered already."""
        self.break_down()
        if not asked.answer.done():
            asked.answer.set_exception(Disconnected())

    def hang_up(self, reason: str) -> None:
        """For the broker."""
        self.node.note(f"the broker hangs up on {self._name}: {reason}")
        self.break_down()

    def answered(self, work: Answered) -> None:
        """For the broker: answers go out in the order of the requests."""
        while self._asked and (first := self._asked[0].exchange) is not None and first.answer is not None:
            asked = self._asked.popleft()
            if self._random.random() < self._loss:
                self._asked.appendleft(asked)
                self.break_down()
                return
            self._answered_at = self._later(self._answered_at)
            payload = b"".join(first.answer)
            first.release_response(self.node.broker.response_memory)
            self._loop.call_at(self._answered_at, _resolve, asked.answer, payload, context=NOBODY)

    def _arrives_late(self, key: int) -> bool:
        """What was sent before a connection broke may be read by the broker although the client has gone. Of batches
        only: in the flow of old clients late requests to a coordinator do harm, and a marker that comes after its
        coordinator has repeated it, in Kafka as well (KIP-890 says why).
        """
        return key == ApiKey.PRODUCE and self._random.random() < 0.5

    def _later(self, previous: float, key: int = -1) -> float:
        random = self._random.random
        delays_s: Sequence[float] = _DELAYS_S
        if random() < self.node.world.lingering.get(key, 0.0):
            delays_s = _LINGERING_S
            self.node.world.lingers(key)
        return max(previous + _NEXT_S, self._loop.time() + delays_s[int(random() * len(delays_s))])

    def _arrive(self, asked: _Asked, key: int, version: int, body: memoryview) -> None:
        if not self.broken:
            self._deliver(asked, key, version, body)
        elif not self._is_cut:
            self._is_cut = not self._arrives_late(key)  # and nothing behind it arrives either
            if not self._is_cut:
                delay_s = self._random.choice((0.0, 0.05, 0.3))
                self._late_at = max(self._late_at + _NEXT_S, self._loop.time() + delay_s)
                self._loop.call_at(self._late_at, self._deliver, asked, key, version, body, context=NOBODY)

    def _deliver(self, asked: _Asked, key: int, version: int, body: memoryview) -> None:
        if not self.node.serving:
            self.break_down()
            return
        prefix = request_prefix(key, version, 1, self._name, len(body))[SIZE_BYTES:]
        self.node.process.run(self._begin, asked, bytearray(prefix + body))

    def _begin(self, asked: _Asked, frame: bytearray) -> None:
        """Within the broker: as its connections do with a frame."""
        node, size_bytes = self.node, len(frame)
        memory = node.request_memory
        memory.budget.reserve_anyway(size_bytes)
        arena = Arena(memory, frame, reserved_bytes=size_bytes)
        asked.exchange = node.runs.take(arena, 0, size_bytes, 0, self._client, self)[0]
        if asked.exchange is not None:
            self._loop.call_soon(node.runs.begin)  # with what else comes in this turn
            return
        header = split_request(memoryview(frame))
        asked.exchange = exchange = Exchange(header, self._client, self, memory, frame, size_bytes)
        node.dispatcher.dispatch(exchange)


class SimulatedPeers:
    """The network between brokers, with the face of `bytemq.broker.peers.Peers`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._connections: dict[Node, Connection] = {}

    async def ask(self, broker_id: int, request: Message, version: int, response: type[R]) -> R:
        world = self._node.world
        peer = world.nodes.get(broker_id)
        if peer is None or not peer.serving:
            raise KafkaError(ErrorCode.BROKER_NOT_AVAILABLE)
        connection = self._connections.get(peer)
        if connection is None or connection.broken:
            connection = Connection(peer, self._node.process.name, self._node.random, world.loss)
            self._connections[peer] = connection
        try:
            return await connection.ask(request, version, response, PEER_TIMEOUT_S)
        except Disconnected:
            raise KafkaError(ErrorCode.NETWORK_EXCEPTION) from None


def _resolve(answer: asyncio.Future[Any], payload: bytes) -> None:
    if not answer.done():
        answer.set_result(payload)
