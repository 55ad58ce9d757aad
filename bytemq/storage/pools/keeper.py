"""A broker keeps its pools: those that the metadata name are opened and tried out, for as long as it runs.

Owns: when pools are opened, and probes, which are objects of this session that go at once. Must not: judge (`health`
does), or place anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from bytemq.errors import BytemqError
from bytemq.metadata.pools import PoolValue
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.objects.session_log import folder_of
from bytemq.storage.pools.names import shown
from bytemq.storage.pools.opening import drained
from bytemq.storage.pools.pooled_store import Pool, PooledStore

log = get_logger("storage.pools")

LOOK_S = 0.25
LOOK_ALONE_S = 1.0
"""Where there is one store."""
OPEN_AGAIN_S = 5.0
PROBE_BYTES = 64 * 1024


class PoolKeeper:
    """`known`: what the metadata say of pools at this moment."""

    def __init__(
        self,
        store: PooledStore,
        known: Callable[[], Mapping[str, PoolValue]],
        session_id: int,
        clock: Clock,
        random: Random,
        supervisor: Supervisor,
    ) -> None:
        self._store = store
        self._known = known
        self._session_id = session_id
        self._clock = clock
        self._random = random
        self._supervisor = supervisor
        self._taken: dict[str, bool] = {}
        self._tending: set[str] = set()
        self._open_at: dict[str, float] = {}
        self._said: dict[str, str] = {}
        self._probes = 0

    async def run(self) -> None:
        """For ever."""
        while True:
            self.take()
            if not self._store.is_alone:
                for pool in self._store.pools.values():
                    self._tend(pool)
            await self._clock.sleep(LOOK_ALONE_S if self._store.is_alone else LOOK_S)

    def take(self) -> None:
        """What the metadata say now."""
        if (now := drained(self._known())) != self._taken:
            self._taken = now
            self._store.set_pools(now)

    def _tend(self, pool: Pool) -> None:
        """One thing at a time for each pool: one that hangs keeps no other."""
        if pool.name in self._tending:
            return
        now = self._clock.monotonic()
        if pool.store is None:
            if now >= self._open_at.get(pool.name, 0.0):
                self._tending.add(pool.name)
                self._supervisor.start("storage-pool", self._open(pool))
        elif not pool.is_drained and pool.health.probe_is_due(now):
            self._tending.add(pool.name)
            self._supervisor.start("storage-pool", self._probe(pool))

    async def _open(self, pool: Pool) -> None:
        try:
            await self._store.opened(pool.name)
            self._said.pop(pool.name, None)
            log.info("pool opened", pool=pool.name)
        except BytemqError as error:
            pool.health.unreached(str(error))
            self._open_at[pool.name] = self._clock.monotonic() + OPEN_AGAIN_S
            if self._said.get(pool.name) != str(error):
                self._said[pool.name] = str(error)
                log.error("a pool cannot be used by this broker", pool=pool.name, reason=str(error))
        finally:
            self._tending.discard(pool.name)

    async def _probe(self, pool: Pool) -> None:
        """A small write says how the pool is when nothing else is written there."""
        self._probes += 1
        name = f"{folder_of(self._session_id)}{self._probes:012x}-{self._random.getrandbits(64):016x}.probe"
        try:
            await self._store.watched(pool, name, [bytes(PROBE_BYTES)])
        except BytemqError as error:
            log.debug("a pool was tried out, in vain", pool=shown(pool.name), reason=str(error))
        finally:
            self._tending.discard(pool.name)
        if pool.store is not None:
            try:
                await pool.store.delete([name])
            except BytemqError as error:
                log.debug("a probe is left to the collection of garbage", pool=shown(pool.name), reason=str(error))
