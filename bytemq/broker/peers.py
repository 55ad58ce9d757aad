"""Requests to the other brokers of the cluster, over Kafka's protocol, as a client of theirs.

Owns: one connection to each broker that is asked something, its requests on their way, and what their failures mean. A
request that has no answer, whatever the reason, is NETWORK_EXCEPTION: it may have been carried out. Must not: try
again, or know what is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import TypeVar

from bytemq.metadata.image import ClusterImage
from bytemq.protocol.codec import decode, encode
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.framing import (
    SIZE_BYTES,
    parse_correlation_id,
    parse_frame_size,
    request_prefix,
    response_body,
)
from bytemq.protocol.primitives import MalformedMessage
from bytemq.protocol.schema import Message
from bytemq.runtime.logging import get_logger
from bytemq.runtime.tasks import Supervisor

log = get_logger("broker.peers")

TIMEOUT_S = 10.0
MAX_RESPONSE_BYTES = 16 * 1024 * 1024
MAX_IN_FLIGHT = 1000
"""To one broker; more are refused, so that a broker that does not answer costs no growing memory."""

_CLIENT_ID = "broker-"

Address = tuple[str, int]
R = TypeVar("R", bound=Message)


class Peers:
    """`listener`: the one whose addresses brokers use among themselves."""

    def __init__(
        self, image: Callable[[], ClusterImage], broker_id: int, listener: str, supervisor: Supervisor
    ) -> None:
        self._image = image
        self._client_id = f"{_CLIENT_ID}{broker_id}"
        self._listener = listener
        self._supervisor = supervisor
        self._connections: dict[Address, _Connection] = {}

    async def ask(self, broker_id: int, request: Message, version: int, response: type[R]) -> R:
        """Raises KafkaError: BROKER_NOT_AVAILABLE (nothing was sent), NETWORK_EXCEPTION (it may have been)."""
        connection = await self._connection_to(broker_id)
        assert request.API_KEY is not None
        body = await connection.exchange(request.API_KEY, version, self._client_id, encode(request, version))
        try:
            return decode(response, version, body)
        except MalformedMessage as error:
            connection.close()
            raise KafkaError(ErrorCode.NETWORK_EXCEPTION, f"broker {broker_id} answers nonsense") from error

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    async def _connection_to(self, broker_id: int) -> _Connection:
        node = self._image().brokers.get(broker_id)
        address = None if node is None else node.endpoints.get(self._listener)
        if address is None:
            raise KafkaError(ErrorCode.BROKER_NOT_AVAILABLE)
        connection = self._connections.get(address)
        if connection is None or connection.is_closed:
            connection = self._connections[address] = _Connection(address, self._supervisor)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await connection.opened()
        except (OSError, TimeoutError) as error:
            connection.close()
            log.warning("cannot connect to a broker", broker=broker_id, reason=str(error))
            raise KafkaError(ErrorCode.BROKER_NOT_AVAILABLE) from error
        return connection


def is_peer(client_id: str | None) -> bool:
    """Whether a request may be from another broker, which asks here because nobody else would know: it is not asked
    further. A client that calls itself so is answered by whom it asks, too.
    """
    return client_id is not None and client_id.startswith(_CLIENT_ID)


class _Connection:
    """Requests are sent as they come; answers come in their order, and are matched by their correlation ids."""

    def __init__(self, address: Address, supervisor: Supervisor) -> None:
        self._address = address
        self._supervisor = supervisor
        self._opening = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._ids = count(1)
        self._waiting: dict[int, asyncio.Future[memoryview]] = {}
        self.is_closed = False

    async def opened(self) -> None:
        """Raises OSError."""
        async with self._opening:
            if self._writer is None and not self.is_closed:
                reader, self._writer = await asyncio.open_connection(*self._address)
                self._supervisor.start("answers of a broker", self._read(reader))
        if self.is_closed:
            raise ConnectionResetError("the connection was closed")

    async def exchange(self, api_key: int, version: int, client_id: str, body: bytes | bytearray) -> memoryview:
        if self._writer is not None and self._writer.is_closing():
            self.close()  # it has broken, and `_read` is not told yet; uvloop lets nobody write any more
        if self.is_closed or self._writer is None or len(self._waiting) >= MAX_IN_FLIGHT:
            raise KafkaError(ErrorCode.BROKER_NOT_AVAILABLE)
        correlation_id = next(self._ids)
        answer: asyncio.Future[memoryview] = asyncio.get_running_loop().create_future()
        self._waiting[correlation_id] = answer
        self._writer.write(request_prefix(api_key, version, correlation_id, client_id, len(body)) + bytes(body))
        try:
            async with asyncio.timeout(TIMEOUT_S):
                frame = await answer
            return response_body(api_key, version, frame)
        except (TimeoutError, ConnectionError, MalformedMessage) as error:
            self.close()
            raise KafkaError(ErrorCode.NETWORK_EXCEPTION, str(error) or "no answer in time") from error
        finally:
            self._waiting.pop(correlation_id, None)

    def close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        if self._writer is not None:
            self._writer.close()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError("the connection was closed"))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                size_bytes = parse_frame_size(await reader.readexactly(SIZE_BYTES), MAX_RESPONSE_BYTES)
                frame = memoryview(await reader.readexactly(size_bytes))
                answer = self._waiting.get(parse_correlation_id(frame))
                if answer is not None and not answer.done():
                    answer.set_result(frame)
        except (asyncio.IncompleteReadError, OSError, MalformedMessage):
            pass
        finally:
            self.close()


_CODES: dict[int, ErrorCode] = {int(code): code for code in ErrorCode}


def code_of(value: int) -> ErrorCode:
    """A code from another broker, which may know more codes than we do."""
    return _CODES.get(value, ErrorCode.UNKNOWN_SERVER_ERROR)
