"""Deleting what is no longer part of anything, on a store that many brokers share.

Owns: the deletion of objects that nothing names, and the end of ended sessions' write-ahead logs. Must not: decide that
something is superseded.

Deleting comes last. What this session has superseded goes after a time of grace, for readers elsewhere. What others
have left is found by listing, after a start and after the end of a session: an object is garbage when nobody is left
who could still publish it and, looked at after that, no manifest and no tail names it. Of what an ended session made
that is certain. Of its own objects each session judges itself: an owner after it may have superseded some, and died
before they went. The log of an ended session goes when no manifest names the session; its tail record goes first, by a
transaction that compares our own session's key.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from bytemq.errors import BytemqError
from bytemq.metadata import keys
from bytemq.metadata.store import Compare, MetadataStore
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.manifests.manifest_codec import directory_of, names_of
from bytemq.storage.object_names import maker_of
from bytemq.storage.objects.own_objects import Ownership, OwnObjects
from bytemq.storage.objects.session_log import FOLDER, session_of
from bytemq.storage.pools.contents import manifests_of
from bytemq.storage.pools.names import by_pool, plain_name, pool_of
from bytemq.storage.pools.pooled_store import PooledStore
from bytemq.storage.segments.segment_files import SegmentCache
from bytemq.storage.settings import StorageConfig
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.tables.table_file import PUBLIC, partition_folder_of
from bytemq.types import PartitionId

log = get_logger("storage.garbage")

RETRY_S = 1.0
"""How soon what could not be deleted is tried again, at the earliest."""
TOPICS = "topics/"
FOLDERS = (FOLDER, TOPICS, *PUBLIC)
"""All that brokers have objects in."""


class SharedGarbage:
    def __init__(
        self,
        store: ObjectStore,
        pools: PooledStore,
        metadata: MetadataStore,
        segments: SegmentCache,
        own_objects: OwnObjects,
        fence: Compare,
        config: StorageConfig,
        clock: Clock,
        supervisor: Supervisor,
    ) -> None:
        """`store`: that of the pools, with what is cached of it."""
        self._store = store
        self._pools = pools
        self._metadata = metadata
        self._segments = segments
        self._own_objects = own_objects
        self._fence = fence
        self._grace_s = config.storage_garbage_grace_ms / 1000
        self._clock = clock
        self._supervisor = supervisor
        self._waiting: dict[str, deque[tuple[float, Sequence[str]]]] = {}
        """By pool: when objects may go, in this order. One that does not answer keeps nothing in the others."""
        self._tasks: dict[str, asyncio.Task[object]] = {}
        self._stopping = False
        self._suspects: dict[str, float] = {}
        """Garbage found by listing, and since when."""
        self._seen_live: set[int] | None = None
        self._sweep_at: float | None = None
        """When to list next; None: nothing has happened since the last time that could have left anything."""
        self.held: set[PartitionId] = set()
        """Partitions that something in the log of an ended session is part of, as of the last round: the log can go
        when each was opened and written behind."""
        self.deleted_objects = 0

    def discard(self, names: Sequence[str]) -> None:
        """Deletes objects of this session or of logs that it owns, after the time of grace."""
        for pool, of_pool in by_pool(names).items():
            self._waiting.setdefault(pool, deque()).append((self._clock.monotonic() + self._grace_s, of_pool))
        self._delete_due()

    def _delete_due(self) -> None:
        if self._stopping:
            return
        for pool, waiting in self._waiting.items():
            if pool not in self._tasks and waiting and waiting[0][0] <= self._clock.monotonic():
                self._tasks[pool] = self._supervisor.start("storage-discard", self._delete_waiting(pool, waiting))

    async def _delete_waiting(self, pool: str, waiting: deque[tuple[float, Sequence[str]]]) -> None:
        try:
            while not self._stopping and waiting and waiting[0][0] <= self._clock.monotonic():
                _, names = waiting.popleft()
                await self._delete(pool, names)
        finally:
            del self._tasks[pool]

    async def _delete(self, pool: str, names: Sequence[str]) -> None:
        """All of them in that pool."""
        try:
            for name in names:
                await self._segments.forget(name)
            await self._store.delete(names)
            self.deleted_objects += len(names)
        except BytemqError as error:
            log.warning("objects are not deleted yet", count=len(names), reason=str(error))
            retry_at = self._clock.monotonic() + max(self._grace_s, RETRY_S)
            self._waiting.setdefault(pool, deque()).append((retry_at, names))

    async def stop(self) -> None:
        """Begins no deletion any more, and returns when none is under way. What is left, others find."""
        self._stopping = True
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    def look(self) -> None:
        """Something may have been left: the next round looks for it."""
        self._sweep_at = self._clock.monotonic()

    async def collect(self, forget_session: Callable[[int], None]) -> None:
        """One round: what waited long enough, and what ended sessions have left. Raises Unavailable, Corrupt.

        `forget_session` is told the sessions whose logs are gone.
        """
        self._delete_due()
        tails = await self._tails()
        live = await self._live_sessions()
        if self._seen_live is None or self._seen_live - live:
            self.look()
        self._seen_live = live
        for session_id in await self._without_use(tails.keys() - live):
            key = keys.session_log(session_id)
            self.look()  # also where it is released and nobody says so
            deleted = await self._metadata.txn([self._fence, Compare(key, tails[session_id])], deletes=[key])
            if deleted.succeeded:
                log.info("write-ahead log of an ended session released", session=session_id)
                forget_session(session_id)
        if self._sweep_at is not None and self._sweep_at <= self._clock.monotonic():
            could_tell_all = await self.sweep()
            is_over = could_tell_all and not self._suspects
            self._sweep_at = None if is_over else self._clock.monotonic() + self._grace_s

    async def _without_use(self, ended: set[int]) -> list[int]:
        """Those of the ended sessions whose logs no manifest needs. Sets `held`."""
        self.held = set()
        if not ended:
            return []
        needed: set[int] = set()
        async for partition, stored in manifests_of(self._metadata):
            if stored is None:
                return []  # nobody knows what a damaged manifest names
            manifest = stored.manifest
            named = ended & {manifest.owner_session, *(one.session_id for one in manifest.inherited)}
            if named:
                needed |= named
                self.held.add(partition)
        return sorted(ended - needed)

    async def sweep(self) -> bool:
        """Deletes what was found to be garbage a time of grace ago and still is.

        False: of some objects it cannot be told yet, or not all pools have answered.
        """
        settled = self._own_objects.settled()
        listed, unseen = await self._pools.list_everywhere(*FOLDERS)
        live = await self._live_sessions()
        tails = await self._tails()
        named: set[str] = set()
        unknown: set[str] = set()
        owned: dict[str, Ownership] = {}
        async for partition, stored in manifests_of(self._metadata):
            folder = directory_of(partition)
            if stored is None:
                unknown.add(folder)
            else:
                named.update(names_of(stored))
                owned[folder] = Ownership(stored.manifest.leader_epoch, stored.manifest.owner_session)
        now = self._clock.monotonic()
        found: dict[str, float] = {}
        can_tell_all = True
        for name, _ in listed:
            folder, session = partition_folder_of(name), writer_of(name)
            if session is None or name in named or folder in unknown or session_of(name) in tails:
                continue
            if session in live:
                is_past = settled.is_past_publishing(name, folder, owned.get(folder))
                if is_past is None:
                    can_tell_all = False
                if not is_past:
                    continue
            found[name] = self._suspects.get(name, now)
        found |= {name: since for name, since in self._suspects.items() if pool_of(name) in unseen}
        due = [name for name, since in found.items() if since + self._grace_s <= now and pool_of(name) not in unseen]
        for name in due:
            del found[name]
        self._suspects = found
        if due:
            log.info("garbage that others have left", count=len(due))
        for pool, names in by_pool(due).items():
            await self._delete(pool, names)
        return can_tell_all and not unseen

    async def _tails(self) -> dict[int, int]:
        """Which sessions have a log, and the revisions of their tails. What is in those matters to nobody here."""
        entries = (await self._metadata.range(keys.SESSION_LOGS)).entries
        return {keys.session_of_log(entry.key): entry.revision for entry in entries}

    async def _live_sessions(self) -> set[int]:
        """A session's id is the revision of its broker's key."""
        return {entry.revision for entry in (await self._metadata.range(keys.BROKERS)).entries}


def writer_of(name: str) -> int | None:
    """The session that made an object; None for what is named otherwise than ours."""
    return session_of(name) if plain_name(name).startswith(FOLDER) else maker_of(name)
