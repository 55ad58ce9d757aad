"""Requests to other brokers: answered, failed, or never sent, and what that is called."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bytemq.broker.peers import Peers
from bytemq.protocol.codec import decode, encode
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.framing import parse_request_header, response_prefix
from bytemq.protocol.messages.find_coordinator import Coordinator, FindCoordinatorRequest, FindCoordinatorResponse
from bytemq.runtime.clock import SystemClock
from bytemq.runtime.tasks import Supervisor

VERSION = 4


@asynccontextmanager
async def peers_of(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]) -> AsyncIterator[Peers]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    image = SimpleNamespace(brokers={1: SimpleNamespace(endpoints={"INSIDE": address, "OUTSIDE": ("nowhere", 1)})})
    supervisor = Supervisor(SystemClock(), lambda name, error: None)
    peers = Peers(lambda: cast(Any, image), 0, "INSIDE", supervisor)
    yield peers
    peers.close()
    await supervisor.close()
    server.close()


async def echo_keys(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers FindCoordinator with the keys asked for; two at a time, the later one first."""
    held: list[bytes] = []
    try:
        while True:
            size = int.from_bytes(await reader.readexactly(4), "big")
            header = parse_request_header(memoryview(bytearray(await reader.readexactly(size))))
            assert header.client_id == "broker-0"
            keys = decode(FindCoordinatorRequest, VERSION, header.body).coordinator_keys
            answer = FindCoordinatorResponse(coordinators=[Coordinator(key, 1, "host", 1, 0, "") for key in keys])
            body = encode(answer, VERSION)
            held.append(response_prefix(header.api_key, VERSION, header.correlation_id, len(body)) + bytes(body))
            if len(held) == 2:
                writer.write(held[1] + held[0])
                held.clear()
    except asyncio.IncompleteReadError:
        writer.close()


async def ask(peers: Peers, key: str, broker_id: int = 1) -> str:
    request = FindCoordinatorRequest(key_type=0, coordinator_keys=[key])
    answer = await peers.ask(broker_id, request, VERSION, FindCoordinatorResponse)
    return str(answer.coordinators[0].key)


async def test_peers__match_answers_to_requests_on_one_connection() -> None:
    async with peers_of(echo_keys) as peers:
        assert await asyncio.gather(ask(peers, "a"), ask(peers, "b")) == ["a", "b"]


async def test_peers__do_not_send_to_a_broker_that_is_not_there() -> None:
    async with peers_of(echo_keys) as peers:
        with pytest.raises(KafkaError) as raised:
            await ask(peers, "a", broker_id=2)
        assert raised.value.code is ErrorCode.BROKER_NOT_AVAILABLE


@pytest.mark.parametrize("answer", [b"", b"\x00\x00\x00\x02hi", b"\x7f\xff\xff\xff"])
async def test_peers__say_that_a_request_had_no_answer_and_connect_anew(answer: bytes) -> None:
    served = 0

    async def once_broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        if served > 1:
            await echo_keys(reader, writer)
            return
        await reader.readexactly(4)
        writer.write(answer)
        writer.close()

    async with peers_of(once_broken) as peers:
        with pytest.raises(KafkaError) as raised:
            await ask(peers, "a")
        assert raised.value.code is ErrorCode.NETWORK_EXCEPTION
        assert await asyncio.gather(ask(peers, "b"), ask(peers, "c")) == ["b", "c"]


async def test_peers__send_nothing_on_a_connection_that_has_just_broken() -> None:
    """uvloop raises what nobody expects then, and whoever waited for the answer waits for ever."""
    async with peers_of(echo_keys) as peers:
        assert await asyncio.gather(ask(peers, "a"), ask(peers, "b")) == ["a", "b"]
        [connection] = peers._connections.values()
        assert connection._writer is not None
        connection._writer.transport.abort()
        with pytest.raises(KafkaError) as raised:
            await ask(peers, "c")
        assert raised.value.code is ErrorCode.BROKER_NOT_AVAILABLE
        assert await asyncio.gather(ask(peers, "d"), ask(peers, "e")) == ["d", "e"]
