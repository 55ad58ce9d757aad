"""A TCP relay that a test can hang or cut, between a client and a server that know nothing of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class TcpRelay:
    """Use `relay_to`. `endpoint` is HOST:PORT to connect to."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = {"requests": asyncio.Event(), "answers": asyncio.Event()}
        self.endpoint = ""
        self.resume()

    def hang(self, *directions: str) -> None:
        """Nothing passes any more in these directions (all: both); connections stay open."""
        for direction in directions or self._flowing:
            self._flowing[direction].clear()

    def resume(self) -> None:
        for event in self._flowing.values():
            event.set()

    def cut(self) -> None:
        """Ends every connection; new ones are welcome."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._target.split(":")
        try:
            to_reader, to_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        mine = {writer, to_writer}
        self._writers |= mine
        try:
            await asyncio.gather(self._pump(reader, to_writer, "requests"), self._pump(to_reader, writer, "answers"))
        except OSError:
            pass
        finally:
            for one in mine:
                one.transport.abort()
            self._writers -= mine

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: str) -> None:
        while data := await source.read(65536):
            await self._flowing[direction].wait()
            sink.write(data)
            await sink.drain()
        raise ConnectionResetError


@asynccontextmanager
async def relay_to(target: str) -> AsyncIterator[TcpRelay]:
    relay = TcpRelay(target)
    server = await asyncio.start_server(relay._serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    relay.endpoint = f"{host}:{port}"
    yield relay
    server.close()
    relay.resume()
    relay.cut()
    await asyncio.sleep(0)
