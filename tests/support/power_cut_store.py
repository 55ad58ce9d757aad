"""A store in memory that forgets, at a power cut, what was not synced; and metadata that lose power with it.

Every call passes one or more steps. The test chooses at which step the power goes: from then on no call returns.
`after_power_cut` gives the store that the next session would find: durable names with their synced bytes, and of the
writes that were not synced any subset of their 512-byte sectors.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence

from bytemq.errors import BytemqError, Invalid, NotFound
from bytemq.metadata.store import Compare, Event, KeyValue, Listing, Put, Txn
from bytemq.storage.stores.interface import AppendFile, Buffer, ObjectInfo

SECTOR_BYTES = 512
Fault = Callable[[str, str], BytemqError | None]
"""Given operation and name: the error that it shall fail with."""


class PowerCut(BaseException):
    """Raised by calls that cannot wait when the power is gone."""


class Power:
    """Counts steps, and goes away at one of them. `steps_left` None: never."""

    def __init__(self, seed: int, steps_left: int | None = None) -> None:
        self.random = random.Random(seed)
        self.steps_left = steps_left
        self.steps = 0
        self.gone = asyncio.Event()

    def step_now(self) -> None:
        if self.gone.is_set():
            raise PowerCut
        self.steps += 1
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left < 0:
                self.gone.set()
                raise PowerCut

    async def pause(self) -> None:
        for _ in range(self.random.randrange(3)):
            await asyncio.sleep(0)

    async def step(self) -> None:
        """Lets others run for a while; never returns when the power is gone."""
        await self.pause()
        try:
            self.step_now()
        except PowerCut:
            await asyncio.get_running_loop().create_future()


class _Content:
    def __init__(self, data: bytes = b"") -> None:
        self.durable = bytearray(data)
        self.current = bytearray(data)
        self.dirty: set[int] = set()

    def write(self, data: bytes, position: int) -> None:
        end = position + len(data)
        if len(self.current) < end:
            self.current.extend(bytes(end - len(self.current)))
        self.current[position:end] = data
        self.dirty.update(range(position // SECTOR_BYTES, (end + SECTOR_BYTES - 1) // SECTOR_BYTES))

    def sync(self, sectors: set[int]) -> None:
        for sector in sectors:
            start = sector * SECTOR_BYTES
            data = self.current[start : start + SECTOR_BYTES]
            if len(self.durable) < start:
                self.durable.extend(bytes(start - len(self.durable)))
            self.durable[start : start + len(data)] = data
        self.dirty -= sectors

    def copy(self) -> _Content:
        copied = _Content()
        copied.durable, copied.current, copied.dirty = bytearray(self.durable), bytearray(self.current), set(self.dirty)
        return copied

    def survivor(self, chance: random.Random) -> _Content:
        """What is on the device: whole sectors of what was not synced may or may not be there."""
        keep = chance.choice((0.0, 0.3, 0.7, 1.0))
        self.sync({sector for sector in self.dirty if chance.random() < keep})
        return _Content(bytes(self.durable))


class MemoryFile:
    def __init__(self, store: PowerCutStore, name: str, content: _Content) -> None:
        self._store = store
        self._content = content
        self.name = name
        self.closed = False

    def read_cached(self, position: int, size_bytes: int) -> memoryview | None:
        if self._store.always_cold:
            return None
        assert not self.closed, f"{self.name} is read after it was closed"
        data = self._content.current[position : position + size_bytes]
        return memoryview(bytes(data)) if len(data) == size_bytes else None

    async def read(self, position: int, size_bytes: int) -> memoryview:
        await self._store.step("read", self.name)
        assert not self.closed, f"{self.name} is read after it was closed"
        return memoryview(bytes(self._content.current[position : position + size_bytes]))

    def forget_copies(self) -> None:
        return None

    def write_now(self, buffers: Sequence[Buffer], position: int) -> None:
        self._store.check("write", self.name)
        self._store.power.step_now()
        self._content.write(b"".join(buffers), position)

    async def write(self, buffers: Sequence[Buffer], position: int, *, sync: bool) -> None:
        data = b"".join(buffers)
        await self._store.step("write", self.name, lambda: self._content.write(data[: len(data) // 2], position))
        self._content.write(data, position)
        if sync:
            await self.sync()

    async def sync(self) -> None:
        dirty = set(self._content.dirty)
        await self._store.step("sync", self.name, self._content.dirty.clear)
        self._content.sync(dirty)
        await self._store.power.step()

    async def close(self) -> None:
        self.closed = True


class PowerCutStore:
    """`fault` makes calls fail. `always_cold` makes every read wait. `free` is what `free_bytes` says."""

    def __init__(self, power: Power) -> None:
        self.power = power
        self.fault: Fault | None = None
        self.always_cold = False
        self.free = 1 << 40
        self._durable: dict[str, _Content] = {}
        self._current: dict[str, _Content] = {}

    def check(self, operation: str, name: str) -> None:
        error = self.fault(operation, name) if self.fault is not None else None
        if error is not None:
            raise error

    async def step(self, operation: str, name: str, half_done: Callable[[], None] | None = None) -> None:
        """`half_done` is what has happened when the call fails or the power goes in its middle."""
        await self.power.step()
        error = self.fault(operation, name) if self.fault is not None else None
        if error is not None:
            if half_done is not None:
                half_done()
            raise error
        if half_done is not None and operation == "write":
            half_done()
            await self.power.step()

    def after_power_cut(self, power: Power) -> PowerCutStore:
        """What is left for the next session."""
        chance = power.random
        left = PowerCutStore(power)
        survivors: dict[int, _Content] = {}
        for name, content in sorted({**self._durable, **self._current}.items()):
            deleted = name not in self._current
            if name in self._durable and not (deleted and chance.random() < 0.5):
                content = self._durable[name]
                if id(content) not in survivors:
                    survivors[id(content)] = content.survivor(chance)
                left._durable[name] = left._current[name] = survivors[id(content)]
        return left

    def after_kill(self, power: Power) -> PowerCutStore:
        """What is left when only the process died: everything that was written, durable or not yet."""
        left = PowerCutStore(power)
        contents = {*self._current.values(), *self._durable.values()}
        copies = {content: content.copy() for content in contents}
        left._current = {name: copies[content] for name, content in self._current.items()}
        left._durable = {name: copies[content] for name, content in self._durable.items()}
        return left

    def names(self) -> list[str]:
        return sorted(self._current)

    def content(self, name: str) -> bytearray:
        """The bytes of a file, for breaking them: what is changed here is changed on the device."""
        content = self._current[name]
        content.dirty.clear()
        content.durable = content.current
        return content.current

    # The interface.

    async def create(self, name: str, data: Sequence[Buffer]) -> None:
        await self.step("create", name)
        if name in self._current:
            raise Invalid(f"{name} exists")
        self._current[name] = self._durable[name] = _Content(b"".join(data))
        await self.power.step()

    async def read(self, name: str) -> bytes:
        await self.step("read", name)
        return bytes(self._get(name).current)

    async def read_range(self, name: str, position: int, size_bytes: int) -> bytes:
        return (await self.read(name))[position : position + size_bytes]

    async def list(self, prefix: str) -> Sequence[ObjectInfo]:
        await self.step("list", prefix)
        return [ObjectInfo(n, len(c.current)) for n, c in sorted(self._current.items()) if n.startswith(prefix)]

    async def delete(self, names: Sequence[str]) -> None:
        for name in names:
            await self.step("delete", name)
            self._current.pop(name, None)

    async def create_append(
        self, name: str, *, size_bytes: int = 0, zeroed: bool = False, urgent: bool = False
    ) -> MemoryFile:
        await self.step("create_append", name)
        if name in self._current:
            raise Invalid(f"{name} exists")
        content = self._current[name] = self._durable[name] = _Content(bytes(size_bytes))
        await self.power.step()
        return MemoryFile(self, name, content)

    async def open_append(self, name: str, *, urgent: bool = False) -> MemoryFile:
        await self.step("open", name)
        return MemoryFile(self, name, self._get(name))

    async def write_all(self, writes: Sequence[tuple[AppendFile, Sequence[Buffer], int]], *, sync: bool) -> None:
        for file, buffers, position in writes:
            await file.write(buffers, position, sync=sync)

    async def open_read(self, name: str) -> MemoryFile:
        return await self.open_append(name)

    async def size(self, name: str) -> int:
        await self.step("size", name)
        return len(self._get(name).current)

    async def rename(self, name: str, new_name: str) -> None:
        await self.step("rename", name)
        content = self._get(name)
        if new_name in self._current:
            raise Invalid(f"{new_name} exists")
        del self._current[name]
        self._durable.pop(name, None)
        self._current[new_name] = self._durable[new_name] = content
        await self.power.step()

    async def free_bytes(self) -> int:
        return self.free

    async def close(self) -> None:
        return None

    def _get(self, name: str) -> _Content:
        if name not in self._current:
            raise NotFound(name)
        return self._current[name]


class MemoryMetadata:
    """A metadata store in memory: each transaction is durable when it returns, and may be when it does not."""

    leases_time_out = True

    def __init__(self, power: Power) -> None:
        self.power = power
        self.entries: dict[str, KeyValue] = {}
        self.revision = 1
        self.history: list[Event] = []
        self.changed = asyncio.Event()
        self.fault: Callable[[], BytemqError | None] | None = None
        self.fault_after: Callable[[], BytemqError | None] | None = None

    def after_power_cut(self, power: Power) -> MemoryMetadata:
        left = MemoryMetadata(power)
        left.entries, left.revision = dict(self.entries), self.revision
        return left

    async def get(self, key: str) -> KeyValue | None:
        await self.power.step()
        return self.entries.get(key)

    async def range(self, prefix: str) -> Listing:
        await self.power.step()
        return Listing([entry for key, entry in sorted(self.entries.items()) if key.startswith(prefix)], self.revision)

    async def txn(self, compares: Sequence[Compare], puts: Sequence[Put] = (), deletes: Sequence[str] = ()) -> Txn:
        await self.power.step()
        self._check(self.fault)
        for key, revision in compares:
            if (self.entries[key].revision if key in self.entries else 0) != revision:
                return Txn(False, self.revision)
        self.revision += 1
        revision = self.revision
        for key, value, _ in puts:
            self.entries[key] = KeyValue(key, value, revision)
            self.history.append(Event(key, value, revision))
        for key in deletes:
            if self.entries.pop(key, None) is not None:
                self.history.append(Event(key, None, revision))
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()
        self._check(self.fault_after)
        await self.power.step()
        return Txn(True, revision)

    @staticmethod
    def _check(fault: Callable[[], BytemqError | None] | None) -> None:
        error = fault() if fault is not None else None
        if error is not None:
            raise error

    async def watch(self, prefix: str, after_revision: int) -> AsyncIterator[list[Event]]:
        while True:
            changed = self.changed
            new = [event for event in self.history if event.revision > after_revision and event.key.startswith(prefix)]
            if new:
                yield new
                after_revision = new[-1].revision
            else:
                await changed.wait()

    async def grant_lease(self, ttl_s: float) -> int:
        raise AssertionError("the storage has no leases")

    async def keep_alive(self, lease: int) -> None:
        raise AssertionError("the storage has no leases")

    async def revoke(self, lease: int) -> None:
        raise AssertionError("the storage has no leases")

    async def close(self) -> None:
        return None
