"""Serves a metadata store to the broker processes of one machine.

Owns: the Unix socket, calls and watches of each connection, and which process holds which lease. Must not: guess that a
process is dead: a closed connection ends nothing; `process_ended` does, and its caller has seen the process end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from struct import Struct

from bytemq.errors import BytemqError, Corrupt, Unavailable
from bytemq.metadata.served import wire
from bytemq.metadata.store import Compare, MetadataStore, Put
from bytemq.runtime.logging import get_logger

log = get_logger("metadata.served")

_CREDENTIALS = Struct("3i")  # SO_PEERCRED: process, user, group
Answer = tuple[wire.Message, list[bytes]]


class MetadataServer:
    """`start`, then `stop`; it does not close the store."""

    def __init__(self, store: MetadataStore, path: Path) -> None:
        self._store = store
        self._path = path
        self._leases: dict[int, set[int]] = {}
        """By process id."""
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens. Only this user may connect. What an earlier supervisor left there goes: the data's lock is ours."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        os.chmod(self._path, 0o600)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    async def process_ended(self, process_id: int) -> None:
        """The process was seen to end: so do its sessions."""
        for lease in self._leases.pop(process_id, set()):
            await self._store.revoke(lease)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        connection = _Connection(self._store, self._leases.setdefault(_process_of(writer), set()), writer)
        try:
            await connection.run(reader)
        except (asyncio.IncompleteReadError, OSError):
            pass
        except Corrupt as error:
            log.error("a broker's connection is closed", reason=str(error))
        finally:
            connection.close()
            writer.close()
            self._connections.discard(task)


class _Connection:
    """Calls are carried out as they come, answered when they are done."""

    def __init__(self, store: MetadataStore, leases: set[int], writer: asyncio.StreamWriter) -> None:
        self._store = store
        self._leases = leases
        self._writer = writer
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._calls: dict[str, Callable[[wire.Message, list[bytes]], Awaitable[Answer]]] = {
            "get": self._get,
            "range": self._range,
            "txn": self._txn,
            "grant": self._grant,
            "keep_alive": self._keep_alive,
            "revoke": self._revoke,
        }

    async def run(self, reader: asyncio.StreamReader) -> None:
        while True:
            message, blobs = await wire.read(reader)
            number, call = message["id"], message["call"]
            if call == "cancel":
                watch = self._tasks.get(message["watch"])
                if watch is not None:
                    watch.cancel()
                continue
            work = self._watch(message) if call == "watch" else self._answer(message, blobs)
            self._tasks[number] = task = asyncio.ensure_future(work)
            task.add_done_callback(partial(self._done, number))

    def _done(self, number: int, _: asyncio.Task[None]) -> None:
        self._tasks.pop(number, None)

    def close(self) -> None:
        for task in list(self._tasks.values()):
            task.cancel()

    async def _answer(self, message: wire.Message, blobs: list[bytes]) -> None:
        try:
            answer, values = await self._calls[message["call"]](message, blobs)
        except BytemqError as error:
            answer, values = wire.error_message(error), []
        self._send(message["id"], answer, values)

    async def _watch(self, message: wire.Message) -> None:
        try:
            async for events in self._store.watch(message["prefix"], message["after"]):
                heads = [[event.key, event.revision, event.value is not None] for event in events]
                values = [event.value for event in events if event.value is not None]
                self._send(message["id"], {"events": heads}, values)
                await self._writer.drain()
        except BytemqError as error:
            self._send(message["id"], wire.error_message(error), [])

    def _send(self, number: int, answer: wire.Message, blobs: list[bytes]) -> None:
        if not self._writer.is_closing():
            self._writer.write(wire.encode({"id": number, **answer}, blobs))

    async def _get(self, message: wire.Message, _: list[bytes]) -> Answer:
        found = await self._store.get(message["key"])
        return ({"revision": 0}, []) if found is None else ({"revision": found.revision}, [found.value])

    async def _range(self, message: wire.Message, _: list[bytes]) -> Answer:
        entries, revision = await self._store.range(message["prefix"])
        heads = [[entry.key, entry.revision] for entry in entries]
        return {"revision": revision, "entries": heads}, [entry.value for entry in entries]

    async def _txn(self, message: wire.Message, blobs: list[bytes]) -> Answer:
        compares = [Compare(key, revision) for key, revision in message["compares"]]
        puts = [Put(key, value, lease) for (key, lease), value in zip(message["puts"], blobs, strict=True)]
        done = await self._store.txn(compares, puts, message["deletes"])
        return {"succeeded": done.succeeded, "revision": done.revision}, []

    async def _grant(self, message: wire.Message, _: list[bytes]) -> Answer:
        lease = await self._store.grant_lease(message["ttl"])
        self._leases.add(lease)
        return {"lease": lease}, []

    async def _keep_alive(self, message: wire.Message, _: list[bytes]) -> Answer:
        await self._store.keep_alive(message["lease"])
        return {}, []

    async def _revoke(self, message: wire.Message, _: list[bytes]) -> Answer:
        await self._store.revoke(message["lease"])
        self._leases.discard(message["lease"])
        return {}, []


def _process_of(writer: asyncio.StreamWriter) -> int:
    """The process at the other end, as the kernel knows it."""
    if not hasattr(socket, "SO_PEERCRED"):
        raise Unavailable("several brokers with one supervisor need Linux")
    peer: socket.socket = writer.get_extra_info("socket")
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process_id: int = _CREDENTIALS.unpack(credentials)[0]
    return process_id
