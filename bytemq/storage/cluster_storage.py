"""The storage of one session on a store that many brokers share: where the parts are put together.

Owns: the logs that are open, opening, releasing and deleting them, the life of the parts. Must not: know the formats,
or do I/O itself.

    append -> object_wal (objects, then the commit of their tail) -> readable through LogFiles.read
           -> object_write_behind (segments) -> publisher (manifests) -> flushes are released
                                                -> small_segments (those of coordinators become larger ones)

A log that is opened may have been another session's, which has released it or ended. What that session has committed is
found by its tail and indexes; the manifest then names the ranges that are inherited from it, and nothing is copied.
Every transaction compares the session's key: what this session publishes, it publishes while it lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from random import Random
from typing import NamedTuple, Self

from bytemq.errors import BytemqError, Corrupt, NotFound, Unavailable
from bytemq.metadata import keys
from bytemq.metadata.store import Compare, MetadataStore
from bytemq.protocol.records.batch import RecordBatch
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.cache.block_cache import BlockCache, ColdBlocks
from bytemq.storage.cache.caching_store import CachingStore
from bytemq.storage.following.followed_logs import NOBODY, FollowedLogs
from bytemq.storage.log_files import Files, LogFiles
from bytemq.storage.log_opening import NO_OFFSET, recovered_log, require_end
from bytemq.storage.manifests.manifest import (
    InheritedRange,
    Manifest,
    SegmentInfo,
    require_not_superseded,
    with_open_segment_given_up,
    with_owner,
)
from bytemq.storage.manifests.manifest_codec import StoredManifest, decode_manifest, directory_of
from bytemq.storage.manifests.publisher import Publisher
from bytemq.storage.manifests.unopened import UnopenedLogs
from bytemq.storage.object_names import ObjectNames
from bytemq.storage.objects.committed_shares import attach_shares
from bytemq.storage.objects.flush_objects import FlushObjects
from bytemq.storage.objects.object_wal import ObjectWal
from bytemq.storage.objects.object_write_behind import ObjectWriteBehind
from bytemq.storage.objects.own_objects import OwnObjects
from bytemq.storage.objects.session_log import SessionTail
from bytemq.storage.objects.session_logs import SessionLogs
from bytemq.storage.objects.session_tail import SessionTailKeeper
from bytemq.storage.objects.shared_garbage import SharedGarbage
from bytemq.storage.objects.small_segments import SmallSegments
from bytemq.storage.objects.tail_memory import FlushBodies, TailMemory
from bytemq.storage.pools.draining import PoolDrain
from bytemq.storage.pools.names import shown
from bytemq.storage.pools.pooled_store import PooledStore
from bytemq.storage.segments.segment_files import SegmentCache
from bytemq.storage.settings import StorageConfig
from bytemq.storage.tables.published_columns import ColumnChange
from bytemq.storage.tables.restored import NoRestorer, RestoredUnits, Restorer
from bytemq.storage.wal.staging import Append, OnDurable
from bytemq.types import PartitionId

log = get_logger("storage")

CLOSE_TIMEOUT_S = 30.0
"""How long a stop waits for a store or metadata that do not answer."""


class Session(NamedTuple):
    """Who writes. The key `cluster/brokers/<broker_id>` has the revision `session_id` while the session lives."""

    broker_id: int
    session_id: int

    @property
    def fence(self) -> Compare:
        return Compare(keys.broker(self.broker_id), self.session_id)


class ClusterStorage:
    """Implements `logs.Logs`. All methods are called on the event loop."""

    def __init__(
        self,
        store: PooledStore,
        metadata: MetadataStore,
        session: Session,
        config: StorageConfig,
        clock: Clock,
        random: Random,
        supervisor: Supervisor,
        restorer: Restorer,
        scratch: ColdBlocks | None,
    ) -> None:
        """Use `open`."""
        self._metadata = metadata
        self._session = session
        self._clock = clock
        self._config = config
        self._supervisor = supervisor
        self._logs: dict[PartitionId, LogFiles] = {}
        self._handed_over: dict[PartitionId, LogFiles] = {}
        """Logs that this session has released while flushes of it held some of them."""
        self._unopened = UnopenedLogs(metadata)
        session_id = session.session_id
        self.cache = BlockCache(store, config.storage_cache_bytes, scratch)
        self._store = CachingStore(store, self.cache)
        segments = SegmentCache(self._store, config.open_files, config.chunk_bytes)
        self._segments = segments
        self.pools = store
        self.names = ObjectNames(session_id)
        """See `logs`."""
        self._own_objects = OwnObjects(self.names)
        self.garbage = SharedGarbage(
            self._store, store, metadata, segments, self._own_objects, session.fence, config, clock, supervisor
        )
        discard = self.garbage.discard
        place = partial(store.place, discard=discard)
        self._publisher = Publisher(place, metadata, self.names, config, discard, supervisor, [session.fence])
        self._tail = SessionTailKeeper(
            place, metadata, SessionTail(session.broker_id, session_id), session.fence, clock, random, supervisor
        )
        bodies = FlushBodies()
        self._objects = FlushObjects(session_id, self.cache, TailMemory(bodies, config.wal_memory_bytes))
        restored = RestoredUnits(self._store, restorer, config.restored_bytes, config.chunk_bytes)
        advance = self._publisher.advance_log_start
        self._files = Files(segments, restored, self._objects.by_ordinal, advance, config.segment_bytes)
        self._session_logs = SessionLogs(store, metadata)
        self._write_behind = ObjectWriteBehind(
            place,
            self._objects,
            self._tail,
            self._publisher,
            self.names,
            self._logs,
            self._handed_over,
            discard,
            config,
            clock,
            supervisor,
        )
        self._small_segments = SmallSegments(
            place, segments, self._publisher, self._logs, self.names, config.chunk_bytes
        )
        self._wal = ObjectWal(
            place, self._tail, config, clock, random, self._objects.add_own, self._write_behind.consider, discard
        )
        self._drain = PoolDrain(
            store, place, metadata, self._write_behind, self._publisher, self._logs, self.names, clock
        )
        others = FlushObjects(NOBODY, self.cache, TailMemory(bodies, config.wal_memory_bytes))
        self.followed = FollowedLogs(store, metadata, others, segments, restored, config, clock, supervisor)
        """The logs that others own, for readers."""
        self._tasks: list[asyncio.Task[object]] = []

    @classmethod
    async def open(
        cls,
        store: PooledStore,
        metadata: MetadataStore,
        *,
        session: Session,
        config: StorageConfig,
        clock: Clock,
        random: Random,
        supervisor: Supervisor,
        restorer: Restorer | None = None,
        scratch: ColdBlocks | None = None,
    ) -> Self:
        """Begins the session's write-ahead log. Nothing is recovered before a log is opened.

        `supervisor` answers for the background tasks, and must not be closed before this is: a close needs them.
        `scratch` takes what the cache has no memory for. Raises Fenced when the session has ended, Unavailable.
        """
        storage = cls(store, metadata, session, config, clock, random, supervisor, restorer or NoRestorer(), scratch)
        await storage._tail.begin()
        storage._tasks.append(supervisor.start_essential("wal", storage._wal.run()))
        storage._tasks.append(supervisor.keep_running("storage-upkeep", storage._upkeep))
        storage._tasks.append(supervisor.keep_running("storage-following", storage.followed.run))
        storage._tasks.append(supervisor.keep_running("storage-drain", storage._drain.run))
        return storage

    # Logs.

    async def open_log(
        self, partition: PartitionId, leader_epoch: int, *, least_end_offset: int = NO_OFFSET
    ) -> LogFiles:
        """See `logs`. Raises Corrupt also when something is missing that a manifest or tail names."""
        known = self._logs.get(partition)
        if known is not None:
            require_not_superseded(known.manifest, leader_epoch)
        await self.release_log(partition)  # if it is open: a new owner's state is made from what is committed
        opening = self._own_objects.opening(partition, leader_epoch)
        files = await self._load(partition)
        require_not_superseded(files.manifest, leader_epoch)
        self._logs[partition] = files  # from here on, what it has extents in is in use
        try:
            inherited = await self._attach(files)
            require_end(files, least_end_offset)
            files.recovered = await recovered_log(self._store, files)
            session_id = self._session.session_id
            await self._publisher.publish(
                files, lambda manifest: with_owner(manifest, leader_epoch, session_id, inherited)
            )
        except BaseException:
            self._logs.pop(partition, None)
            files.released = True  # what was begun meanwhile, such as writing it behind, comes to nothing
            raise
        self._own_objects.opened(partition, opening)
        files.pending_entries = []
        self._handed_over.pop(partition, None)
        return files

    def append(self, files: LogFiles, batches: Sequence[RecordBatch], on_durable: OnDurable) -> None:
        """See `logs`."""
        self._wal.append(files, batches, on_durable)

    def append_all(self, appends: Sequence[Append]) -> None:
        """See `logs`."""
        self._wal.append_all(appends)

    def hasten(self) -> None:
        """See `logs`."""
        self._wal.hasten()

    async def replace_files(
        self,
        files: LogFiles,
        before: Sequence[SegmentInfo],
        after: Sequence[SegmentInfo],
        columns: ColumnChange | None = None,
    ) -> None:
        """See `logs`."""
        await self._publisher.replace_files(files, before, after, columns)

    async def seal(self, files: LogFiles) -> None:
        """See `logs`."""
        await self._publisher.publish(files, with_open_segment_given_up)

    async def write_behind(self, files: LogFiles) -> None:
        """See `logs`."""
        await self._write_behind.run_log(files)

    def discard(self, names: Sequence[str]) -> None:
        """See `logs`."""
        self.garbage.discard(names)

    def placed(self, name: str) -> str:
        """See `logs`."""
        return self.pools.placed(name)

    @property
    def pool_states(self) -> Mapping[str, str]:
        """See `logs`."""
        return {} if self.pools.is_alone else {shown(name): pool.state for name, pool in self.pools.pools.items()}

    async def look_ahead(self, session_id: int) -> None:
        """See `logs`."""
        await self._session_logs.look_ahead(session_id)

    async def release_log(self, partition: PartitionId) -> None:
        """See `logs`. Its extents stay until whoever opens it has published that it inherits them."""
        self._unopened.forget(partition)
        files = self._logs.pop(partition, None)
        if files is None:
            return
        self._own_objects.released(partition)
        files.snapshot_source = None
        self._handed_over[partition] = files
        if await self._publisher.release(files):
            self.garbage.look()

    async def delete_log(self, partition: PartitionId) -> None:
        """See `logs`."""
        files = self._logs.get(partition)
        if files is None:
            files = await self._load(partition, for_deletion=True)
        if files.revision:
            files.deleted = True
            await self._publisher.publish(files, None)
        self._logs.pop(partition, None)
        self._own_objects.released(partition)
        self._unopened.forget(partition)
        files.wal.drop_first(len(files.wal))

    async def segments_of(self, partition: PartitionId) -> Sequence[SegmentInfo]:
        """See `logs`."""
        files = self._logs.get(partition)
        return files.segments if files is not None else await self._unopened.segments_of(partition)

    async def checkpoint(self) -> None:
        await self._write_behind.run()

    async def close(self) -> None:
        """A clean stop: what is staged is written. What is not written behind is left to whoever comes next."""
        self.followed.close()
        self._wal.stop()
        await asyncio.wait(self._tasks[:1], timeout=CLOSE_TIMEOUT_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._write_behind.stop()
        await self._publisher.idle()
        await self._tail.idle()
        await self.garbage.stop()
        await self._files.restored.close()
        await self._segments.close()

    # What the node shows and limits.

    @property
    def pending_bytes(self) -> int:
        return self._wal.pending_bytes

    @property
    def held_logs(self) -> Collection[PartitionId]:
        """See `logs`."""
        return self.garbage.held | self._drain.held

    @property
    def wal_bytes(self) -> int:
        return self._objects.own_bytes

    @property
    def wal_flushes_started(self) -> int:
        return self._wal.flushes

    @property
    def wal_flushes(self) -> int:
        """Objects of the write-ahead log that are not released."""
        return len(self._objects)

    @property
    def tail_memory_bytes(self) -> int:
        return self._objects.memory_bytes

    @property
    def healthy(self) -> BytemqError | None:
        return self._wal.failure

    @property
    def recovered_bytes(self) -> int:
        return self._session_logs.read_bytes

    # Opening.

    async def _load(self, partition: PartitionId, *, for_deletion: bool = False) -> LogFiles:
        """The log as its manifest says now. Raises Corrupt."""
        entry = await self._metadata.get(keys.manifest(partition))
        stored = StoredManifest(Manifest(leader_epoch=-1))
        if entry is not None:
            try:
                stored = decode_manifest(entry.value, directory_of(partition))
            except Corrupt as error:
                if not for_deletion:  # its files are garbage for a later collection
                    raise Corrupt(f"{keys.manifest(partition)}: {error}") from error
        return LogFiles(partition, stored, entry.revision if entry is not None else 0, self._files)

    async def _attach(self, files: LogFiles) -> list[InheritedRange]:
        """Finds the extents that follow the segments, in the logs of the sessions before. Returns the ranges."""
        manifest = files.manifest
        ranges: list[InheritedRange] = []
        for session_id, _, next_offset in manifest.inherited:
            ranges.extend(await self._attach_session(files, session_id, next_offset))
        if manifest.owner_session:
            ranges.extend(await self._attach_session(files, manifest.owner_session, None))
        return ranges

    async def _attach_session(self, files: LogFiles, session_id: int, next_offset: int | None) -> list[InheritedRange]:
        """What a session has committed of the log behind what is known, up to `next_offset`."""
        start = files.end_offset
        shares = await self._session_logs.shares_of(session_id, files.partition)
        for hole in attach_shares(files, session_id, shares, self._objects.ordinal_of, next_offset):
            files.report_hole(*hole)
        return [InheritedRange(session_id, start, files.end_offset)] if files.end_offset > start else []

    # Background.

    async def _upkeep(self) -> None:
        """Writes behind what was inherited, hands over, collects garbage, and merges, now and then.

        What cannot be done, as where a store does not answer, keeps nothing else from being done.
        """
        steps: tuple[Callable[[], Awaitable[object]], ...] = (
            self._let_go_of_handed_over,
            self._write_behind.run_inherited,
            self._write_behind.release,
            partial(self.garbage.collect, self._session_logs.forget),
            self._small_segments.run,
        )
        while True:
            await self._clock.sleep(self._config.storage_upkeep_interval_ms / 1000)
            for step in steps:
                try:
                    await step()
                except (Unavailable, NotFound, Corrupt) as error:
                    log.warning("upkeep of the storage failed, it will be tried again", reason=str(error))

    async def _let_go_of_handed_over(self) -> None:
        """A log that was released needs this session's flushes until its next owner has written them behind."""
        for partition, files in list(self._handed_over.items()):
            try:
                is_needed = names_session((await self._load(partition)).manifest, self._session.session_id)
            except Corrupt:
                continue  # nobody knows what it names
            if not is_needed and self._handed_over.get(partition) is files:  # not of a later ownership of ours
                del self._handed_over[partition]


def names_session(manifest: Manifest, session_id: int) -> bool:
    """Whether what the log consists of may be in that session's write-ahead log."""
    return manifest.owner_session == session_id or any(one.session_id == session_id for one in manifest.inherited)
