"""The newest flushes in memory: what tailing consumers and write-behind read.

Owns: which flushes are kept as bytes, within byte limits, oldest first out. Must not: know logs. What is no longer in
memory is read from its object through the cache.

What this session has written and what it has read of others have a limit each, and are found together: a broker that
takes over a log which it has followed for readers, or follows one that it has owned, reads no flush a second time.
"""

from __future__ import annotations

from bytemq.storage.cache.block_cache import BlockCache


class FlushBodies:
    """By object name. A flush is here while somebody holds its name and the `TailMemory` that keeps it has room."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[bytes, TailMemory]] = {}
        self._holders: dict[str, int] = {}

    def get(self, name: str) -> bytes | None:
        kept = self._kept.get(name)
        return kept[0] if kept is not None else None

    def hold(self, name: str) -> None:
        self._holders[name] = self._holders.get(name, 0) + 1

    def let_go(self, name: str) -> None:
        """Once for each `hold`. Nobody needs it any more after the last one."""
        holders = self._holders.pop(name) - 1
        if holders:
            self._holders[name] = holders
        else:
            self.discard(name)

    def discard(self, name: str) -> None:
        """Whoever needs it reads the object."""
        kept = self._kept.get(name)
        if kept is not None:
            kept[1].drop(name)

    def enter(self, name: str, body: bytes, memory: TailMemory) -> None:
        """For `TailMemory`."""
        assert name in self._holders, "only what somebody holds is kept"
        self._kept[name] = body, memory

    def take_out(self, name: str) -> int:
        """For `TailMemory`. Returns its size."""
        return len(self._kept.pop(name)[0])


class TailMemory:
    """What is kept for one purpose, within a limit of its own."""

    def __init__(self, bodies: FlushBodies, capacity_bytes: int) -> None:
        self.bodies = bodies
        self.size_bytes = 0
        self._capacity_bytes = capacity_bytes
        self._names: dict[str, None] = {}
        """Oldest first."""

    def keep(self, name: str, body: bytes) -> None:
        """Takes a flush that was just committed, or read, unless it is in memory."""
        if self.bodies.get(name) is not None:
            return
        self.bodies.enter(name, body, self)
        self._names[name] = None
        self.size_bytes += len(body)
        while self.size_bytes > self._capacity_bytes:
            self.drop(next(iter(self._names)))

    def drop(self, name: str) -> None:
        del self._names[name]
        self.size_bytes -= self.bodies.take_out(name)


class FlushFile:
    """One flush object, read like a file (`ReadFile`), from memory as long as that has it."""

    __slots__ = ("_bodies", "_cache", "name")

    def __init__(self, cache: BlockCache, bodies: FlushBodies, name: str) -> None:
        self._cache = cache
        self._bodies = bodies
        self.name = name

    def read_cached(self, position: int, size_bytes: int) -> memoryview | None:
        body = self._bodies.get(self.name)
        if body is not None:
            return memoryview(body)[position : position + size_bytes]
        return self._cache.peek(self.name, position, size_bytes)

    async def read(self, position: int, size_bytes: int) -> memoryview:
        body = self._bodies.get(self.name)
        if body is not None:
            return memoryview(body)[position : position + size_bytes]
        return await self._cache.read_beginning(self.name, position, size_bytes)

    def forget_copies(self) -> None:
        self._bodies.discard(self.name)
        self._cache.forget(self.name)

    async def close(self) -> None:
        return None
