"""The primary store and its pools as one store: each name leads to one of them, and what is new goes to the best.

Owns: the way from a name to its store, where a new object goes, and leaving a store that turns sick in the middle of a
write. Must not: know which pools the cluster has (`set_pools` says), look for an object anywhere but where its name
says, or know what is in it.

With no pool but the primary each call is that of the primary.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from bytemq.errors import BytemqError, Corrupt, Invalid, Unavailable
from bytemq.runtime.clock import Clock, TimerHandle
from bytemq.runtime.logging import get_logger
from bytemq.runtime.tasks import retrieved
from bytemq.storage.pools.health import PoolHealth, Rank, best_pool
from bytemq.storage.pools.names import PRIMARY, by_pool, in_pool, plain_name, pool_of, shown
from bytemq.storage.stores.interface import Buffer, ObjectInfo, ObjectStore, ReadFile

log = get_logger("storage.pools")

LATE_MS = 1000
LOOKS_WHILE_LATE = 4
"""How often what is on its way is looked at in the time after which it is late."""

Opener = Callable[[str], Awaitable[ObjectStore]]
"""Opens a pool of this name. Raises Corrupt when there is none, Invalid, Unavailable."""
Discard = Callable[[Sequence[str]], object]
Place = Callable[[str, Sequence[Buffer]], Awaitable[str]]
"""Creates an object in the pool that is best. Returns its name, by which it is found from then on."""


def placing_in(store: ObjectStore) -> Place:
    """Where there is one store."""

    async def place(name: str, data: Sequence[Buffer]) -> str:
        await store.create(name, data)
        return name

    return place


async def _no_pools(name: str) -> ObjectStore:
    raise Corrupt(f"an object in pool {name} is referred to, and there is no such pool")


class Pool:
    """One of the stores; `store` is None until it could be opened."""

    __slots__ = ("health", "is_drained", "name", "opening", "store")

    def __init__(self, name: str, store: ObjectStore | None, health: PoolHealth) -> None:
        self.name = name
        self.store = store
        self.health = health
        self.is_drained = False
        self.opening = asyncio.Lock()

    @property
    def state(self) -> str:
        """In words."""
        health = self.health
        word = health.rank.name.lower() if not health.reason else f"{health.rank.name.lower()}: {health.reason}"
        return f"drained, {word}" if self.is_drained else word


class PooledStore:
    """Implements `ObjectStore`; names are those of `names`."""

    def __init__(
        self, primary: ObjectStore, clock: Clock, opener: Opener = _no_pools, *, late_ms: int = LATE_MS
    ) -> None:
        self._clock = clock
        self._opener = opener
        self._late_s = late_ms / 1000
        self._primary = primary
        self._pools = {PRIMARY: Pool(PRIMARY, primary, PoolHealth(self._late_s))}
        self._pools[PRIMARY].health.opened(clock.monotonic())
        self._strangers: dict[str, Pool] = {}
        """Pools that something is in, and that the cluster does not have any more, or that we have not heard of yet."""
        self._writing = 0
        self._looking: TimerHandle | None = None
        self._turned = asyncio.Event()
        """Replaced each time that a pool's rank has changed."""

    # Which pools there are.

    @property
    def primary(self) -> ObjectStore:
        return self._primary

    @property
    def pools(self) -> Mapping[str, Pool]:
        """In the order in which they are preferred: the primary, then the others by name."""
        return self._pools

    @property
    def is_alone(self) -> bool:
        return len(self._pools) == 1

    def set_pools(self, drained: Mapping[str, bool]) -> None:
        """The pools that the cluster has, and which of them take nothing new. The primary is always there.

        One that is not named any more is opened again for who has the name of something in it.
        """
        known = {PRIMARY: False, **drained}
        there = {**self._strangers, **self._pools}
        self._pools = {name: there.get(name) or self._new(name) for name in sorted(known)}
        self._strangers = {name: pool for name, pool in there.items() if name not in known}
        for name, pool in self._pools.items():
            pool.is_drained = known[name]
        self._turn()

    async def opened(self, name: str) -> ObjectStore:
        """Raises Corrupt when there is no such pool, Unavailable when it cannot be reached."""
        pool = self._pools.get(name) or self._strangers.setdefault(name, self._new(name))
        if pool.store is not None:
            return pool.store
        async with pool.opening:
            if pool.store is None:
                try:
                    pool.store = await self._opener(name)
                except Corrupt:
                    raise
                except BytemqError as error:
                    pool.health.unreached(str(error))
                    raise Unavailable(f"pool {name} cannot be reached: {error}") from error
                pool.health.opened(self._clock.monotonic())
                self._turn()
            return pool.store

    async def holder(self, name: str) -> ObjectStore:
        """The one store that has what is of this name. Raises as `opened`."""
        pool = pool_of(name)
        return await self.opened(pool) if pool else self._primary

    def _new(self, name: str) -> Pool:
        return Pool(name, None, PoolHealth(self._late_s))

    # What is new.

    @property
    def best(self) -> str:
        """The pool that something new should go to at this moment."""
        return self._best(()) or PRIMARY

    def placed(self, name: str) -> str:
        """The name of something new, for who creates it elsewhere: in the pool that is best at this moment."""
        return in_pool(self.best, name)

    async def place(self, name: str, data: Sequence[Buffer], discard: Discard) -> str:
        """Creates an object in the pool that is best. Where that fails or is taken for sick meanwhile, in the next one
        as well, under that one's name: the same bytes, and whichever is there first counts. Returns the name that
        counts; `discard` is told of all others that may be there, of all if this raises.

        Raises Invalid, Unavailable.
        """
        writes: dict[str, asyncio.Task[None]] = {}
        counts: str | None = None
        try:
            if self.is_alone:
                await self._primary.create(name, data)
                counts = name
                return name
            counts = await self._place(name, data, writes)
            return counts
        finally:
            for write in writes.values():
                write.cancel()
                write.add_done_callback(retrieved)
            begun = [in_pool(pool, name) for pool in writes] or [name]
            if others := [one for one in begun if one != counts]:
                discard(others)

    async def _place(self, name: str, data: Sequence[Buffer], writes: dict[str, asyncio.Task[None]]) -> str:
        while True:
            turned = self._turned
            running = [pool for pool, write in writes.items() if not write.done()]
            following = self._best(writes)
            if following is not None and all(self._is_better(following, pool) for pool in running):
                if writes:
                    log.warning("written elsewhere", name=name, left=", ".join(map(shown, writes)), to=shown(following))
                writes[following] = asyncio.ensure_future(self._create(following, name, data))
                running.append(following)
            turning = asyncio.ensure_future(turned.wait())
            try:
                await asyncio.wait([turning, *(writes[pool] for pool in running)], return_when=asyncio.FIRST_COMPLETED)
            finally:
                turning.cancel()
            for pool, write in writes.items():
                if write.done() and write.exception() is None:
                    return in_pool(pool, name)
            if all(write.done() for write in writes.values()) and self._best(writes) is None:
                await next(reversed(writes.values()))  # it raises: all have failed

    def _best(self, tried: Mapping[str, object] | Sequence[str]) -> str | None:
        ranks = {name: pool.health.rank for name, pool in self._pools.items()}
        return best_pool(ranks, [name for name, pool in self._pools.items() if pool.is_drained], tried)

    def _is_better(self, one: str, other: str) -> bool:
        return self._rank(one) < self._rank(other)

    def _rank(self, name: str) -> Rank:
        pool = self._pools.get(name)
        return Rank.UNREACHED if pool is None else pool.health.rank  # removed meanwhile

    async def _create(self, pool_name: str, name: str, data: Sequence[Buffer]) -> None:
        await self.opened(pool_name)
        pool = self._pools.get(pool_name)
        if pool is None:
            raise Unavailable(f"pool {pool_name} was removed")
        await self.watched(pool, name, data)

    async def watched(self, pool: Pool, name: str, data: Sequence[Buffer]) -> None:
        """Creates an object of a pool that is open, and takes note of how that went."""
        assert pool.store is not None, "opened"
        health, rank = pool.health, pool.health.rank
        write = health.began(self._clock.monotonic(), sum(len(memoryview(part)) for part in data))
        self._writing += 1
        self._look_again()
        try:
            await pool.store.create(name, data)
        except Invalid:  # it has answered
            health.succeeded(write, self._clock.monotonic())
            raise
        except BytemqError as error:
            health.failed(write, self._clock.monotonic(), str(error))
            raise
        except BaseException:
            health.abandoned(write, self._clock.monotonic())
            raise
        else:
            health.succeeded(write, self._clock.monotonic())
        finally:
            self._writing -= 1
            self._noticed(pool, rank)

    def _look_again(self) -> None:
        if self._looking is None and self._writing:
            self._looking = self._clock.call_later(self._late_s / LOOKS_WHILE_LATE, self._look)

    def _look(self) -> None:
        self._looking = None
        for pool in self._pools.values():
            rank = pool.health.rank
            pool.health.look(self._clock.monotonic())
            self._noticed(pool, rank)
        self._look_again()

    def _noticed(self, pool: Pool, before: Rank) -> None:
        rank = pool.health.rank
        if rank is before:
            return
        say = log.info if rank is Rank.WELL else log.warning
        say("a pool has changed", pool=shown(pool.name), now=rank.name.lower(), reason=pool.health.reason)
        self._turn()

    def _turn(self) -> None:
        self._turned.set()
        self._turned = asyncio.Event()

    # What is there.

    async def create(self, name: str, data: Sequence[Buffer]) -> None:
        """In the pool that the name says: for who has a name from `placed`."""
        await (await self.holder(name)).create(plain_name(name), data)

    async def read(self, name: str) -> bytes:
        return await (await self.holder(name)).read(plain_name(name))

    async def read_range(self, name: str, position: int, size_bytes: int) -> bytes:
        return await (await self.holder(name)).read_range(plain_name(name), position, size_bytes)

    async def list_everywhere(self, *prefixes: str) -> tuple[list[ObjectInfo], set[str]]:
        """Of every pool, and the pools that do not answer: what is listed of them may not be all. Raises Unavailable
        when the primary does not.
        """
        found: list[ObjectInfo] = []
        unseen: set[str] = set()
        for pool in list(self._pools):
            try:
                for prefix in prefixes:
                    found.extend(await self.list(in_pool(pool, prefix)))
            except Unavailable:
                if pool == PRIMARY:
                    raise
                unseen.add(pool)
        return found, unseen

    async def list(self, prefix: str) -> Sequence[ObjectInfo]:
        """Of the one pool that the prefix says."""
        pool = pool_of(prefix)
        listed = await (await self.holder(prefix)).list(plain_name(prefix))
        return [info._replace(name=in_pool(pool, info.name)) for info in listed] if pool else listed

    async def delete(self, names: Sequence[str]) -> None:
        for pool, of_pool in by_pool(names).items():
            await (await self.opened(pool)).delete([plain_name(name) for name in of_pool])

    async def open_read(self, name: str) -> ReadFile:
        return await (await self.holder(name)).open_read(plain_name(name))

    async def size(self, name: str) -> int:
        return await (await self.holder(name)).size(plain_name(name))

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        for pool in (*self._pools.values(), *self._strangers.values()):
            if pool.store is not None:
                await pool.store.close()
