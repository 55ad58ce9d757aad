"""Deleting what is no longer part of anything, on a store that many brokers share.

Owns: the deletion of objects that nothing names, and the end of ended sessions' write-ahead logs. Must not: decide that
something is superseded.

Deleting comes last. What this session has superseded goes after a time of grace, for readers elsewhere. What others
have left is found by listing, after a start and after the end of a session: an object is garbage when its session has
ended and, looked at after that, no manifest and no tail names it, since nobody is left who could still publish it. The
log of an ended session goes when no manifest names the session; its tail record goes first, by a transaction that
compares our own session's key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from bytemq.errors import BytemqError, Corrupt
from bytemq.metadata import keys
from bytemq.metadata.store import Compare, MetadataStore
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.manifests.manifest_codec import StoredManifest, decode_manifest, directory_of, names_of
from bytemq.storage.objects.session_log import FOLDER, session_of
from bytemq.storage.segments.segment_files import SegmentCache
from bytemq.storage.settings import StorageConfig
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.tables.table_file import PUBLIC, partition_folder_of
from bytemq.types import PartitionId

log = get_logger("storage.garbage")

RETRY_S = 1.0
"""How soon what could not be deleted is tried again, at the earliest."""
SLICE = 200
TOPICS = "topics/"


class SharedGarbage:
    def __init__(
        self,
        store: ObjectStore,
        metadata: MetadataStore,
        segments: SegmentCache,
        fence: Compare,
        config: StorageConfig,
        clock: Clock,
        supervisor: Supervisor,
    ) -> None:
        self._store = store
        self._metadata = metadata
        self._segments = segments
        self._fence = fence
        self._grace_s = config.storage_garbage_grace_ms / 1000
        self._clock = clock
        self._supervisor = supervisor
        self._waiting: list[tuple[float, Sequence[str]]] = []
        """When objects may go, in this order."""
        self._task: asyncio.Task[object] | None = None
        self._suspects: dict[str, float] = {}
        """Garbage found by listing, and since when."""
        self._seen_live: set[int] | None = None
        self._sweep_at: float | None = None
        """When to list next; None: nothing has ended since the last time."""
        self.held: set[PartitionId] = set()
        """Partitions that something in the log of an ended session is part of, as of the last round: the log can go
        when each was opened and written behind."""
        self.deleted_objects = 0

    def discard(self, names: Sequence[str]) -> None:
        """Deletes objects of this session or of logs that it owns, after the time of grace."""
        if names:
            self._waiting.append((self._clock.monotonic() + self._grace_s, names))
            self._delete_due()

    def _delete_due(self) -> None:
        if self._task is None and self._waiting and self._waiting[0][0] <= self._clock.monotonic():
            self._task = self._supervisor.start("storage-discard", self._delete_waiting())

    async def _delete_waiting(self) -> None:
        try:
            while self._waiting and self._waiting[0][0] <= self._clock.monotonic():
                _, names = self._waiting.pop(0)
                await self._delete(names)
        finally:
            self._task = None

    async def _delete(self, names: Sequence[str]) -> None:
        try:
            for name in names:
                await self._segments.forget(name)
            await self._store.delete(names)
            self.deleted_objects += len(names)
        except BytemqError as error:
            log.warning("objects are not deleted yet", count=len(names), reason=str(error))
            self._waiting.append((self._clock.monotonic() + max(self._grace_s, RETRY_S), names))

    async def idle(self) -> None:
        """Returns when nothing is being deleted. What is still in its time of grace is left: others find it."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def collect(self, forget_session: Callable[[int], None]) -> None:
        """One round: what waited long enough, and what ended sessions have left. Raises Unavailable, Corrupt.

        `forget_session` is told the sessions whose logs are gone.
        """
        self._delete_due()
        tails = await self._tails()
        live = await self._live_sessions()
        if self._seen_live is None or self._seen_live - live:
            self._sweep_at = self._clock.monotonic()
        self._seen_live = live
        for session_id in await self._without_use(tails.keys() - live):
            key = keys.session_log(session_id)
            deleted = await self._metadata.txn([self._fence, Compare(key, tails[session_id])], deletes=[key])
            if deleted.succeeded:
                log.info("write-ahead log of an ended session released", session=session_id)
                forget_session(session_id)
                self._sweep_at = self._clock.monotonic()
        if self._sweep_at is not None and self._sweep_at <= self._clock.monotonic():
            await self.sweep()
            self._sweep_at = self._clock.monotonic() + self._grace_s if self._suspects else None

    async def _without_use(self, ended: set[int]) -> list[int]:
        """Those of the ended sessions whose logs no manifest needs. Sets `held`."""
        self.held = set()
        if not ended:
            return []
        needed: set[int] = set()
        for partition, stored in (await self._manifests()).items():
            if stored is None:
                return []  # nobody knows what a damaged manifest names
            manifest = stored.manifest
            named = ended & {manifest.owner_session, *(one.session_id for one in manifest.inherited)}
            if named:
                needed |= named
                self.held.add(partition)
        return sorted(ended - needed)

    async def sweep(self) -> None:
        """Deletes what was found to be garbage a time of grace ago and still is."""
        listed = [info.name for folder in (FOLDER, TOPICS, *PUBLIC) for info in await self._store.list(folder)]
        live = await self._live_sessions()
        tails = await self._tails()
        manifests = await self._manifests()
        named: set[str] = set()
        unknown: set[str] = set()
        for partition, stored in manifests.items():
            if stored is None:
                unknown.add(directory_of(partition))
            else:
                named.update(names_of(stored))
        now = self._clock.monotonic()
        found: dict[str, float] = {}
        for name in listed:
            session = session_of(name) if name.startswith(FOLDER) else writer_of(name)
            if session is None or session in live or name in named or partition_folder_of(name) in unknown:
                continue
            if name.startswith(FOLDER) and session in tails:
                continue
            found[name] = self._suspects.get(name, now)
        due = [name for name, since in found.items() if since + self._grace_s <= now]
        self._suspects = {name: since for name, since in found.items() if since + self._grace_s > now}
        if due:
            log.info("garbage of ended sessions", count=len(due))
            await self._delete(due)

    async def _tails(self) -> dict[int, int]:
        """Which sessions have a log, and the revisions of their tails. What is in those matters to nobody here."""
        entries = (await self._metadata.range(keys.SESSION_LOGS)).entries
        return {keys.session_of_log(entry.key): entry.revision for entry in entries}

    async def _live_sessions(self) -> set[int]:
        """A session's id is the revision of its broker's key."""
        return {entry.revision for entry in (await self._metadata.range(keys.BROKERS)).entries}

    async def _manifests(self) -> dict[PartitionId, StoredManifest | None]:
        """None for a damaged one."""
        found: dict[PartitionId, StoredManifest | None] = {}
        for count, entry in enumerate((await self._metadata.range(keys.MANIFESTS)).entries):
            partition = keys.partition_of_manifest(entry.key)
            try:
                found[partition] = decode_manifest(entry.value, directory_of(partition))
            except Corrupt:
                found[partition] = None
            if count % SLICE == SLICE - 1:
                await asyncio.sleep(0)
        return found


def writer_of(name: str) -> int | None:
    """The session that made a segment or snapshot: names are <offset>-<session>-<number>.<kind>."""
    parts = name.rpartition("/")[2].partition(".")[0].split("-")
    try:
        return int(parts[1], 16)
    except (IndexError, ValueError):
        return None
