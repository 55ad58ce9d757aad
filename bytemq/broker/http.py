"""HTTP for operators: GET /metrics, /health, /ready, GET and PUT /log-level. Loopback unless configured otherwise.

Owns its own listener and strict limits: few connections, small requests, short time; whose requests are answered at
all is `http_callers.py`'s. HTTP itself is h11's, imported with the first client. Others may add routes (tables, SQL);
what they do must not disturb the brokers' clients either.

    GET /health      200 while the event loop runs
    GET /ready       200 when the node serves clients, else 503 and the reason
    GET /metrics     Prometheus text format; names in docs/metrics.md
    GET /log-level   the levels: one `part=level` a line, first `root`, which holds for all parts not named
    PUT /log-level   body `level` or `part=level`
    any other path   one of `routes`, by its beginning
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import parse_qsl

from bytemq.broker.config_resources import ROOT_LOGGER
from bytemq.broker.http_callers import why_refused
from bytemq.errors import BytemqError
from bytemq.runtime.clock import Clock, TimerHandle
from bytemq.runtime.logging import get_logger, levels, set_level
from bytemq.runtime.metrics import Metrics

if TYPE_CHECKING:
    import h11

log = get_logger("broker.http")

Result = TypeVar("Result")

MAX_CONNECTIONS = 32
MAX_BODY_BYTES = 1024
MAX_ROUTE_BODY_BYTES = 256 * 1024
"""Of a request to one of the routes: the text of a query."""
MAX_HEADER_BYTES = 8 * 1024
TIMEOUT_S = 10.0
"""For a request to come in, and for an answer, or a step of one that is streamed, to be taken."""
STREAM_STEP_BYTES = 64 * 1024
FOR_ANYBODY = ("/health", "/ready")
"""They tell nothing, and probes come by any name."""
NO_CONTENT = 204
TEXT = "text/plain; charset=utf-8"


class Answer(NamedTuple):
    status: int
    body: bytes
    content_type: str = TEXT


class StreamedAnswer(NamedTuple):
    """Whose end nobody knows yet. If it fails on the way, the connection is cut, so that nobody takes it for whole."""

    content_type: str
    parts: AsyncGenerator[bytes, None]
    headers: Sequence[tuple[str, str]] = ()


class Request(NamedTuple):
    method: str
    path: str
    query: Mapping[str, str]
    body: bytes


Route = Callable[[Request], Awaitable[Answer | StreamedAnswer]]


class HttpServer:
    """One listener. `why_not_ready` returns None when the node serves clients."""

    def __init__(
        self,
        metrics: Metrics,
        why_not_ready: Callable[[], str | None],
        clock: Clock,
        routes: Mapping[str, Route] | None = None,
        names: Collection[str] = (),
    ) -> None:
        """`routes` by the first part of their path: "/tables". `names`: see `why_refused`."""
        self._metrics = metrics
        self._routes = routes or {}
        self._why_not_ready = why_not_ready
        self._clock = clock
        self._names = names
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._asking: dict[asyncio.StreamWriter, None] = {}
        """Whose requests have not come in yet, the oldest first."""

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listens; returns the address bound. Raises OSError."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=MAX_HEADER_BYTES)
        bound: tuple[str, int] = self._server.sockets[0].getsockname()[:2]
        log.info("http listener started", host=bound[0], port=bound[1])
        return bound

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in tuple(self._open):
            writer.transport.abort()
        while self._open:
            await self._clock.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            if not self._asking:
                writer.transport.abort()
                return
            oldest = next(iter(self._asking))  # who dawdles shuts nobody out
            del self._asking[oldest]
            oldest.transport.abort()
        self._open.add(writer)
        self._asking[writer] = None
        deadline = self._clock.call_later(TIMEOUT_S, writer.transport.abort)
        try:
            await self._converse(reader, writer, deadline)
        except (ConnectionError, asyncio.IncompleteReadError):
            log.debug("http client went away")
        finally:
            deadline.cancel()
            self._asking.pop(writer, None)
            self._open.discard(writer)
            writer.close()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, deadline: TimerHandle
    ) -> None:
        """One request, one answer: connections are not kept."""
        import h11

        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)
        answer: Answer | StreamedAnswer | None
        request: Request | Answer | None = None
        try:
            request = await self._request_of(connection, reader)
            self._asking.pop(writer, None)
            answer = await self._answer_to(request, reader, deadline)
        except h11.RemoteProtocolError as error:
            answer = Answer(error.error_status_hint, b"bad request\n")
        if answer is None or connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE, h11.ERROR):
            return
        if isinstance(answer, StreamedAnswer):
            await self._stream(answer, connection, reader, writer)
            return
        with _deadline(self._clock, writer):
            await _send(answer, connection, writer, with_body=not _is_head(request))

    async def _answer_to(
        self, request: Request | Answer | None, reader: asyncio.StreamReader, deadline: TimerHandle
    ) -> Answer | StreamedAnswer | None:
        if not isinstance(request, Request):
            return request
        route = self._routes.get(_first_part(request.path))
        if route is None:
            return self._answer(request)
        deadline.cancel()  # it has limits of its own
        return await _unless_gone(route(request), reader)

    def _route_of(self, request: "h11.Request | None") -> Route | None:
        path = b"" if request is None else request.target.partition(b"?")[0]
        return self._routes.get(_first_part(path.decode("ascii", "replace")))

    async def _stream(
        self,
        answer: StreamedAnswer,
        connection: "h11.Connection",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        import h11

        async def send() -> None:
            headers = [("content-type", answer.content_type), ("connection", "close"), *answer.headers]
            writer.write(connection.send(h11.Response(status_code=200, headers=headers)) or b"")
            async for part in answer.parts:
                for start in range(0, len(part), STREAM_STEP_BYTES):
                    writer.write(connection.send(h11.Data(part[start : start + STREAM_STEP_BYTES])) or b"")
                    with _deadline(self._clock, writer):
                        await writer.drain()
            writer.write(connection.send(h11.EndOfMessage()) or b"")
            with _deadline(self._clock, writer):
                await writer.drain()

        try:
            await _unless_gone(send(), reader)
        except BytemqError as error:
            log.warning("an answer broke off", reason=str(error))
            writer.transport.abort()
        finally:
            await answer.parts.aclose()

    async def _request_of(self, connection: "h11.Connection", reader: asyncio.StreamReader) -> Request | Answer | None:
        """The request that comes in, or why it is refused; None when the client leaves without one."""
        import h11

        request: h11.Request | None = None
        body = bytearray()
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                received = await reader.read(MAX_HEADER_BYTES)
                if not received and request is None:
                    return None
                connection.receive_data(received)
            elif isinstance(event, h11.Request):
                request = event
                if event.target.partition(b"?")[0].decode("ascii", "replace") not in FOR_ANYBODY:
                    refused = why_refused(dict(event.headers), self._names)
                    if refused is not None:
                        return Answer(refused[0], f"{refused[1]}\n".encode())
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > (MAX_BODY_BYTES if self._route_of(request) is None else MAX_ROUTE_BODY_BYTES):
                    return Answer(413, b"too large\n")
            elif isinstance(event, h11.EndOfMessage) and request is not None:
                path, _, query = request.target.decode("ascii", "replace").partition("?")
                return Request(request.method.decode("ascii", "replace"), path, dict(parse_qsl(query)), bytes(body))
            else:
                return None

    def _answer(self, asked: Request) -> Answer:
        method, path, body = asked.method, asked.path, asked.body
        if method == "PUT" and path == "/log-level":
            return _change_level(body.decode("utf-8", "replace").strip())
        if method != "GET":
            return Answer(405, b"only GET, and PUT /log-level\n")
        if path == "/metrics":
            content_type, text = self._metrics.render()
            return Answer(200, text, content_type)
        if path == "/health":
            return Answer(200, b"ok\n")
        if path == "/ready":
            reason = self._why_not_ready()
            return Answer(200, b"ready\n") if reason is None else Answer(503, f"{reason}\n".encode())
        if path == "/log-level":
            return Answer(200, "".join(f"{part or ROOT_LOGGER}={level}\n" for part, level in levels().items()).encode())
        known = " ".join(["/metrics", "/health", "/ready", "/log-level", *self._routes])
        return Answer(404, f"not found; there are {known}\n".encode())


@contextlib.contextmanager
def _deadline(clock: Clock, writer: asyncio.StreamWriter) -> Iterator[None]:
    """Whoever does not take an answer in time is cut off."""
    timer = clock.call_later(TIMEOUT_S, writer.transport.abort)
    try:
        yield
    finally:
        timer.cancel()


async def _send(answer: Answer, connection: "h11.Connection", writer: asyncio.StreamWriter, *, with_body: bool) -> None:
    import h11

    headers = [("connection", "close")]
    if answer.status != NO_CONTENT:
        headers += [("content-type", answer.content_type), ("content-length", str(len(answer.body)))]
    if connection.our_state is h11.ERROR:
        return
    writer.write(connection.send(h11.Response(status_code=answer.status, headers=headers)) or b"")
    if answer.body and with_body:
        writer.write(connection.send(h11.Data(answer.body)) or b"")
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    await writer.drain()


def _is_head(request: Request | Answer | None) -> bool:
    return isinstance(request, Request) and request.method == "HEAD"


def _first_part(path: str) -> str:
    return "/" + path.lstrip("/").partition("/")[0]


async def _end_of(reader: asyncio.StreamReader) -> None:
    while await reader.read(MAX_HEADER_BYTES):
        pass


async def _unless_gone(work: Awaitable[Result], reader: asyncio.StreamReader) -> Result:
    """What the work gives. It is cancelled when the client leaves; then ConnectionError."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_end_of(reader))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ConnectionResetError("the client left")
    finally:
        for task in (working, gone):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


def _change_level(text: str) -> Answer:
    part, _, level = text.rpartition("=")
    part = "" if part == ROOT_LOGGER else part
    try:
        set_level(level, part)
    except ValueError as error:
        return Answer(400, f"{error}\n".encode())
    log.info("log level changed", part=part or "all", level=level)
    return Answer(200, b"ok\n")
