"""Metrics, health and log level over HTTP, asked by hand-written requests."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager

import pytest

from bytemq.broker.http import MAX_CONNECTIONS, Answer, HttpServer, Request, Route, StreamedAnswer
from bytemq.runtime.clock import SystemClock
from bytemq.runtime.logging import levels, set_level
from bytemq.runtime.metrics import Metrics


@asynccontextmanager
async def serving(
    reason: str | None = None, names: Collection[str] = (), routes: Mapping[str, Route] | None = None
) -> AsyncIterator[tuple[str, int]]:
    metrics = Metrics()
    metrics.counters("bytemq_tests_total", "Tests", "kind").labels("unit").value += 3
    server = HttpServer(metrics, lambda: reason, SystemClock(), routes, names)
    address = await server.start("127.0.0.1", 0)
    try:
        yield address
    finally:
        await server.stop()


async def ask(address: tuple[str, int], method: str, path: str, body: bytes = b"") -> tuple[int, str]:
    head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
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
        (b"GET /nothing HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", 405),
        (b"\x00\x00\x00\x10rubbish\r\n\r\n", 0),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 0),
        (b"PUT /log-level HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 5000\r\n\r\n" + b"x" * 5000, 413),
    ],
)
async def test_http__refuses_what_it_does_not_serve(
    request_: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as address:
        found, said = await raw(address, request_)
        assert found == status or (status == 0 and found in (400, 414, 431))
        assert said, "in a sentence"
        assert "exception" not in caplog.text
        assert await ask(address, "GET", "/health") == (200, "ok\n")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("host: 127.0.0.1:9464", 200),
        ("host: [::1]:9464", 200),
        ("host: LocalHost:9464", 200),
        ("host: node.example.org.:80", 200),
        ("host: 192.0.2.7", 200),
        ("host: evil.example", 421),
        ("host: 127.0.0.1.evil.example:9464", 421),
        ("host: localhost.evil.example", 421),
        ("host: 127.0.0.1:9464\r\norigin: http://127.0.0.1:9464", 200),
        ("host: 127.0.0.1:9464\r\norigin: http://127.0.0.1:8000", 403),
        ("host: 127.0.0.1:9464\r\norigin: https://evil.example", 403),
        ("host: 127.0.0.1:9464\r\norigin: null", 403),
        ("host: 127.0.0.1:9464\r\nsec-fetch-site: cross-site", 403),
        ("host: 127.0.0.1:9464\r\nsec-fetch-site: same-site", 403),
        ("host: 127.0.0.1:9464\r\nsec-fetch-site: same-origin", 200),
    ],
)
async def test_http__web_pages_of_others_are_not_answered(headers: str, status: int) -> None:
    async with serving(names=("node.example.org",)) as address:
        for path in ("/metrics", "/log-level"):
            assert (await raw(address, f"GET {path} HTTP/1.1\r\n{headers}\r\n\r\n".encode()))[0] == status
        assert (await raw(address, f"GET /health HTTP/1.1\r\n{headers}\r\n\r\n".encode()))[0] == 200, "a probe"
        before = levels()
        request = f"PUT /log-level HTTP/1.1\r\n{headers}\r\ncontent-length: 4\r\n\r\nloud"
        assert (await raw(address, request.encode()))[0] == (400 if status == 200 else status)
        assert levels() == before


async def test_http__any_name_where_that_was_asked_for() -> None:
    async with serving(names=("*",)) as address:
        assert (await raw(address, b"GET /metrics HTTP/1.1\r\nhost: anything\r\n\r\n"))[0] == 200
        assert (await raw(address, b"GET /metrics HTTP/1.0\r\n\r\n"))[0] == 200


async def test_http__clients_that_never_finish_asking_shut_nobody_out() -> None:
    async with serving() as address:
        slow = [await asyncio.open_connection(*address) for _ in range(MAX_CONNECTIONS)]
        for _, writer in slow:
            writer.write(b"GET /metrics HTT")
        for _ in range(3):
            assert await ask(address, "GET", "/health") == (200, "ok\n")
        for _, writer in slow:
            writer.close()


@pytest.mark.parametrize("streamed", [False, True])
async def test_http__who_does_not_take_an_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch, streamed: bool) -> None:
    monkeypatch.setattr("bytemq.broker.http.TIMEOUT_S", 0.2)
    ended = asyncio.Event()

    async def parts() -> AsyncGenerator[bytes, None]:
        try:
            for _ in range(64):
                yield bytes(1024 * 1024)
        finally:
            ended.set()

    async def large(_: Request) -> Answer | StreamedAnswer:
        if streamed:
            return StreamedAnswer("text/plain", parts())
        return Answer(200, bytes(64 * 1024 * 1024))

    async with serving(routes={"/large": large}) as address:
        reader, writer = await asyncio.open_connection(*address, limit=1024)
        writer.write(b"GET /large HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert await reader.read(100)
        if streamed:
            await asyncio.wait_for(ended.wait(), 30)  # what makes the rows is let go
        else:
            await asyncio.sleep(0.5)  # it is about sockets: real time
        taken = 0
        with contextlib.suppress(ConnectionError):
            while part := await asyncio.wait_for(reader.read(1 << 20), 30):
                taken += len(part)
        assert taken < 64 * 1024 * 1024
        writer.close()
