"""The files of one partition, seen as one log.

Owns: which bytes of which file are the log from its start to its committed end, and reading them. Must not: write,
publish manifests (`storage` does both through the few methods at the end), or know a watermark above what is durable.

The newest part is extents inside write-ahead-log files, what is older is segments. The bytes may move from the one to
the other while a read waits: it holds on to the files that it planned with.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field

from bytemq.errors import BytemqError, Corrupt, Invalid, NotFound
from bytemq.protocol.records.batch import RecordBatch
from bytemq.runtime.logging import get_logger
from bytemq.storage.manifests.manifest import FileKind, PartitionSnapshot, SegmentInfo, with_holes
from bytemq.storage.manifests.manifest_codec import StoredManifest
from bytemq.storage.planned_reads import read_planned, read_planned_cached, read_runs
from bytemq.storage.reading import Plan, Read, plan_extents, plan_segment
from bytemq.storage.segments.batch_walk import walk
from bytemq.storage.segments.segment_files import Segment, SegmentCache
from bytemq.storage.segments.segment_limits import SegmentLimits
from bytemq.storage.shared_file import SharedFile
from bytemq.storage.tables.companion import Unit
from bytemq.storage.tables.restored import RestoredUnits
from bytemq.storage.wal.extents import Chunk, ExtentTable
from bytemq.storage.wal.recent import WANTED_CHUNKS, RecentChunks, RecentEnd
from bytemq.types import PartitionId

log = get_logger("storage")


@dataclass(slots=True)
class RecoveredLog:
    """What opening a log found, for its owner to rebuild its state from. Dropped by the owner when it is done."""

    log_start_offset: int
    end_offset: int
    leader_epochs: list[tuple[int, int]]
    snapshot: PartitionSnapshot | None
    headers: list[RecordBatch] = field(default_factory=list)
    """Of the batches from the snapshot's offset on that tell something new, in order; `view` of each holds the header
    alone."""
    first_dirty_offset: int = 0
    """Below it nothing of an aborted transaction is left."""


class Files:
    """What all logs of a session are read from, and the one change that a log's owner asks of its log directly."""

    __slots__ = ("advance_log_start", "recent", "restored", "segment_bytes", "segments", "wal")

    def __init__(
        self,
        segments: SegmentCache,
        restored: RestoredUnits,
        wal: Mapping[int, SharedFile],
        advance_log_start: Callable[[LogFiles, int], Coroutine[None, None, None]],
        segment_bytes: int,
        recent: RecentChunks | None = None,
    ) -> None:
        self.segments = segments
        self.restored = restored
        self.wal = wal
        """Write-ahead-log files by ordinal."""
        self.advance_log_start = advance_log_start
        self.segment_bytes = segment_bytes
        """No segment gets larger, whatever a topic asks for."""
        self.recent = recent
        """Memory for what was just committed; None where the files of the write-ahead log are in memory themselves."""


