"""Any file system that fsspec has a driver for, as far as it can honour the contract (`self_test` finds out).

Owns: the calls to fsspec, in threads or on the loop as the file system wants. Must not: retry (`remote` does).

fsspec has no word for a writer's token: whoever finds that a name exists compares the bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from bytemq.errors import Invalid, NotFound, Unavailable
from bytemq.storage.stores.interface import ObjectInfo
from bytemq.storage.stores.local import translated
from bytemq.storage.stores.remote import Head

NOT_DURABLE = frozenset({"file", "local", "memory"})
"""Protocols whose drivers have done with an object before it would outlast the process, or the power. A self-test sees
nothing of that; files are for `local`, which syncs them.
"""


class FsspecDriver:
    """Implements `remote.Driver` for the objects below one URL."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/")

    @classmethod
    async def open(cls, url: str) -> FsspecDriver:
        """Raises, with a sentence for the user, Invalid when fsspec or its driver is not there, or keeps nothing, and
        Unavailable when what the URL names does not answer.
        """
        try:
            import fsspec

            filesystem, root = await asyncio.to_thread(lambda: fsspec.core.url_to_fs(url))
        except (ImportError, ValueError) as error:
            raise Invalid(f"no storage can be had from {url}: {error}") from error
        except OSError as error:
            raise Unavailable(f"the storage {url} cannot be reached: {error}") from error
        if not NOT_DURABLE.isdisjoint(_protocols(filesystem)):
            raise Invalid(f"what is put into {url} is not durable; write file:///FOLDER or s3://BUCKET/PREFIX")
        return cls(filesystem, root)

    async def prepare(self) -> None:
        """Folders are made with what is put into them."""

    async def put(self, name: str, data: bytes | memoryview, token: str) -> None:
        path = self._path(name)

        def put() -> None:
            parent = path.rpartition("/")[0]
            self._filesystem.makedirs(parent, exist_ok=True)
            self._filesystem.pipe_file(path, bytes(data), mode="create")

        try:
            await _called(name, put)
        except NotImplementedError as error:
            raise Invalid(f"{name}: this file system cannot create an object only if it is absent") from error

    async def get(self, name: str, position: int, size_bytes: int | None) -> bytes:
        end = None if size_bytes is None else position + size_bytes
        try:
            return bytes(await _called(name, lambda: self._filesystem.cat_file(self._path(name), position, end)))
        except ValueError:  # a range behind the end
            return b""

    async def head(self, name: str) -> Head:
        info = await _called(name, lambda: self._filesystem.info(self._path(name)))
        return Head(info["size"], None)

    async def list(self, prefix: str) -> Sequence[ObjectInfo]:
        try:
            found = await _called(prefix, lambda: self._filesystem.find(self._path(prefix), detail=True))
        except NotFound:
            return []
        return [ObjectInfo(path[len(self._root) + 1 :], info["size"]) for path, info in found.items()]

    async def delete(self, names: Sequence[str]) -> None:
        for name in names:
            try:
                await _called(name, lambda name=name: self._filesystem.rm_file(self._path(name)))  # type: ignore[misc]
            except NotFound:
                continue

    async def sign(self, name: str, seconds: int) -> str:
        try:
            return str(await _called(name, lambda: self._filesystem.sign(self._path(name), seconds)))
        except NotImplementedError as error:
            raise Invalid(f"{name}: this file system has no URLs that anybody can read from") from error

    async def close(self) -> None:
        return None

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _protocols(filesystem: Any) -> set[str]:
    """Its own, and those of what it wraps, as `dir::` does."""
    from fsspec import AbstractFileSystem

    found: set[str] = set()
    while isinstance(filesystem, AbstractFileSystem):
        protocol = filesystem.protocol
        found.update([protocol] if isinstance(protocol, str) else protocol)
        filesystem = getattr(filesystem, "fs", None)
    return found


async def _called(what: str, call: Callable[[], Any]) -> Any:
    try:
        return await asyncio.to_thread(call)
    except FileExistsError as error:
        raise Invalid(f"{what} exists") from error
    except (FileNotFoundError, KeyError) as error:
        raise NotFound(f"{what}: not found") from error
    except OSError as error:
        raise translated(error, what) from error
    except (ValueError, NotImplementedError):
        raise
    except Exception as error:  # drivers raise whatever their libraries do
        raise Unavailable(f"{what}: {error!r}") from error
