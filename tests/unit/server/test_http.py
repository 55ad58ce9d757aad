"""Metrics, health and log level over HTTP, asked by hand-written requests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bytemq.broker.http import HttpServer
from bytemq.runtime.clock import SystemClock
from bytemq.runtime.logging import levels, set_level
from bytemq.runtime.metrics import Metrics


@asynccontextmanager
async def serving(reason: str | None = None) -> AsyncIterator[tuple[str, int]]:
    metrics = Metrics()
    metrics.counters("bytemq_tests_total", "Tests", "kind").labels("unit").value += 3
    server = HttpServer(metrics, lambda: reason, SystemClock())
    address = await server.start("127.0.0.1", 0)
    try:
        yield address
    finally:
        await server.stop()


async def ask(address: tuple[str, int], method: str, path: str, body: bytes = b"") -> tuple[int, str]:
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    return await raw(address, head.encode() + body)


async def raw(address: tuple[str, int], data: bytes) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(data)
        answer = await reader.read()
    except ConnectionError:
        return 0, ""
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, body.decode()


async def test_http__metrics_are_prometheus_text() -> None:
    async with serving() as address:
        status, body = await ask(address, "GET", "/metrics")
        assert status == 200
        assert 'bytemq_tests_total{kind="unit"} 3.0' in body


@pytest.mark.parametrize(("reason", "status"), [(None, 200), ("recovering", 503)])
async def test_http__ready_says_why_not(reason: str | None, status: int) -> None:
    async with serving(reason) as address:
        assert await ask(address, "GET", "/ready") == (status, f"{reason or 'ready'}\n")
        assert await ask(address, "GET", "/health") == (200, "ok\n")


async def test_http__changes_the_log_level() -> None:
    before = levels()[""]
    async with serving() as address:
        try:
            assert (await ask(address, "PUT", "/log-level", b"info"))[0] == 200
            assert (await ask(address, "PUT", "/log-level", b"root=debug"))[0] == 200
            assert (await ask(address, "PUT", "/log-level", b"broker.http=warning"))[0] == 200
            status, body = await ask(address, "GET", "/log-level")
            assert status == 200
            assert {"root=debug", "broker.http=warning"} <= set(body.splitlines())
            assert (await ask(address, "PUT", "/log-level", b"loud"))[0] == 400
        finally:
            set_level(before)
            set_level(before, "broker.http")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nhost: x\r\n\r\n", 405),
        (b"\x00\x00\x00\x10rubbish\r\n\r\n", 0),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 0),
        (b"PUT /log-level HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\n" + b"x" * 5000, 413),
    ],
)
async def test_http__refuses_what_it_does_not_serve(request_: bytes, status: int) -> None:
    async with serving() as address:
        found, _ = await raw(address, request_)
        assert found == status or (status == 0 and found in (400, 414, 431))
        assert await ask(address, "GET", "/health") == (200, "ok\n")
