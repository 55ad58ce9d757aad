"""A store whose objects are opened through a cache.

Owns: nothing but the joining. Reading a whole object, or a range of it once, goes past the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

from bytemq.storage.cache.block_cache import BlockCache, CachedFile
from bytemq.storage.stores.interface import Buffer, ObjectInfo, ObjectStore, ReadFile


class CachingStore:
    """Implements `ObjectStore`. Closing it leaves the store below open: it has other users."""

    def __init__(self, store: ObjectStore, cache: BlockCache) -> None:
        self._store = store
        self._cache = cache

    async def create(self, name: str, data: Sequence[Buffer]) -> None:
        await self._store.create(name, data)

    async def read(self, name: str) -> bytes:
        return await self._store.read(name)

    async def read_range(self, name: str, position: int, size_bytes: int) -> bytes:
        return await self._store.read_range(name, position, size_bytes)

    async def list(self, prefix: str) -> Sequence[ObjectInfo]:
        return await self._store.list(prefix)

    async def delete(self, names: Sequence[str]) -> None:
        await self._store.delete(names)
        for name in names:
            self._cache.forget(name)

    async def open_read(self, name: str) -> ReadFile:
        """Asks nothing of the store: an object that is missing shows when it is read."""
        return CachedFile(self._cache, name)

    async def size(self, name: str) -> int:
        return await self._store.size(name)

    async def close(self) -> None:
        return None
