"""Write-behind on an object store: from flushes, which hold many partitions, to segments, which hold one.

Owns: when it happens, what goes into which segment, and which flushes of this session are released. Must not: change a
log otherwise.

A segment is a new object each time, made in memory and written once. For a group of logs: the objects are created, then
the manifests published in few transactions; only then the extents are dropped, and what no log has extents in any more
is released: first in the tail record, then the objects. A crash at any point leaves the log as manifests and tails tell
it, and at most objects that nothing names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from typing import NamedTuple

from bytemq.errors import BytemqError, Fenced, NotFound, Unavailable
from bytemq.runtime.clock import Clock
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.log_files import LogFiles
from bytemq.storage.manifests.manifest import (
    Manifest,
    PartitionSnapshot,
    SegmentInfo,
    with_inherited_from,
    with_segments,
)
from bytemq.storage.manifests.manifest_codec import directory_of
from bytemq.storage.manifests.publisher import Publisher
from bytemq.storage.object_names import ObjectNames
from bytemq.storage.objects.flush_objects import FlushObjects, used_ordinals
from bytemq.storage.objects.segment_in_memory import SegmentInMemory
from bytemq.storage.objects.session_tail import SessionTailKeeper
from bytemq.storage.pools.pooled_store import Place
from bytemq.storage.segments.background_passes import BackgroundPasses
from bytemq.storage.segments.write_behind_reading import read_chunks
from bytemq.storage.settings import StorageConfig
from bytemq.types import PartitionId

LOGS_AT_ONCE = 8
"""Segments that are made and written at the same time: bounds the memory they take."""


class Written(NamedTuple):
    """What was written for one log and has to be published."""

    files: LogFiles
    segments: Sequence[SegmentInfo]
    start_offset: int
    end_offset: int
    snapshot: PartitionSnapshot | None
    holes: Sequence[tuple[int, int]]


class ObjectWriteBehind(BackgroundPasses):
    """`discard` is told of objects that nothing names."""

    def __init__(
        self,
        place: Place,
        objects: FlushObjects,
        tail: SessionTailKeeper,
        publisher: Publisher,
        names: ObjectNames,
        logs: Mapping[PartitionId, LogFiles],
        handed_over: Mapping[PartitionId, LogFiles],
        discard: Callable[[Sequence[str]], None],
        config: StorageConfig,
        clock: Clock,
        supervisor: Supervisor,
    ) -> None:
        """`logs` are those that this session owns, `handed_over` those whose extents another owner still needs."""
        super().__init__(supervisor, clock)
        self._place = place
        self._objects = objects
        self._tail = tail
        self._publisher = publisher
        self._names = names
        self._logs = logs
        self._handed_over = handed_over
        self._discard = discard
        self._config = config
        self._clock = clock
        self._looked_at = 0
        """The last flush when the logs were looked at one by one."""
        self.written_bytes = 0

    def _is_due(self) -> bool:
        return bool(self._due() or self._long_coordinators())

    def _due(self) -> set[int]:
        """Ordinals of the flushes to be written behind: above half of what may be retained, down to a quarter."""
        config = self._config
        bytes_, flushes = config.wal_retained_bytes, config.wal_retained_flushes
        if self._objects.own_bytes <= bytes_ // 2 and len(self._objects) <= flushes // 2:
            return set()
        return self._objects.due_ordinals(bytes_ // 4, flushes // 4)

    def _long_coordinators(self) -> Sequence[LogFiles]:
        """Logs of coordinators, which are read whole before anybody is answered, and which lie in too many objects.

        Each flush may make a log longer by one, and there may be ten thousand logs: they are looked at now and then.
        """
        most, last = self._config.coordinator_extents, self._tail.tail.last_sequence
        if last - self._looked_at < most // 4:
            return ()
        owned = self._logs.values()
        long = [files for files in owned if files.is_coordinators and len(files.wal) > most and not files.deleted]
        if not long:
            self._looked_at = last
        return long

    async def _run_due(self) -> None:
        async with self._lock:
            try:
                if long := self._long_coordinators():
                    await self._run(used_ordinals(long), long)
            finally:
                if due := self._due():
                    await self._run(due, self._logs.values())

    async def run(self) -> None:
        """Writes behind everything that is committed. Raises Unavailable."""
        async with self._lock:
            await self._run(used_ordinals(self._logs.values()), self._logs.values())

    async def run_log(self, files: LogFiles) -> None:
        """Writes behind all of one log. Raises Unavailable."""
        async with self._lock:
            await self._write_group([files], used_ordinals([files]))

    async def run_inherited(self) -> None:
        """Writes behind what is in other sessions' logs, so that those can go. Raises Unavailable."""
        async with self._lock:
            inherited = used_ordinals(self._logs.values()) - self._objects.own_ordinals()
            if inherited:
                await self._run(inherited, self._logs.values())

    async def _run(self, due: Set[int], among: Collection[LogFiles]) -> None:
        """`due`: ordinals of the flushes in which these logs shall have no extents any more.

        Some of them at a time: what memory has lost is read again, once, and not once for each log.
        """
        failure: BytemqError | None = None
        for window in self._objects.windows(due, self._config.storage_cache_bytes * 3 // 4):
            logs = [files for files in among if _due_extents(files, window)]
            for group in _groups(logs, self._config.manifests_per_transaction):
                try:
                    await self._write_group(group, window)
                except BytemqError as error:  # what is wrong with one group must not keep the log of all others
                    failure = error
        await self._release()
        if failure is not None:
            raise failure

    async def _write_group(self, group: Sequence[LogFiles], due: Set[int]) -> None:
        gate = asyncio.Semaphore(LOGS_AT_ONCE)

        async def write(files: LogFiles) -> Written | None:
            async with gate:
                return await self._write_log(files, due)

        outcomes = await asyncio.gather(*(write(files) for files in group), return_exceptions=True)
        written = [outcome for outcome in outcomes if isinstance(outcome, Written)]
        published = await asyncio.gather(*(self._publish(one) for one in written), return_exceptions=True)
        for outcome in (*outcomes, *published):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _write_log(self, files: LogFiles, due: Set[int]) -> Written | None:
        """Creates the segments of one log's due extents. None: nothing to do any more."""
        await self._publisher.refresh(files)
        files.drop_wal_below(files.manifest.end_offset)
        count = _due_extents(files, due)
        if not count or self._logs.get(files.partition) is not files:
            return None
        snapshot = files.snapshot_source() if files.snapshot_source is not None else None
        start_offset = offset = files.wal.bases[0]
        end_offset = files.wal.chunk(count - 1).next_offset
        segments: list[SegmentInfo] = []
        holes: list[tuple[int, int]] = []
        made = SegmentInMemory(self._config.chunk_bytes)
        try:
            # The log start may advance meanwhile.
            while len(files.wal) and (offset := max(offset, files.wal.bases[0])) < end_offset:
                if self._stopping:
                    raise Unavailable("the storage is being closed")
                chunks, views, offset = await read_chunks(files, self._objects.by_ordinal, offset, end_offset, holes)
                for chunk, view in zip(chunks, views, strict=True):
                    if made.info is not None and files.segment_limits.rolls(made.info, chunk):
                        segments.append(await self._create(files, made, snapshot))
                        made = SegmentInMemory(self._config.chunk_bytes)
                    await made.add(chunk, view, self._clock.wall_ms())
            if made.info is not None:
                segments.append(await self._create(files, made, snapshot))
        except BaseException as error:
            self._discard([segment.name for segment in segments])
            if isinstance(error, NotFound) and files.deleted:
                return None
            raise
        return Written(files, segments, start_offset, end_offset, snapshot, holes)

    async def _create(self, files: LogFiles, made: SegmentInMemory, snapshot: PartitionSnapshot | None) -> SegmentInfo:
        info, parts = await made.finish(snapshot.aborted if snapshot is not None else ())
        name = self._names.name(directory_of(files.partition), info.base_offset, ".log")
        info = info._replace(name=await self._place(name, parts))
        self.written_bytes += info.size_bytes
        return info

    async def _publish(self, one: Written) -> None:
        def change(manifest: Manifest) -> Manifest:
            if manifest.end_offset > max(one.start_offset, manifest.log_start_offset):
                raise Unavailable("the log's segments changed while it was written behind")
            return with_inherited_from(with_segments(manifest, one.segments, one.snapshot, one.holes), one.end_offset)

        def applied() -> None:
            one.files.drop_wal_below(one.end_offset)

        try:
            await self._publisher.publish(one.files, change, applied, made=[segment.name for segment in one.segments])
        except (NotFound, Fenced):  # unless it was deleted or released meanwhile
            if self._logs.get(one.files.partition) is one.files and not one.files.deleted:
                raise

    async def run_from(self, pool: str) -> None:
        """Writes behind what is in flushes of this session in that pool, and in all before them. Raises Unavailable."""
        async with self._lock:
            due = self._objects.own_ordinals_through(self._tail.last_in(pool))
            if due:
                await self._run(due, self._logs.values())

    async def release(self) -> None:
        """Releases what no log has extents in any more. Raises Fenced."""
        async with self._lock:  # what is being read is not to go
            await self._release()

    async def _release(self) -> None:
        first = self._objects.first_needed(self._all_logs(), self._tail.tail.last_sequence + 1)
        names = list(await self._tail.release_below(first))
        names.extend(await self._objects.release_own(first))
        self._discard(names)
        await self._objects.forget_unused(self._all_logs())  # not those of before: others were opened meanwhile

    def _all_logs(self) -> Iterator[LogFiles]:
        yield from self._logs.values()
        yield from self._handed_over.values()


def _due_extents(files: LogFiles, due: Set[int]) -> int:
    """How many of its first extents go: up to the last one that is in a flush which is due."""
    if files.deleted:
        return 0
    ordinals = files.wal.files
    for number in range(len(ordinals) - 1, -1, -1):
        if ordinals[number] in due:
            return number + 1
    return 0


def _groups(logs: Sequence[LogFiles], size: int) -> Iterator[Sequence[LogFiles]]:
    for start in range(0, len(logs), size):
        yield logs[start : start + size]