class LogFiles:
    """See the module's docstring. Offsets are those of records; `end_offset` is the next one to be committed."""

    __slots__ = (
        "_files",
        "_rewriting",
        "deleted",
        "is_coordinators",
        "is_urgent",
        "manifest",
        "partition",
        "pending_entries",
        "recent",
        "recovered",
        "released",
        "revision",
        "rewritten_ms",
        "segment_bytes",
        "segment_ms",
        "snapshot_source",
        "staged_end",
        "stored",
        "taken_back",
        "wal",
    )

    def __init__(self, partition: PartitionId, stored: StoredManifest, revision: int, files: Files) -> None:
        manifest = stored.manifest
        self.partition = partition
        self.manifest = manifest
        self.stored = stored
        """As last published; its snapshot is needed when the next manifest brings no newer one."""
        self.revision = revision
        """Of the manifest in the metadata store; 0 before it was first published."""
        self.wal = ExtentTable(manifest.end_offset)
        self.staged_end = manifest.end_offset
        """Next offset after everything handed to the write-ahead log, durable or not."""
        self.snapshot_source: Callable[[], PartitionSnapshot] | None = None
        self.taken_back: Callable[[BytemqError], None] | None = None
        """Tells the owner that nothing of what is on its way will be durable, before anybody's append is told so."""
        self.recovered: RecoveredLog | None = None
        self.pending_entries: list[bytes | memoryview] = []
        """Batch entries found by recovery, until the log is opened."""
        self.segment_bytes = 0
        """The topic's segment.bytes, and below its segment.ms, as the owner sets them; 0: the storage's own limits."""
        self.segment_ms = 0
        self._rewriting: asyncio.Lock | None = None
        self.rewritten_ms = 0
        """When files were last replaced so, in this session."""
        self.recent: RecentEnd | None = None
        """What memory has of the newest part, while somebody reads at the end."""
        self.deleted = False
        self.released = False
        """Whether it was left to the next owner: this session changes nothing of it any more."""
        self.is_urgent = False
        """Whether clients wait for each write, one after the other, as its owner says."""
        self.is_coordinators = False
        """Whether it is a coordinator's, as its owner says: whoever takes it over reads it whole before anybody is
        answered."""
        self._files = files

    @property
    def rewriting(self) -> asyncio.Lock:
        """Held by who chooses sealed files, has them rewritten and replaces them: what two chose, one did in vain."""
        if self._rewriting is None:
            self._rewriting = asyncio.Lock()
        return self._rewriting

    # What the log is.

    @property
    def log_start_offset(self) -> int:
        return self.manifest.log_start_offset

    @property
    def end_offset(self) -> int:
        return max(self.wal.end_offset, self.manifest.log_start_offset)

    @property
    def segment_limits(self) -> SegmentLimits:
        most_bytes = self._files.segment_bytes
        return SegmentLimits(min(self.segment_bytes or most_bytes, most_bytes), self.segment_ms)

    @property
    def size_bytes(self) -> int:
        return self.wal.size_bytes + sum(segment.size_bytes for segment in self.manifest.segments)

    @property
    def segments(self) -> Sequence[SegmentInfo]:
        """The segments, then the part in the write-ahead log, cut as segments would be: it continues the open one."""
        segments = self.manifest.segments
        if segments and not segments[-1].sealed:
            return [*segments[:-1], *self.segment_limits.cut(self.wal, segments[-1])]
        return [*segments, *self.segment_limits.cut(self.wal, None)]

    # Reading.

    def bytes_between(self, offset: int, end_offset: int, enough_bytes: int) -> int:
        """About how many bytes the records from `offset` to before `end_offset` take, by their number where they are
        part of a file or chunk; what is beyond `enough_bytes` need not be counted.
        """
        table, segments = self.wal, self.manifest.segments
        if len(table) and offset >= table.bases[0]:
            return table.bytes_between(offset, end_offset, enough_bytes)
        size_bytes, number = 0, bisect_right(segments, offset, key=_base_offset) - 1
        while 0 <= number < len(segments) and offset < end_offset and size_bytes < enough_bytes:
            segment = segments[number]
            behind = min(segment.last_offset + 1, end_offset)
            records = segment.last_offset + 1 - segment.base_offset
            size_bytes += segment.size_bytes * max(0, behind - offset) // records
            offset = max(offset, behind)
            number += 1
        if size_bytes < enough_bytes and offset < end_offset:
            size_bytes += table.bytes_between(offset, end_offset, enough_bytes - size_bytes)
        return size_bytes

    def read_cached(self, offset: int, max_bytes: int, end_offset: int, *, at_least_one: bool = True) -> Read | None:
        """As `read`, from the page cache only; None if it would have to wait."""
        end_offset = self._readable_end(offset, end_offset)
        if offset >= end_offset:
            return Read([], 0, offset, offset)
        recent = self.read_in_memory(offset, max_bytes, end_offset)
        if recent is not None:
            return recent
        plan = self._plan(offset, max_bytes, end_offset, verify=False)
        if plan is None:
            return None
        read = read_planned_cached(plan, offset, max_bytes, end_offset, at_least_one)
        if read is None or read.size_bytes or read.next_offset == offset:
            if read is not None and read.next_offset == self.wal.end_offset:
                self._was_read_to_the_end()
            return read
        return self.read_cached(read.next_offset, max_bytes, end_offset, at_least_one=at_least_one)

    async def read(self, offset: int, max_bytes: int, end_offset: int, *, at_least_one: bool = True) -> Read:
        """Whole batches, the first one containing `offset`, none that reaches `end_offset` or beyond.

        Where the cleaner left nothing at `offset`, the first one is the next that it left. At most `max_bytes`, but the
        first batch whatever its size with `at_least_one`. It may be fewer although more are there. Raises NotFound
        below the log start offset and after deletion, Corrupt where stored bytes are damaged, Unavailable.
        """
        while True:
            read = await self._read_at(offset, max_bytes, end_offset, at_least_one)
            if read.size_bytes or read.next_offset == offset:
                return read
            offset = read.next_offset

    async def _read_at(self, offset: int, max_bytes: int, end_offset: int, at_least_one: bool) -> Read:
        """As `read`, from the chunk that `offset` belongs to: there may be nothing in it, and more behind it."""
        end_offset = self._readable_end(offset, end_offset)
        if offset >= end_offset:
            return Read([], 0, offset, offset)
        plan = self._plan(offset, max_bytes, end_offset, verify=True)
        if plan is None:
            await self.open_segment(self._segment_of(offset), offset)
            return await self._read_at(offset, max_bytes, end_offset, at_least_one)
        return await read_planned(plan, offset, max_bytes, end_offset, at_least_one)

    async def behind_damage(self, offset: int) -> int:
        """Where there may be something to read again, when `read` raised Corrupt at `offset`: behind the batch there,
        or, where not even its size can be believed, behind the chunk or the file. Always above `offset`.
        """
        for first, last in self.manifest.holes:
            if first <= offset <= last:
                return last + 1
        try:
            plan = self._plan(offset, 1, self.end_offset, verify=True)
            if plan is None:
                await self.open_segment(self._segment_of(offset), offset)
                plan = self._plan(offset, 1, self.end_offset, verify=True)
        except Corrupt:
            plan = None
        if plan is None:
            behind = (each.last_offset + 1 for each in self.segments if each.last_offset >= offset)
            return next(behind, self.end_offset)
        try:
            [view, *_] = await read_runs(plan.runs)
            for batch in walk(view[: plan.first.size_bytes], verify=False):
                if batch.last_offset >= offset:
                    return min(batch.last_offset + 1, plan.first.next_offset)
        except Corrupt:
            pass
        return plan.first.next_offset

    def read_in_memory(self, offset: int, max_bytes: int, end_offset: int) -> Read | None:
        """As `read`, of what was just committed and need not be copied; None if `offset` is not in it. `end_offset` is
        a committed one.

        What is part of the log still: what was written behind may have been cleaned.
        """
        recent, bases, manifest = self.recent, self.wal.bases, self.manifest
        if recent is None or not bases or offset < bases[0]:
            return None
        if self.deleted or offset < manifest.log_start_offset or manifest.holes:
            return None
        return recent.read(offset, max_bytes, end_offset)

    def _was_read_to_the_end(self) -> None:
        """Whoever did will come again, for what is committed next."""
        if self.recent is not None:
            self.recent.wanted = WANTED_CHUNKS
        elif self._files.recent is not None:
            self.recent = RecentEnd()

    def _readable_end(self, offset: int, end_offset: int) -> int:
        if self.deleted:
            raise NotFound("the log was deleted")
        if offset < self.manifest.log_start_offset:
            raise NotFound(f"offset {offset} is below the log start offset {self.manifest.log_start_offset}")
        end_offset = min(end_offset, self.end_offset)
        for first, last in self.manifest.holes:
            if first <= offset <= last:
                raise Corrupt(f"the bytes of offsets {first}..{last} are lost")
            if offset < first:
                return min(end_offset, first)
        return end_offset

    def _plan(self, offset: int, max_bytes: int, end_offset: int, *, verify: bool) -> Plan | None:
        """None when the segment that holds `offset` is not open, or the unit not restored."""
        if self.wal.bases and offset >= self.wal.bases[0]:
            return plan_extents(self.wal, self._files.wal, offset, max_bytes, end_offset, verify)
        number = self._number_of(offset)
        info = self.manifest.segments[number]
        if info.kind is FileKind.PARQUET:
            segment = self._files.restored.peek(info, offset, self._table_after(number))
        else:
            segment = self._files.segments.peek(info.name)
        if segment is None or offset >= segment.index.next_offset:
            return None
        return plan_segment(segment.index, segment, offset, max_bytes, end_offset, verify)

    def _segment_of(self, offset: int) -> SegmentInfo:
        return self.manifest.segments[self._number_of(offset)]

    def _number_of(self, offset: int) -> int:
        segments = self.manifest.segments
        number = bisect_right(segments, offset, key=_base_offset) - 1
        if number < 0 or offset > segments[number].last_offset:
            raise Corrupt(f"no file holds offset {offset}")
        return number

    def _table_after(self, number: int) -> SegmentInfo | None:
        segments = self.manifest.segments
        following = segments[number + 1] if number + 1 < len(segments) else None
        return following if following is not None and following.kind is FileKind.PARQUET else None

    async def open_segment(self, info: SegmentInfo, offset: int) -> Segment:
        """The segment, or of a Parquet file the unit that answers for `offset`, as a segment."""
        while True:
            try:
                if info.kind is FileKind.PARQUET:
                    return await self._files.restored.get(info, offset)
                return await self._files.segments.get(info)
            except NotFound as error:
                if self.deleted or info.last_offset < self.log_start_offset:
                    raise
                now = self._segment_of(offset)
                if now == info:
                    raise Corrupt(f"the file of offsets {info.base_offset}..{info.last_offset} is missing") from error
                info = now  # it was rewritten meanwhile

    async def units(self, info: SegmentInfo) -> tuple[Unit, ...]:
        """Of a Parquet file."""
        return await self._files.restored.units(info)

    async def bring_near(self, offset: int, size_bytes: int) -> int:
        """Asks at once for the next segments that a reader at `offset` comes to, about so many bytes of them: each
        would be waited for otherwise, when its time comes. Returns where the last of them begins.

        From there on the next ones should be asked for; the end offset when there are none. What cannot be read is
        found by the reader.
        """
        segments = self.manifest.segments
        first = max(bisect_right(segments, offset, key=_base_offset) - 1, 0)
        coming: list[SegmentInfo] = []
        asked_bytes = 0
        for info in segments[first:]:
            if len(coming) > 1 and asked_bytes > size_bytes:
                break
            coming.append(info)
            asked_bytes += info.size_bytes
        outcomes = await asyncio.gather(*map(self._begin, coming), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, BytemqError):
                raise outcome
        return coming[-1].base_offset if first + len(coming) < len(segments) else self.end_offset

    async def _begin(self, info: SegmentInfo) -> None:
        """Opens a segment and reads what it begins with."""
        if info.kind is FileKind.PARQUET:
            return
        segment = await self._files.segments.get(info)
        segment.pin()
        try:
            await segment.read(0, 1)
        finally:
            segment.unpin()

    # What the storage changes. Nobody else calls these.

    def opened(self, segments: Sequence[SegmentInfo]) -> list[SharedFile]:
        """Those of the files that are open, and may be read at this moment; of Parquet files the restored units."""
        found: list[SharedFile] = []
        for info in segments:
            if info.kind is FileKind.PARQUET:
                found.extend(self._files.restored.opened(info.name))
            elif (segment := self._files.segments.peek(info.name)) is not None:
                found.append(segment)
        return found

    def report_hole(self, first: int, last: int) -> None:
        """Offsets that were acknowledged, and whose bytes are not there: whoever asks for them is told so."""
        log.error("acknowledged offsets are lost", partition=self.partition, first=first, last=last)
        self.manifest = with_holes(self.manifest, [(first, last)])

    async def advance_log_start(self, offset: int) -> None:
        """Forgets what is below `offset`, durably when it returns; whole segments below go. Never moves back."""
        if offset > self.end_offset:
            raise Invalid(f"log start offset {offset} is above the end offset {self.end_offset}")
        await self._files.advance_log_start(self, offset)

    def committed(self, chunk: Chunk, batches: Sequence[RecordBatch]) -> None:
        """`chunk` has become the end of the log; its batches are where they were received."""
        if self.recent is not None and self._files.recent is not None:
            self._files.recent.keep(self.recent, chunk, batches)

    def drop_wal_below(self, offset: int) -> None:
        """Extents wholly below `offset` are no longer part of the log."""
        table = self.wal
        if offset >= table.end_offset:
            table.drop_first(len(table))
            table.end_offset = offset
        elif len(table):
            table.drop_first(max(table.find(offset), 0))


def _base_offset(segment: SegmentInfo) -> int:
    return segment.base_offset
