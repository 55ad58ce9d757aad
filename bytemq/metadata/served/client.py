"""A broker's end of the metadata that its supervisor serves.

Owns: one connection and what waits on it. When it is lost the supervisor is gone, and with it all that this process
owned: every call is Fenced from then on. Must not: connect again; a new supervisor is a new life.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import count
from pathlib import Path

from bytemq.errors import Corrupt, Fenced, Invalid, Unavailable
from bytemq.metadata.served import wire
from bytemq.metadata.store import Compare, Event, KeyValue, Listing, Put, Txn, check_limits

SCHEME = "unix://"
_Answer = tuple[wire.Message, list[bytes]]


class ServedStore:
    """Implements `MetadataStore`. Use `open`."""

    leases_time_out = False

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Queue[_Answer | None]] = {}
        self._closed = False
        self._lost = False
        self._reading = asyncio.ensure_future(self._read(reader))

    @classmethod
    async def open(cls, path: Path) -> ServedStore:
        try:
            return cls(*await asyncio.open_unix_connection(path))
        except OSError as error:
            raise Unavailable(f"nobody serves metadata at {path}: {error.strerror}") from error

    async def get(self, key: str) -> KeyValue | None:
        answer, blobs = await self._call({"call": "get", "key": _checked(key)})
        return KeyValue(key, blobs[0], answer["revision"]) if blobs else None

    async def range(self, prefix: str) -> Listing:
        answer, blobs = await self._call({"call": "range", "prefix": _checked(prefix)})
        entries = [KeyValue(key, value, at) for (key, at), value in zip(answer["entries"], blobs, strict=True)]
        return Listing(entries, answer["revision"])

    async def txn(self, compares: Sequence[Compare], puts: Sequence[Put] = (), deletes: Sequence[str] = ()) -> Txn:
        check_limits(compares, puts, deletes)
        message = {
            "call": "txn",
            "compares": [[_checked(key), revision] for key, revision in compares],
            "puts": [[_checked(put.key), put.lease] for put in puts],
            "deletes": [_checked(key) for key in deletes],
        }
        answer, _ = await self._call(message, [put.value for put in puts])
        return Txn(answer["succeeded"], answer["revision"])

    async def watch(self, prefix: str, after_revision: int) -> AsyncIterator[list[Event]]:
        number, answers = self._ask({"call": "watch", "prefix": _checked(prefix), "after": after_revision})
        try:
            while True:
                answer, blobs = self._received(await answers.get())
                values = iter(blobs)
                yield [Event(key, next(values) if has else None, at) for key, at, has in answer["events"]]
        finally:
            del self._waiting[number]
            if not self._writer.is_closing():
                self._writer.write(wire.encode({"id": next(self._numbers), "call": "cancel", "watch": number}))

    async def grant_lease(self, ttl_s: float) -> int:
        lease: int = (await self._call({"call": "grant", "ttl": ttl_s}))[0]["lease"]
        return lease

    async def keep_alive(self, lease: int) -> None:
        await self._call({"call": "keep_alive", "lease": lease})

    async def revoke(self, lease: int) -> None:
        await self._call({"call": "revoke", "lease": lease})

    async def close(self) -> None:
        self._closed = True
        self._writer.close()
        await asyncio.wait([self._reading])

    async def _call(self, message: wire.Message, blobs: Sequence[bytes] = ()) -> _Answer:
        number, answers = self._ask(message, blobs)
        try:
            return self._received(await answers.get())
        finally:
            del self._waiting[number]

    def _ask(self, message: wire.Message, blobs: Sequence[bytes] = ()) -> tuple[int, asyncio.Queue[_Answer | None]]:
        number = next(self._numbers)
        answers = self._waiting[number] = asyncio.Queue()
        if self._closed or self._lost:
            answers.put_nowait(None)
        else:
            self._writer.write(wire.encode({"id": number, **message}, blobs))
        return number, answers

    def _received(self, answer: _Answer | None) -> _Answer:
        if answer is None:
            if self._closed:
                raise Unavailable("the metadata store is closed")
            raise Fenced("the supervisor, which serves the metadata, has ended")
        wire.raise_error(answer[0])
        return answer

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                message, blobs = await wire.read(reader)
                answers = self._waiting.get(message["id"])
                if answers is not None:
                    answers.put_nowait((message, blobs))
        except (asyncio.IncompleteReadError, OSError, Corrupt):
            pass
        finally:
            self._lost = True
            for answers in self._waiting.values():
                answers.put_nowait(None)


def _checked(key: str) -> str:
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise Invalid(f"a metadata key is Unicode text, not {key!r}") from error
    return key
