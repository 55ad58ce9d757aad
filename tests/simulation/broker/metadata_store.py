"""A metadata store in memory that takes its time and fails within the contract of `bytemq/metadata/store.py`: before a
transaction has happened, after it, or before it happens all the same. `MetadataState` is what survives everybody; a
process talks to it through a `SimulatedMetadata`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from random import Random

from bytemq.errors import Fenced, NotFound, Unavailable
from bytemq.metadata.store import Compare, Event, KeyValue, Listing, Put, Txn, check_limits
from tests.simulation.broker.loop import NOBODY

_LATE_S = (0.01, 0.2, 2.0)
"""How long after its sender gave up a transaction may be applied."""
_WATCH_LATENCIES_S = (0.0, 0.002, 0.05, 0.3)
"""A broker hears of the end of its own session when it comes to that."""


class MetadataState:
    """Keys, their leases, and every change there was. Leases end when they are revoked, or, if they time out, when they
    were not renewed.
    """

    def __init__(self, *, leases_time_out: bool = False) -> None:
        self.leases_time_out = leases_time_out
        self.entries: dict[str, KeyValue] = {}
        self.revision = 0
        self.leases: dict[int, set[str]] = {}
        self.events: list[Event] = []
        self._granted = 0
        self._renewed_at: dict[int, float] = {}
        self._watchers: list[asyncio.Future[None]] = []

    def txn(self, compares: Sequence[Compare], puts: Sequence[Put] = (), deletes: Sequence[str] = ()) -> Txn:
        check_limits(compares, puts, deletes)
        for key, revision in compares:
            if (self.entries[key].revision if key in self.entries else 0) != revision:
                return Txn(False, self.revision)
        if any(put.lease is not None and put.lease not in self.leases for put in puts):
            raise NotFound("the lease has ended")
        removed = [key for key in deletes if key in self.entries]
        if puts or removed:
            self.revision += 1
        for key, value, lease in puts:
            self.entries[key] = KeyValue(key, value, self.revision)
            self.events.append(Event(key, value, self.revision))
            for keys in self.leases.values():
                keys.discard(key)
            if lease is not None:
                self.leases[lease].add(key)
        for key in removed:
            del self.entries[key]
            self.events.append(Event(key, None, self.revision))
        self._tell()
        return Txn(True, self.revision)

    def grant_lease(self, ttl_s: float) -> int:
        self._granted += 1
        self.leases[self._granted] = set()
        self.renew(self._granted)
        if self.leases_time_out:
            asyncio.get_running_loop().call_later(ttl_s, self._look_at, self._granted, ttl_s, context=NOBODY)
        return self._granted

    def renew(self, lease: int) -> None:
        self._renewed_at[lease] = asyncio.get_running_loop().time()

    def _look_at(self, lease: int, ttl_s: float) -> None:
        loop = asyncio.get_running_loop()
        ends_at = self._renewed_at[lease] + ttl_s
        if ends_at <= loop.time():
            self.revoke(lease)
        else:
            loop.call_at(ends_at, self._look_at, lease, ttl_s, context=NOBODY)

    def arrive_late(self, compares: Sequence[Compare], puts: Sequence[Put], deletes: Sequence[str]) -> None:
        """A transaction whose sender has given up; nobody hears what became of it."""
        try:
            self.txn(compares, puts, deletes)
        except NotFound:
            return  # the lease has ended meanwhile

    def revoke(self, lease: int) -> None:
        keys = self.leases.pop(lease, set())
        if keys:
            self.txn((), (), sorted(keys))

    def changed(self) -> asyncio.Future[None]:
        """Done after the next change."""
        waiting = asyncio.get_running_loop().create_future()
        self._watchers.append(waiting)
        return waiting

    def _tell(self) -> None:
        watchers, self._watchers = self._watchers, []
        for waiting in watchers:
            if not waiting.done():
                waiting.set_result(None)


class SimulatedMetadata:
    """One process's way to the store. `sickness` is the chance of a call to fail."""

    def __init__(self, state: MetadataState, random: Random, sickness: float) -> None:
        self.state = state
        self.sickness = sickness
        self.leases: list[int] = []
        """Granted to this process: they end with it."""
        self.deaf_until = 0.0
        """Its watches tell nothing before, though calls get through."""
        self._random = random

    @property
    def leases_time_out(self) -> bool:
        return self.state.leases_time_out

    async def get(self, key: str) -> KeyValue | None:
        await self._call()
        return self.state.entries.get(key)

    async def range(self, prefix: str) -> Listing:
        await self._call()
        entries = [entry for key, entry in sorted(self.state.entries.items()) if key.startswith(prefix)]
        return Listing(entries, self.state.revision)

    async def txn(self, compares: Sequence[Compare], puts: Sequence[Put] = (), deletes: Sequence[str] = ()) -> Txn:
        await self._call()
        if self._random.random() < self.sickness / 2:
            delay_s = self._random.choice(_LATE_S)
            loop = asyncio.get_running_loop()
            loop.call_later(delay_s, self.state.arrive_late, compares, puts, deletes, context=NOBODY)
            raise Unavailable("the metadata store did not answer, and does it later")
        outcome = self.state.txn(compares, puts, deletes)
        self._fail("the metadata store did not answer, and did it")
        return outcome

    async def watch(self, prefix: str, after_revision: int) -> AsyncIterator[list[Event]]:
        seen = 0
        while True:
            changed = self.state.changed()
            fresh = [event for event in self.state.events[seen:] if event.revision > after_revision]
            seen = len(self.state.events)
            events = [event for event in fresh if event.key.startswith(prefix)]
            if events:
                yield events
                if self._random.random() < self.sickness:
                    raise Unavailable("the watch broke")
            await changed
            if self.state.leases_time_out:
                await asyncio.sleep(self._random.choice(_WATCH_LATENCIES_S))
                await asyncio.sleep(max(0.0, self.deaf_until - asyncio.get_running_loop().time()))

    async def grant_lease(self, ttl_s: float) -> int:
        await self._call()
        lease = self.state.grant_lease(ttl_s)
        self.leases.append(lease)
        return lease

    async def keep_alive(self, lease: int) -> None:
        await self._call()
        if lease not in self.state.leases:
            raise Fenced("the lease has ended")
        self.state.renew(lease)

    async def revoke(self, lease: int) -> None:
        await self._call()
        self.state.revoke(lease)

    async def close(self) -> None:
        return None

    async def _call(self) -> None:
        await asyncio.sleep(self._random.choice((0, 0, 0.001, 0.01)))
        self._fail("the metadata store did not answer")

    def _fail(self, reason: str) -> None:
        if self._random.random() < self.sickness:
            raise Unavailable(reason)
