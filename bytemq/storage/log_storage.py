"""The storage of one node session: where the parts are put together.

Owns: the logs that are known, opening and deleting them, the life of the parts. Must not: know the formats, or do I/O
itself.

    append -> wal (durable)           -> readable through LogFiles.read
           -> write-behind (segments) -> publisher (manifests) -> files of the write-ahead log are used again
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Self

from bytemq.errors import BytemqError, NotFound
from bytemq.metadata.store import MetadataStore
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.earlier_sessions import EarlierSessions
from bytemq.storage.garbage import Garbage
from bytemq.storage.known_logs import KnownLogs
from bytemq.storage.log_files import Files, LogFiles
from bytemq.storage.log_opening import NO_OFFSET, as_recovered, recovered_log, require_end
from bytemq.storage.manifests.manifest import (
    SegmentInfo,
    require_not_superseded,
    with_leader_epoch,
    with_open_segment_given_up,
)
from bytemq.storage.manifests.publisher import Publisher
from bytemq.storage.manifests.unopened import segments_without_opening
from bytemq.storage.object_names import ObjectNames
from bytemq.storage.pools.pooled_store import placing_in
from bytemq.storage.segments.segment_files import SegmentCache
from bytemq.storage.segments.write_behind import WriteBehind
from bytemq.storage.settings import Durability, StorageConfig
from bytemq.storage.stores.interface import Store
from bytemq.storage.tables.published_columns import ColumnChange
from bytemq.storage.tables.restored import NoRestorer, RestoredUnits, Restorer
from bytemq.storage.wal.bulk import BulkFiles
from bytemq.storage.wal.recent import RecentChunks
from bytemq.storage.wal.wal import Wal
from bytemq.storage.wal.wal_files import WalFiles
from bytemq.storage.wal.wal_index import TailRecord
from bytemq.types import PartitionId

log = get_logger("storage")


class LogStorage:
    """Implements `logs.Logs`. All methods are called on the event loop."""

    def __init__(
        self,
        store: Store,
        metadata: MetadataStore,
        session_id: int,
        config: StorageConfig,
        clock: Clock,
        durability: Durability,
        supervisor: Supervisor,
        restorer: Restorer,
        first_sequence: int,
    ) -> None:
        """Use `open`."""
        self._store = store
        self._metadata = metadata
        self.names = ObjectNames(session_id)
        """See `logs`."""
        self._config = config
        self._clock = clock
        segments = SegmentCache(store, config.open_files, config.chunk_bytes)
        restored = RestoredUnits(store, restorer, config.restored_bytes, config.chunk_bytes)
        self._garbage = Garbage(store, segments, restored, session_id, clock, supervisor, config.table_grace_ms)
        self._publisher = Publisher(
            placing_in(store),
            metadata,
            self.names,
            config,
            self._garbage.discard,
            supervisor,
            committed_is_durable=lambda: self._wal.sync(),
        )
        self._wal_files = WalFiles(store, metadata, session_id, config, supervisor)
        advance = self._advance_log_start
        recent = RecentChunks(config.recent_bytes)
        self._files = Files(segments, restored, self._wal_files.by_ordinal, advance, config.segment_bytes, recent)
        self._known = KnownLogs(self._files)
        self._logs = self._known.opened
        self._bulk = BulkFiles(
            store,
            self._wal_files,
            self.names,
            config,
            clock,
            durability,
            self._garbage.discard,
            self._consider_write_behind,
            supervisor,
        )
        self._wal = Wal(
            self._wal_files,
            self._bulk,
            session_id,
            config,
            clock,
            durability,
            self._consider_write_behind,
            self._room,
            supervisor,
            first_sequence,
        )
        self.append = self._wal.append
        """See `logs`."""
        self.append_all = self._wal.append_all
        """See `logs`."""
        self._write_behind = WriteBehind(
            store,
            self._files,
            self._wal_files,
            self._bulk,
            self._wal,
            self._publisher,
            self._garbage,
            self._logs,
            self.names,
            config,
            clock,
            supervisor,
        )
        self._tasks: list[asyncio.Task[object]] = []
        self.recovered_bytes = 0
        """How much of write-ahead logs the recovery had to walk through."""

    @classmethod
    async def open(
        cls,
        store: Store,
        metadata: MetadataStore,
        *,
        session_id: int,
        config: StorageConfig,
        clock: Clock,
        supervisor: Supervisor,
        durability: Durability = "fsync",
        restorer: Restorer | None = None,
        first_sequence: int = 1,
    ) -> Self:
        """Recovers what earlier sessions left and starts a new one; `session_id` is greater than every earlier one.
        `first_sequence`, of FIRST_SEQUENCE_BITS, is drawn where clients are not trusted: see `wal.format`.

        `supervisor` answers for the background tasks, and must not be closed before this is: a close needs them.
        Raises Invalid for a session id used before, Corrupt when metadata make no sense, Unavailable.
        """
        storage = cls(
            store,
            metadata,
            session_id,
            config,
            clock,
            durability,
            supervisor,
            restorer or NoRestorer(),
            first_sequence,
        )
        await storage._recover()
        storage._tasks.append(supervisor.start_essential("wal", storage._wal.run()))
        storage._tasks.append(supervisor.start("storage-garbage", storage._tidy()))
        if durability == "page-cache":
            storage._tasks.append(supervisor.keep_running("wal-sync", storage._sync_regularly))
        return storage

    # Logs.

    async def open_log(
        self, partition: PartitionId, leader_epoch: int, *, least_end_offset: int = NO_OFFSET
    ) -> LogFiles:
        """See `logs`."""
        files = self._known.log(partition)
        require_not_superseded(files.manifest, leader_epoch)
        require_end(files, least_end_offset)
        if files.snapshot_source is not None:
            # Open before in this session: its last owner still knows everything.
            snapshot = files.snapshot_source()
            files.recovered = as_recovered(files, snapshot, [])
        else:
            files.recovered = await recovered_log(self._store, files)
        await self._publisher.publish(files, lambda manifest: with_leader_epoch(manifest, leader_epoch))
        files.pending_entries = []
        return files

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
        self._garbage.discard(names)

    def placed(self, name: str) -> str:
        """See `logs`."""
        return name

    @property
    def pool_states(self) -> Mapping[str, str]:
        """See `logs`."""
        return {}

    async def release_log(self, partition: PartitionId) -> None:
        """See `logs`. Here nobody else can open it before this session has ended."""

    async def delete_log(self, partition: PartitionId) -> None:
        """See `logs`."""
        files = self._known.log_for_deletion(partition)
        if files is None:
            return
        files.deleted = True
        await self._publisher.publish(files, None)
        self._logs.pop(partition, None)
        files.wal.drop_first(len(files.wal))
        self._write_behind.release_soon()

    async def _advance_log_start(self, files: LogFiles, offset: int) -> None:
        """See `LogFiles.advance_log_start`. What was never written behind is let go of here, and with it its files."""
        first = files.wal.bases[0] if len(files.wal) else None
        await self._publisher.advance_log_start(files, offset)
        if first is not None and first < offset:
            self._write_behind.release_soon()

    def partitions(self) -> Iterable[PartitionId]:
        """Every partition that has a log, opened or not: for comparing with the topics that exist."""
        return {*self._logs, *self._known.stored}

    def hasten(self) -> None:
        """See `logs`. One flush follows the other: nothing waits for a time."""

    async def look_ahead(self, session_id: int) -> None:
        """See `logs`. Everything of earlier sessions is known since the start."""

    async def segments_of(self, partition: PartitionId) -> Sequence[SegmentInfo]:
        """See `logs`."""
        return segments_without_opening(partition, self._logs, self._known.stored)

    async def checkpoint(self) -> None:
        """Writes everything committed so far to segments, whatever the limits. Raises Unavailable."""
        await self._write_behind.run(everything=True)

    async def close(self) -> None:
        """A clean stop: what is staged is written, and the next session has nothing to walk through.

        A write-ahead log that died, or whose last sync fails, is left as a kill would leave it. Everything is closed
        also when that raises Unavailable.
        """
        self._wal.stop()
        await self._tasks[0]
        for task in self._tasks[1:]:
            task.cancel()
        await asyncio.gather(*self._tasks[1:], return_exceptions=True)
        await self._write_behind.stop()
        await self._publisher.idle()
        async with AsyncExitStack() as parts:  # each is closed, whatever became of the one before
            parts.push_async_callback(self._files.segments.close)
            parts.push_async_callback(self._files.restored.close)
            parts.push_async_callback(self._wal_files.close)
            parts.push_async_callback(self._garbage.idle)
            parts.push_async_callback(self._bulk.close)
            if not self._wal.has_died:
                await self._wal_files.seal(*await self._wal.finish())

    # What the node shows and limits.

    held_logs: Collection[PartitionId] = ()
    followed = None
    """See `logs`. Here the start takes over the logs of ended sessions at once."""

    @property
    def pending_bytes(self) -> int:
        """Bytes appended but not durable yet."""
        return self._wal.pending_bytes

    @property
    def wal_bytes(self) -> int:
        """Disk space that the write-ahead log takes."""
        return self._wal_files.total_bytes

    @property
    def healthy(self) -> BytemqError | None:
        """Why appends fail at present; None when they do not."""
        return self._wal.failure

    # Recovery.

    async def _recover(self) -> None:
        await self._known.read(self._metadata)
        earlier = EarlierSessions(self._store, self._metadata, self._known, self._wal_files, self._bulk)
        await earlier.recover(self.names.session_id)
        self.recovered_bytes = earlier.walked_bytes
        first = self._wal.next_link
        await self._wal_files.publish_tail(TailRecord(self.names.session_id, 0, *first))
        unused = [file for file in self._wal_files.live if not file.first_sequence]
        await self._wal_files.release(unused, *first)

    # Background.

    async def _room(self) -> None:
        await self._write_behind.room()

    def _consider_write_behind(self) -> None:
        self._write_behind.consider()

    async def _tidy(self) -> None:
        try:
            names = await self._garbage.find(self._known.stored, self._logs, self._wal_files, self._bulk)
            self._garbage.discard(names)
        except (BytemqError, NotFound) as error:
            log.warning("looking for garbage failed", reason=str(error))

    async def _sync_regularly(self) -> None:
        while True:
            await self._clock.sleep(self._config.wal_sync_interval_ms / 1000)
            try:
                await self._wal.sync()
            except BytemqError as error:
                log.error("the write-ahead log could not be synced", reason=str(error))
            self._consider_write_behind()  # bulk leaves little in the files whose end is the other occasion
