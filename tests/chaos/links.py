"""Ways between processes that can be cut, held up, or made to lose answers: TCP relays in a thread of their own.

Owns: the relays and what is wrong with each of them at the moment. Must not: know what is said on them, but that a
store speaks HTTP.

Where `delivers_late`, requests that were held up come to the server when the way is open again, however long their
sender has given up: brokers must live with that in what they ask of etcd and of the store, and in what producers send.
Elsewhere they are lost with their connection: Kafka's protocol cannot tell an old client's late offset commit or EndTxn
from its next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

REQUESTS, ANSWERS = "requests", "answers"
BOTH = (REQUESTS, ANSWERS)
CHUNK_BYTES = 65536
SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_EXPECTS = re.compile(rb"\r\nexpect: *100-continue", re.IGNORECASE)


@dataclass(eq=False)
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    pumps: list[asyncio.Task[None]] = field(default_factory=list)

    def reset(self) -> None:
        for pump in self.pumps:
            pump.cancel()
        for writer in (self.client, self.server):
            if writer is not None:
                _reset(writer)


class Link:
    """A way to one server; `port` is where to connect. Faults are set from any thread, and last until `heal`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, target: str, random: Random, *, delivers_late: bool) -> None:
        self.port = 0
        self._loop = loop
        self._target = target
        self._random = random
        self._delivers_late = delivers_late
        self._connections: set[_Connection] = set()
        self._flowing = {direction: asyncio.Event() for direction in BOTH}
        self._server: asyncio.Server
        self._refusing = False
        self._loses_answers = False
        self._unavailable = 0.0
        self._delay_s = 0.0
        for event in self._flowing.values():
            event.set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    # What may be wrong.

    def cut(self) -> None:
        """Connections are reset, and so are new ones."""
        self._do(self._cut)

    def hold(self, *directions: str) -> None:
        """Nothing passes in these directions, and nobody is told."""
        self._do(lambda: [self._flowing[direction].clear() for direction in directions])

    def lose_answers(self) -> None:
        """A request passes, and its connection is reset in place of the answer."""
        self._do(lambda: setattr(self, "_loses_answers", True))

    def delay(self, seconds: float) -> None:
        self._do(lambda: setattr(self, "_delay_s", seconds))

    def be_unavailable(self, share: float) -> None:
        """Of the connections to this HTTP server, so many are answered 503, whatever they ask for."""
        self._do(lambda: self._be_unavailable(share))

    def heal(self) -> None:
        self._do(self._heal)

    def _do(self, action: Callable[[], Any]) -> None:
        """Returns when it is done."""
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (action(), done.set()))
        done.wait()

    def _cut(self) -> None:
        self._refusing = True
        self._reset_all()

    def _be_unavailable(self, share: float) -> None:
        self._unavailable = share
        self._reset_all()

    def _heal(self) -> None:
        held = not all(event.is_set() for event in self._flowing.values())
        self._refusing = self._loses_answers = False
        self._unavailable = self._delay_s = 0.0
        if held and not self._delivers_late:
            self._reset_all()
        for event in self._flowing.values():
            event.set()

    def _reset_all(self) -> None:
        for connection in list(self._connections):
            connection.reset()

    # Connections.

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        self._reset_all()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            _reset(writer)
            return
        connection = _Connection(writer)
        self._connections.add(connection)
        try:
            if self._random.random() < self._unavailable:
                connection.pumps.append(asyncio.ensure_future(_answer_503(reader, writer)))
            else:
                await self._join(connection, reader)
            await asyncio.gather(*connection.pumps, return_exceptions=True)
        finally:
            connection.reset()
            self._connections.discard(connection)

    async def _join(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        host, _, port = self._target.rpartition(":")
        try:
            answers, connection.server = await asyncio.open_connection(host, int(port))
        except OSError:
            return
        for writer in (connection.client, connection.server):
            with contextlib.suppress(OSError):  # it has been closed meanwhile
                writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.pumps += [
            asyncio.ensure_future(self._pump(connection, reader, connection.server, REQUESTS)),
            asyncio.ensure_future(self._pump(connection, answers, connection.client, ANSWERS)),
        ]

    async def _pump(
        self, connection: _Connection, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: str
    ) -> None:
        """The end of what a client sends is passed on behind it; nobody who is gone need hear the answers."""
        try:
            while data := await source.read(CHUNK_BYTES):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                await self._flowing[direction].wait()
                if direction == ANSWERS and self._loses_answers:
                    connection.reset()
                    return
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        if direction == ANSWERS or not self._delivers_late:
            connection.reset()
        else:
            await self._flowing[direction].wait()
            sink.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    opened = writer.get_extra_info("socket")
    if opened is not None and not writer.is_closing():
        with contextlib.suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _answer_503(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Each request is read to its end, but for a body that waits to be asked for."""
    with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            waits = _EXPECTS.search(head) is not None
            if length is not None and not waits:
                await reader.readexactly(int(length[1]))
            body = b"" if head.startswith(b"HEAD ") else SLOW_DOWN
            ending = b"close" if waits else b"keep-alive"
            writer.write(
                b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\n"
                b"Content-Length: %d\r\nConnection: %s\r\n\r\n%s" % (len(body), ending, body)
            )
            await writer.drain()
            if waits:
                writer.close()
                return


class Links:
    """Makes links. Use `running_links`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seed: int) -> None:
        self._loop = loop
        self._seed = seed
        self._all: list[Link] = []

    def to(self, target: str, *, delivers_late: bool) -> Link:
        """A new way to HOST:PORT, open."""
        link = Link(self._loop, target, Random(f"{self._seed} {len(self._all)}"), delivers_late=delivers_late)
        self._wait(link.open())
        self._all.append(link)
        return link

    def heal(self) -> None:
        for link in self._all:
            link.heal()

    def close(self) -> None:
        for link in self._all:
            self._wait(link.close())

    def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()


@contextmanager
def running_links(seed: int = 0) -> Iterator[Links]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="links", daemon=True)
    thread.start()
    links = Links(loop, seed)
    try:
        yield links
    finally:
        links.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
