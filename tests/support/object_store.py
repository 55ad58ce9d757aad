"""An object store in a dict, for tests that are not about what a store does."""

from __future__ import annotations

from collections.abc import Sequence

from bytemq.errors import Invalid, NotFound
from bytemq.storage.stores.interface import Buffer, ObjectInfo


class MemoryObject:
    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self._data = data

    def read_cached(self, position: int, size_bytes: int) -> memoryview | None:
        data = memoryview(self._data)[position : position + size_bytes]
        return data if len(data) == size_bytes else None

    async def read(self, position: int, size_bytes: int) -> memoryview:
        return memoryview(self._data)[position : position + size_bytes]

    def forget_copies(self) -> None:
        return None

    async def close(self) -> None:
        pass


class MemoryObjectStore:
    """`objects` may be changed by a test that damages them."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.largest_read_bytes = self.ranges_bytes = 0
        """Of the ranges that were read: of the largest, and of all."""

    async def create(self, name: str, data: Sequence[Buffer]) -> None:
        if name in self.objects:
            raise Invalid(f"{name} exists")
        self.objects[name] = b"".join(data)

    async def read(self, name: str) -> bytes:
        return self._found(name)

    async def read_range(self, name: str, position: int, size_bytes: int) -> bytes:
        self.largest_read_bytes = max(self.largest_read_bytes, size_bytes)
        part = self._found(name)[position : position + size_bytes]
        self.ranges_bytes += len(part)
        return part

    async def open_read(self, name: str) -> MemoryObject:
        return MemoryObject(name, self._found(name))

    async def size(self, name: str) -> int:
        return len(self._found(name))

    async def list(self, prefix: str) -> Sequence[ObjectInfo]:
        found = sorted(name for name in self.objects if name.startswith(prefix))
        return [ObjectInfo(name, len(self.objects[name])) for name in found]

    async def delete(self, names: Sequence[str]) -> None:
        for name in names:
            self.objects.pop(name, None)

    async def close(self) -> None:
        pass

    def _found(self, name: str) -> bytes:
        if name not in self.objects:
            raise NotFound(name)
        return self.objects[name]
