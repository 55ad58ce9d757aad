"""Write-behind: from the write-ahead log to segments.

Owns: when it happens, in which order, and which files of the write-ahead log are released. Must not: change a log
otherwise.

For a group of partitions: their bytes are appended to their segments and their bulk files sealed, all of these synced,
then the manifests published in one transaction; only then the extents are dropped, and when no log has extents in a
file any more, it is released. A crash at any point leaves the log as the manifests and the write-ahead log tell it, and
at most bytes that nothing names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bytemq.errors import BytemqError, NotFound, Unavailable
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.garbage import Garbage
from bytemq.storage.log_files import Files, LogFiles
from bytemq.storage.manifests.manifest import (
    Manifest,
    PartitionSnapshot,
    SegmentInfo,
    with_open_segment_given_up,
    with_segments,
)
from bytemq.storage.manifests.manifest_codec import directory_of
from bytemq.storage.manifests.publisher import Publisher
from bytemq.storage.object_names import ObjectNames
from bytemq.storage.segments.background_passes import BackgroundPasses
from bytemq.storage.segments.segment_files import BulkSegmentWriter, SegmentWriter
from bytemq.storage.segments.segment_limits import begun_with
from bytemq.storage.segments.write_behind_reading import read_chunks
from bytemq.storage.settings import StorageConfig
from bytemq.storage.stores.interface import Store
from bytemq.storage.wal.bulk import BulkFiles
from bytemq.storage.wal.extents import Chunk
from bytemq.storage.wal.wal import Wal
from bytemq.storage.wal.wal_files import WalFiles
from bytemq.types import PartitionId

log = get_logger("storage.write_behind")

CONCURRENT_SYNCS = 2
EVERYTHING = 1 << 32


class Written(NamedTuple):
    """What was written for one log and has to be published."""

    files: LogFiles
    seen: tuple[SegmentInfo, ...]
    """The manifest's segments that it continues."""
    writers: Sequence[SegmentWriter]
    end_offset: int
    snapshot: PartitionSnapshot | None
    holes: Sequence[tuple[int, int]]


