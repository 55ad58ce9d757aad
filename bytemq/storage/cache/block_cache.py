"""Blocks of objects in memory, behind them on scratch disk.

Owns: what is kept, within byte limits; that several readers of one block cause one read of the store; read-ahead. Must
not: know what is in an object. Objects never change, so nothing is ever invalid, only superfluous.

The newest part of a log is not in here (`tail_memory` keeps it): a rescan of everything that there is pushes out what
other rescans have left, and no reader of the tail notices.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import NamedTuple, Protocol

from bytemq.errors import BytemqError
from bytemq.runtime.logging import get_logger
from bytemq.storage.stores.interface import ObjectStore

log = get_logger("storage.cache")

BLOCK_BYTES = 4 * 1024 * 1024
BEGINNING_BYTES = 256 * 1024
BEGINNING = -1


class BlockKey(NamedTuple):
    name: str
    number: int
    """`BEGINNING` for the small block that the object begins with, which is read by itself."""

    @property
    def position(self) -> int:
        return max(self.number, 0) * BLOCK_BYTES

    @property
    def limit_bytes(self) -> int:
        return BEGINNING_BYTES if self.number == BEGINNING else BLOCK_BYTES


class ColdBlocks(Protocol):
    """Where blocks go that memory has no room for. It may lose any of them."""

    async def get(self, key: BlockKey) -> bytes | None: ...

    def put(self, key: BlockKey, data: bytes) -> None: ...

    def forget(self, name: str) -> None: ...


class BlockCache:
    """`hits` and `misses` count blocks: used, and read from the store or from scratch."""

    def __init__(self, store: ObjectStore, capacity_bytes: int, cold: ColdBlocks | None = None) -> None:
        self._store = store
        self._capacity_bytes = capacity_bytes
        self._cold = cold
        self._blocks: OrderedDict[BlockKey, bytes] = OrderedDict()
        self._loading: dict[BlockKey, asyncio.Future[bytes]] = {}
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0

    def peek(self, name: str, position: int, size_bytes: int) -> memoryview | None:
        """The range if all of it is in memory."""
        first, last = position // BLOCK_BYTES, (position + size_bytes - 1) // BLOCK_BYTES
        if first != last:
            return None
        key = BlockKey(name, first)
        data = self._blocks.get(key)
        start = position - first * BLOCK_BYTES
        if data is None:
            key = BlockKey(name, BEGINNING)
            data, start = self._blocks.get(key), position
        if data is None or len(data) < start + size_bytes:
            return None
        self._touch(key, data)
        return memoryview(data)[start : start + size_bytes]

    async def read_beginning(self, name: str, position: int, size_bytes: int) -> memoryview:
        """As `read`, of an object in which what is wanted together stands at the beginning: no more of it is read than
        that, if it does.
        """
        whole = BlockKey(name, 0)
        if position + size_bytes > BEGINNING_BYTES or whole in self._blocks or whole in self._loading:
            return await self.read(name, position, size_bytes)
        return memoryview(await self._block(BlockKey(name, BEGINNING)))[position : position + size_bytes]

    async def read(self, name: str, position: int, size_bytes: int) -> memoryview:
        """Fewer bytes at the object's end. Raises NotFound, Unavailable."""
        if not size_bytes:
            return memoryview(b"")
        first, last = position // BLOCK_BYTES, (position + size_bytes - 1) // BLOCK_BYTES
        start = position - first * BLOCK_BYTES
        if first == last:
            return memoryview(await self._block(BlockKey(name, first)))[start : start + size_bytes]
        blocks = await asyncio.gather(*(self._block(BlockKey(name, number)) for number in range(first, last + 1)))
        return memoryview(b"".join(blocks))[start : start + size_bytes]

    async def _block(self, key: BlockKey) -> bytes:
        data = self._blocks.get(key)
        if data is None:
            data = await asyncio.shield(self._load(key))
        self._touch(key, data)
        return data

    def _touch(self, key: BlockKey, data: bytes) -> None:
        """The block is used. Whoever reads one after the other finds the next one there when they come to it."""
        self.hits += 1
        if key in self._blocks:
            self._blocks.move_to_end(key)
        if key.number > 0 and len(data) == BLOCK_BYTES and BlockKey(key.name, key.number - 1) in self._blocks:
            following = BlockKey(key.name, key.number + 1)
            if following not in self._blocks:
                self._load(following)

    def _load(self, key: BlockKey) -> asyncio.Future[bytes]:
        loading = self._loading.get(key)
        if loading is None:
            self.misses += 1
            loading = self._loading[key] = asyncio.ensure_future(self._fetch(key))
            loading.add_done_callback(_retrieved)
        return loading

    async def _fetch(self, key: BlockKey) -> bytes:
        try:
            data = await self._cold.get(key) if self._cold is not None else None
            if data is None:
                data = await self._store.read_range(key.name, key.position, key.limit_bytes)
            self._keep(key, data)
            return data
        finally:
            del self._loading[key]

    def _keep(self, key: BlockKey, data: bytes) -> None:
        self._blocks[key] = data
        self.size_bytes += len(data)
        while self.size_bytes > self._capacity_bytes and len(self._blocks) > 1:
            old, dropped = self._blocks.popitem(last=False)
            self.size_bytes -= len(dropped)
            if self._cold is not None:
                self._cold.put(old, dropped)

    def forget(self, name: str) -> None:
        """The object is gone, or what is kept of it is not what was written."""
        for key in [key for key in self._blocks if key.name == name]:
            self.size_bytes -= len(self._blocks.pop(key))
        if self._cold is not None:
            self._cold.forget(name)


class CachedFile:
    """Implements `ReadFile` through a cache. Opening costs nothing: an object that is missing shows when it is read."""

    __slots__ = ("_cache", "name")

    def __init__(self, cache: BlockCache, name: str) -> None:
        self._cache = cache
        self.name = name

    def read_cached(self, position: int, size_bytes: int) -> memoryview | None:
        return self._cache.peek(self.name, position, size_bytes)

    async def read(self, position: int, size_bytes: int) -> memoryview:
        return await self._cache.read(self.name, position, size_bytes)

    def forget_copies(self) -> None:
        self._cache.forget(self.name)

    async def close(self) -> None:
        return None


def _retrieved(loading: asyncio.Future[bytes]) -> None:
    """Nobody may wait for a read-ahead: its failure is found by whoever wants the block."""
    if not loading.cancelled():
        error = loading.exception()
        if error is not None and not isinstance(error, BytemqError):
            log.error("a block could not be read", error=error)
