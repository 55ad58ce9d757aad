"""The newest flushes in memory: what tailing consumers and write-behind read.

Owns: which flushes are kept as bytes, within a byte limit, oldest first out. Must not: know logs. What is no longer in
memory is read from its object through the cache.
"""

from __future__ import annotations

from collections import deque

from bytemq.storage.cache.block_cache import BlockCache
from bytemq.storage.shared_file import SharedFile


class FlushFile:
    """One flush object, read like a file (`ReadFile`). `data` are its bytes while memory has them."""

    __slots__ = ("_cache", "data", "name")

    def __init__(self, cache: BlockCache, name: str, data: bytes | None) -> None:
        self._cache = cache
        self.name = name
        self.data = data

    def read_cached(self, position: int, size_bytes: int) -> memoryview | None:
        if self.data is not None:
            return memoryview(self.data)[position : position + size_bytes]
        return self._cache.peek(self.name, position, size_bytes)

    async def read(self, position: int, size_bytes: int) -> memoryview:
        if self.data is not None:
            return memoryview(self.data)[position : position + size_bytes]
        return await self._cache.read_beginning(self.name, position, size_bytes)

    async def close(self) -> None:
        self.data = None


class TailMemory:
    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._files: deque[FlushFile] = deque()
        self.size_bytes = 0

    def keep(self, shared: SharedFile) -> None:
        """Takes a flush that was just committed."""
        file = shared.file
        assert isinstance(file, FlushFile)
        self._files.append(file)
        self.size_bytes += len(file.data or b"")
        while self._files and (self.size_bytes > self._capacity_bytes or self._files[0].data is None):
            self._drop(self._files.popleft())

    def release(self, shared: SharedFile) -> None:
        """The flush is needed no more."""
        file = shared.file
        assert isinstance(file, FlushFile)
        self._drop(file)

    def _drop(self, file: FlushFile) -> None:
        if file.data is not None:
            self.size_bytes -= len(file.data)
            file.data = None