class WriteBehind(BackgroundPasses):
    def __init__(
        self,
        store: Store,
        files: Files,
        wal_files: WalFiles,
        bulk: BulkFiles,
        wal: Wal,
        publisher: Publisher,
        garbage: Garbage,
        logs: Mapping[PartitionId, LogFiles],
        names: ObjectNames,
        config: StorageConfig,
        clock: Clock,
        supervisor: Supervisor,
    ) -> None:
        """`logs` are all logs that have extents, as they are at any moment."""
        super().__init__(supervisor, clock)
        self._store = store
        self._garbage = garbage
        self._logs = logs
        self._files = files
        self._wal_files = wal_files
        self._bulk = bulk
        self._wal = wal
        self._publisher = publisher
        self._names = names
        self._config = config
        self._clock = clock
        self._awaited = 0
        """How many wait for room."""
        self._unsynced_bytes = 0
        self._releasing: asyncio.Task[object] | None = None
        """Waits to look at what can be released."""

    async def room(self) -> None:
        """Returns when the write-ahead log may take another file: back-pressure in place of growth.

        At most one pass is waited for: where writing behind fails, appends go on as long as the disk has space.
        """
        if self._wal_files.total_bytes + self._config.wal_file_bytes <= self._config.wal_retained_bytes:
            return
        self.consider()
        if self._task is not None:
            self._awaited += 1
            try:
                await asyncio.wait([self._task])
            finally:
                self._awaited -= 1

    def _is_due(self) -> bool:
        return self._is_large() or self._has_many_extents() or self._bulk.has_much_ended

    def _is_large(self) -> bool:
        too_large = self._wal_files.total_bytes > self._config.wal_retained_bytes // 2
        return len(self._wal_files.live) > 1 and (too_large or self._wal.failure is not None)

    def _has_many_extents(self) -> bool:
        return sum(len(files.wal) for files in self._logs.values()) > self._config.wal_retained_extents

    async def _run_due(self) -> None:
        await self.run(everything=self._has_many_extents())

    async def run(self, *, everything: bool = False) -> None:
        """Writes behind until the write-ahead log is well below its limit, or `everything` committed. Raises
        Unavailable."""
        async with self._lock:
            limit = EVERYTHING if everything else self._first_kept()
            with_bulk = {bulk.log for bulk in self._bulk.live.values() if bulk.is_ended and bulk.chunks}
            due = [
                files
                for files in self._logs.values()
                if len(files.wal) and (files.wal.files[0] < limit or files in with_bulk) and not files.deleted
            ]
            failure: BytemqError | None = None
            group = self._config.manifests_per_transaction
            for start in range(0, len(due), group):
                try:
                    await self._write_group(due[start : start + group], limit)
                except BytemqError as error:  # what is wrong with one group must not keep the log of all others
                    failure = error
            await self._release()
            if failure is not None:
                raise failure

    def release_soon(self) -> None:
        """Something of a log is needed no more, without having been written behind: so may its files be."""
        if self._releasing is None and not self._stopping:
            self._releasing = self._supervisor.start("write-behind-release", self._release_in_background())

    async def _release_in_background(self) -> None:
        async with self._lock:
            self._releasing = None
            if self._stopping:
                return
            try:
                await self._release()
            except BytemqError as error:
                log.warning("files are not released yet", reason=str(error))

    async def run_log(self, files: LogFiles) -> None:
        """Writes behind all of one log. Raises Unavailable."""
        async with self._lock:
            await self._write_group([files], EVERYTHING)

    def _first_kept(self) -> int:
        """Ordinal of the first file that stays: the newest quarter of what may be retained does."""
        kept_bytes, first = 0, self._wal.current_ordinal
        for file in reversed(self._wal_files.live):
            kept_bytes += file.size_bytes
            if kept_bytes > self._config.wal_retained_bytes // 4:
                break
            first = min(first, file.ordinal)
        return first

    async def _write_group(self, group: Sequence[LogFiles], limit: int) -> None:
        written: list[Written] = []
        writers: list[SegmentWriter] = []
        failure: BytemqError | None = None
        try:
            for files in group:
                try:
                    one = await self._write_log(files, limit, writers)
                except BytemqError as error:  # what is wrong with one log must not keep all others
                    failure, one = error, None
                if one is not None:
                    written.append(one)
            counting = {writer for one in written for writer in one.writers}
            self._garbage.discard(_names_made([writer for writer in writers if writer not in counting]))
            await self._sync([writer for writer in writers if writer in counting])
            if any(one.snapshot is not None for one in written) and not await self._may_publish_snapshots():
                written = [one._replace(snapshot=None) for one in written]
        except BaseException:
            self._garbage.discard(_names_made(writers))
            raise
        finally:
            for writer in writers:
                await writer.close()
        outcomes = await asyncio.gather(*(self._publish(one) for one in written), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        if failure is not None:
            raise failure

    async def _may_publish_snapshots(self) -> bool:
        """What a published snapshot describes has to be durable. Segments may be published without one."""
        try:
            return await self._wal.sync()
        except Unavailable as error:
            log.error("no snapshots are published: the write-ahead log could not be synced", reason=str(error))
            return False

    async def _write_log(self, files: LogFiles, limit: int, all_writers: list[SegmentWriter]) -> Written | None:
        """Makes a log's extents in files below `limit` part of its segments. Nothing is durable yet.

        Each writer is added to `all_writers`, whatever happens. None: nothing to do, or the log was overtaken by a
        deletion.
        """
        await self._publisher.refresh(files)
        files.drop_wal_below(files.manifest.end_offset)
        count = self._bulk.whole_files(files, files.wal.count_in_files_before(limit))
        if not count:
            return None
        snapshot = files.snapshot_source() if files.snapshot_source is not None else None
        end_offset = files.wal.chunk(count - 1).next_offset
        offset = files.wal.bases[0]
        seen = files.manifest.segments
        writers: list[SegmentWriter] = []
        holes: list[tuple[int, int]] = []
        try:
            # The log start may advance meanwhile.
            while len(files.wal) and (offset := max(offset, files.wal.bases[0])) < end_offset:
                if self._stopping:
                    raise Unavailable("the storage is being closed")
                bulk = self._bulk.holding(files, offset)
                if bulk is not None and bulk.base_offset == offset and self._bulk.is_worth_a_segment(bulk):
                    aborted = snapshot.aborted if snapshot is not None else ()
                    if writers and not writers[-1].info.sealed:
                        await writers[-1].write_footer(aborted, sealed=True)
                    writer = BulkSegmentWriter(bulk.writable, bulk.info(), bulk.chunks, bulk)
                    writers.append(writer)
                    await writer.write_footer(aborted, sealed=True)
                    offset = bulk.next_offset
                    continue
                stop = end_offset
                if bulk is not None:  # what is copied ends where another file begins, which need not be
                    stop = min(stop, bulk.base_offset if bulk.base_offset > offset else bulk.next_offset)
                chunks, views, offset = await read_chunks(files, self._files.wal, offset, stop, holes)
                if chunks:
                    await self._append(files, seen, writers, chunks, views, snapshot)
                    await self._rest(writers[-1], sum(map(len, views)))
            if writers and not writers[-1].info.sealed:
                await writers[-1].write_footer((), sealed=False)
        except NotFound:
            if not files.deleted and files.manifest.segments == seen:
                raise
            return None
        finally:
            all_writers.extend(writers)
        return Written(files, seen, writers, end_offset, snapshot, holes)

    async def _rest(self, writer: SegmentWriter, written_bytes: int) -> None:
        """Goes on in small steps, with rests between them unless somebody waits: the device serves others, too."""
        self._unsynced_bytes += written_bytes
        if self._unsynced_bytes < self._config.write_behind_step_bytes:
            return
        self._unsynced_bytes = 0
        started_at = self._clock.monotonic()
        await writer.sync()
        plenty = self._wal_files.total_bytes <= self._config.wal_retained_bytes * 3 // 4
        if plenty and not self._awaited and not self._stopping:
            await self._clock.sleep(self._clock.monotonic() - started_at)

    async def _append(
        self,
        files: LogFiles,
        seen: tuple[SegmentInfo, ...],
        writers: list[SegmentWriter],
        chunks: Sequence[Chunk],
        views: Sequence[memoryview],
        snapshot: PartitionSnapshot | None,
    ) -> None:
        """Appends to the log's open segment, going on in another one where that is full."""
        start, limits = 0, files.segment_limits
        while start < len(chunks):
            writer = writers[-1] if writers else await self._continued(files, seen, writers)
            if writer is None or writer.info.sealed:
                writer = await self._new_segment(files, chunks[start])
                writers.append(writer)
            stop, info = start, writer.info
            while stop < len(chunks) and not (info.size_bytes and limits.rolls(info, chunks[stop])):
                info = info._replace(size_bytes=info.size_bytes + chunks[stop].size_bytes)
                stop += 1
            if stop > start:
                await writer.append(chunks[start:stop], views[start:stop])
            if stop < len(chunks):
                await writer.write_footer(snapshot.aborted if snapshot is not None else (), sealed=True)
            start = stop

    async def _continued(
        self, files: LogFiles, seen: tuple[SegmentInfo, ...], writers: list[SegmentWriter]
    ) -> SegmentWriter | None:
        """A writer for the open segment, if the log has one. Where that is lost, the log goes on in another one."""
        if not seen or seen[-1].sealed:
            return None
        try:
            index = (await self._files.segments.get(seen[-1])).index
            file = await self._store.open_append(seen[-1].name)
        except NotFound:
            if files.deleted or files.manifest.segments != seen:
                raise
            log.error("the open segment is missing", partition=files.partition, segment=seen[-1].name)
            return None
        writer = SegmentWriter(file, seen[-1], self._config.chunk_bytes, index)
        writers.append(writer)
        return writer

    async def _new_segment(self, files: LogFiles, first: Chunk) -> SegmentWriter:
        name = self._names.name(directory_of(files.partition), first.base_offset, ".log")
        file = await self._store.create_append(name)
        info = begun_with(first, self._clock.wall_ms(), name)
        return SegmentWriter(file, info, self._config.chunk_bytes, None)

    async def _sync(self, writers: Sequence[SegmentWriter]) -> None:
        for start in range(0, len(writers), CONCURRENT_SYNCS):
            await asyncio.gather(*(writer.sync() for writer in writers[start : start + CONCURRENT_SYNCS]))

    async def _publish(self, one: Written) -> None:
        infos = [writer.info for writer in one.writers if writer.info.size_bytes]
        continued = one.seen[-1] if one.writers and not one.writers[0].is_new else None
        overtaken = False

        def change(manifest: Manifest) -> Manifest:
            nonlocal overtaken
            if continued is not None:
                overtaken = continued not in manifest.segments
            elif infos:  # the sealed ones may have been replaced meanwhile, but nobody else may have gone on
                overtaken = manifest.end_offset > max(infos[0].base_offset, manifest.log_start_offset)
            if overtaken:
                raise Unavailable("the log's segments changed while it was written behind")
            if infos and continued is None:
                manifest = with_open_segment_given_up(manifest)
            return with_segments(manifest, infos, one.snapshot, one.holes)

        def applied() -> None:
            # In one step with the new manifest: nobody may see the same offsets twice, or an index without them.
            for writer in one.writers:
                self._files.segments.grow(writer.info, writer.added)
            one.files.drop_wal_below(one.end_offset)

        try:
            await self._publisher.publish(one.files, change, applied, made=_names_made(one.writers))
        except (Unavailable, NotFound):
            if not overtaken and not one.files.deleted:
                raise

    async def _release(self) -> None:
        """Releases the files in which no log has extents any more."""
        await self._bulk.release()
        first_needed = self._wal.current_ordinal
        for files in self._logs.values():
            if len(files.wal):
                first_needed = min(first_needed, files.wal.files[0])
        released = [file for file in self._wal_files.live if file.ordinal < first_needed and not file.is_kept]
        if released:
            await self._wal_files.release(released, *self._wal.next_link)


def _names_made(writers: Sequence[SegmentWriter]) -> list[str]:
    """Files that hold nothing that is not elsewhere, too."""
    return [writer.info.name for writer in writers if writer.is_new and not writer.is_bulk]
