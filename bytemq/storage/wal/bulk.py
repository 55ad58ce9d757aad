"""Bulk files: segments to be, which what flows is written to directly, once and for all.

Owns: which shares go there, the files' names, space and life until they are segments of a manifest or gone. Must not:
commit (the write-ahead log does, with a head that refers to the bytes), or publish.

A bulk file belongs to one log, begins with a share and takes what follows in the log without a gap, so that its bytes
are those of a segment. It ends when it is full, when a share goes into the write-ahead log instead, or when it is
written behind: a footer and a manifest then make a segment of it. One that is not worth a segment, or not certain, is
copied as the write-ahead log is. Wherever there is doubt (no file ready, small shares, a failure), a share goes into
the write-ahead log: that is always right, and only costs a second write. What is worth a file: ADR 101.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from bytemq.errors import BytemqError, Full, Unavailable
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.log_files import LogFiles
from bytemq.storage.manifests.manifest import SegmentInfo
from bytemq.storage.manifests.manifest_codec import directory_of
from bytemq.storage.object_names import ObjectNames
from bytemq.storage.settings import Durability, StorageConfig
from bytemq.storage.shared_file import HolderFile
from bytemq.storage.stores.interface import AppendFile, Buffer, ReadFile, Store
from bytemq.storage.wal.bulk_flows import BulkFlows
from bytemq.storage.wal.extents import Chunk
from bytemq.storage.wal.format import Reference
from bytemq.storage.wal.staging import Flush
from bytemq.storage.wal.wal_files import WalFiles

log = get_logger("storage.bulk")

Write = tuple[AppendFile, Sequence[Buffer], int]
"""File, buffers, position."""

SMALL_IN_A_ROW = 8
"""So many flushes with little of a log end its bulk file: a system call each is too much for little."""


CONCURRENT_MAKES = 2
"""A thousand logs may begin to flow at once, and the next file of the write-ahead log is made by the same threads."""


class BulkFile(HolderFile):
    """One bulk file. `chunks` are the committed ones with their checksums, from position 0 without a gap."""

    __slots__ = (
        "base_offset",
        "chunks",
        "created_ms",
        "end_position",
        "in_flight",
        "is_ended",
        "is_own",
        "log",
        "next_offset",
        "small_in_a_row",
    )

    def __init__(self, file: ReadFile, ordinal: int, files: LogFiles, created_ms: int, *, is_own: bool) -> None:
        super().__init__(file, ordinal)
        self.log = files
        self.created_ms = created_ms
        self.is_own = is_own
        """Written by this session: what it holds is known to be what was sent."""
        self.base_offset = self.next_offset = -1
        self.chunks: list[tuple[Chunk, int]] = []
        self.end_position = 0
        self.in_flight = False
        """Whether a flush is being written that refers to it."""
        self.is_ended = not is_own
        self.small_in_a_row = 0

    def commit(self, chunk: Chunk, checksum: int, sequence: int) -> None:
        if not self.chunks:
            self.base_offset, self.first_sequence = chunk.base_offset, sequence
            if chunk.max_timestamp >= 0:
                self.created_ms = chunk.max_timestamp
        elif self.is_own:
            assert (chunk.base_offset, chunk.position) == (self.next_offset, self.end_position)
        self.chunks.append((chunk, checksum))
        self.next_offset = chunk.next_offset
        self.end_position = chunk.position + chunk.size_bytes

    def info(self) -> SegmentInfo:
        """As a segment."""
        newest = max(chunk.max_timestamp for chunk, _ in self.chunks)
        last_offset = self.next_offset - 1
        return SegmentInfo(self.base_offset, last_offset, self.end_position, newest, self.created_ms, self.file.name)


class Placed(NamedTuple):
    """What of a flush goes to one bulk file: the shares from `first` to before `behind`, from the file's end on."""

    bulk: BulkFile
    first: int
    behind: int


class BulkFiles:
    """See the module's docstring. `on_ended` is called when files have ended that should become segments soon."""

    def __init__(
        self,
        store: Store,
        wal_files: WalFiles,
        names: ObjectNames,
        config: StorageConfig,
        clock: Clock,
        durability: Durability,
        discard: Callable[[Sequence[str]], None],
        on_ended: Callable[[], None],
        supervisor: Supervisor,
    ) -> None:
        self._store = store
        self._wal_files = wal_files
        self._names = names
        self._config = config
        self._clock = clock
        self._synced = durability == "fsync"
        self._least_bytes = config.bulk_synced_bytes if self._synced else config.bulk_share_bytes
        self._least_flow = 0 if self._synced else config.bulk_bytes
        self._flows = BulkFlows(config.wal_sync_interval_ms / 1000, clock)
        self._looked_for_idle = -1
        """In which interval."""
        self._some_ended = False
        """Since it was looked whether those that have ended are many."""
        self._discard = discard
        self._on_ended = on_ended
        self._supervisor = supervisor
        self._retry_at = 0.0
        """Until then no file is made, since one could not be; 0: they can be."""
        self._active: dict[LogFiles, BulkFile] = {}
        self._prepared: dict[LogFiles, BulkFile | None] = {}
        """The next file of a log; None while it is being made."""
        self._making = asyncio.Semaphore(CONCURRENT_MAKES)
        self._tasks: set[asyncio.Task[object]] = set()
        self.live: dict[int, BulkFile] = {}
        """Those that extents refer to, and those being filled, by ordinal."""
        self._by_log: dict[LogFiles, list[BulkFile]] = {}
        """The same."""

    # Placing the shares of a flush.

    def place(self, flush: Flush) -> list[Placed]:
        """What of the flush is written to bulk files. Nothing is promised: `give_up` takes it back."""
        if not self._active and flush.size_bytes < self._least_bytes:
            return []
        if self._flows.turn() and self._active:
            self._begin("bulk-space", self._leave_the_reserve_alone())
        placed = []
        first = 0
        while first < len(flush.logs):
            files, behind, size_bytes, newest = flush.logs[first], first, 0, -1
            while behind < len(flush.logs) and flush.logs[behind] is files:
                size_bytes += flush.shares[behind].size_bytes
                newest = max(newest, flush.shares[behind].max_timestamp)
                behind += 1
            bulk = self._file_for(files, size_bytes, newest)
            if bulk is not None:
                placed.append(Placed(bulk, first, behind))
            first = behind
        if self._some_ended:
            self._some_ended = False
            if self.has_much_ended:
                self._on_ended()
        return placed

    def _file_for(self, files: LogFiles, size_bytes: int, newest: int) -> BulkFile | None:
        bulk = self._active.get(files)
        is_large = self._flows.add(files, size_bytes) >= self._least_flow and size_bytes >= self._least_bytes
        if bulk is not None:
            bulk.small_in_a_row = 0 if is_large else bulk.small_in_a_row + 1
            if self._takes(bulk, size_bytes, newest):
                if 2 * bulk.end_position > files.segment_limits.most_bytes:
                    self._prepare(files)
                return bulk
            self.end(bulk)
        if not is_large or size_bytes > files.segment_limits.most_bytes or files.deleted:
            return None
        bulk = self._prepared.get(files)
        if bulk is None:
            self._prepare(files)
            return None
        del self._prepared[files]
        bulk.created_ms = self._clock.wall_ms()
        self._active[files] = bulk
        return bulk

    def _takes(self, bulk: BulkFile, size_bytes: int, newest: int) -> bool:
        """Whether what is at hand goes into the file, too."""
        if bulk.is_doubtful or bulk.small_in_a_row >= SMALL_IN_A_ROW:
            return False
        if bulk.end_position + size_bytes > bulk.log.segment_limits.most_bytes:
            return False
        so_far = SegmentInfo(0, 0, bulk.end_position, -1, bulk.created_ms)
        return not bulk.end_position or not bulk.log.segment_limits.rolls(so_far, Chunk(0, 0, 0, size_bytes, newest))

    def _prepare(self, files: LogFiles) -> None:
        """Makes the next file of a log ready."""
        if files in self._prepared or self._clock.monotonic() < self._retry_at or not self._has_room():
            return
        self._prepared[files] = None
        name = self._names.name(directory_of(files.partition), files.staged_end, "-b.log")
        self._begin("bulk-prepare", self._make(files, name))

    def _begin(self, name: str, work: Coroutine[None, None, None]) -> None:
        task = self._supervisor.start(name, work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _has_room(self) -> bool:
        """For one more file. Those of logs that nothing comes of any more make room: looked for once an interval."""
        if self._is_full() and self._looked_for_idle != self._flows.intervals:
            self._looked_for_idle = self._flows.intervals
            for bulk in self._to_be_filled():
                if self._flows.is_idle(bulk.log):
                    self.end(bulk)
        return not self._is_full()

    def _is_full(self) -> bool:
        """Those that have ended are open until they are written behind: there may be as many again."""
        most = self._config.bulk_files
        return len(self._active) + len(self._prepared) >= most or len(self.live) >= 2 * most

    def _to_be_filled(self) -> list[BulkFile]:
        return [*self._active.values(), *(bulk for bulk in self._prepared.values() if bulk is not None)]

    async def _make(self, files: LogFiles, name: str) -> None:
        try:
            async with self._making:
                if not await self._has_space():
                    raise Full("no space for another file of bulk")
                file = await self._store.create_append(name, urgent=True)
        except BytemqError as error:
            del self._prepared[files]  # the write-ahead log takes what comes
            if not self._retry_at:
                log.warning("no file for bulk could be made", file=name, reason=str(error))
            self._retry_at = self._clock.monotonic() + self._config.retry_delay_ms / 1000
            return
        self._retry_at = 0.0
        bulk = BulkFile(file, self._wal_files.next_ordinal(), files, 0, is_own=True)
        self._prepared[files] = bulk
        self._register(bulk)

    async def _has_space(self) -> bool:
        """For what the files that are being filled, or are about to be, may take until it is looked the next time."""
        filled = (len(self._active) + len(self._prepared)) * self._config.segment_bytes
        promised = min(filled, self._config.wal_retained_bytes)
        return await self._store.free_bytes() >= promised + self._config.reserve_bytes

    async def _leave_the_reserve_alone(self) -> None:
        """Files grow as they are filled. Where that could take what is held back, the write-ahead log takes the rest:
        it knows when it is full."""
        with suppress(Unavailable):
            if not await self._has_space():
                for bulk in self._to_be_filled():
                    self.end(bulk)

    def _register(self, bulk: BulkFile) -> None:
        self.live[bulk.ordinal] = bulk
        self._by_log.setdefault(bulk.log, []).append(bulk)
        self._wal_files.by_ordinal[bulk.ordinal] = bulk

    def _unregister(self, bulk: BulkFile) -> None:
        del self.live[bulk.ordinal]
        del self._wal_files.by_ordinal[bulk.ordinal]
        of_log = self._by_log[bulk.log]
        of_log.remove(bulk)
        if not of_log:
            del self._by_log[bulk.log]

    # Writing and committing.

    async def write(self, placed: Sequence[Placed], flush: Flush, *also: Write) -> None:
        """Writes what was placed, then what is `also` to be written; with fsync it is durable when this returns."""
        await self._store.write_all([*_writes(placed, flush), *also], sync=self._synced)

    def write_now(self, placed: Sequence[Placed], flush: Flush, also: Write) -> None:
        """As `write`, into the page cache, on the loop."""
        for file, data, position in _writes(placed, flush):
            file.write_now(data, position)
        file, data, position = also
        file.write_now(data, position)

    def hold(self, placed: Sequence[Placed]) -> None:
        """Keeps the files open until `let_go`: until the flush is decided."""
        for one in placed:
            one.bulk.in_flight = True

    def let_go(self, placed: Sequence[Placed]) -> None:
        for one in placed:
            one.bulk.in_flight = False

    def give_up(self, placed: Sequence[Placed]) -> None:
        """It could not be written: what is behind the committed part of these files is nothing."""
        for one in placed:
            self.end(one.bulk)

    def end(self, bulk: BulkFile) -> None:
        """Nothing more is placed in the file. The flush in flight may still commit to it."""
        if not bulk.is_ended:
            bulk.is_ended = self._some_ended = True
            for those in (self._active, self._prepared):
                if those.get(bulk.log) is bulk:
                    del those[bulk.log]

    @property
    def has_much_ended(self) -> bool:
        """Whether files that have ended should become segments: by what is in them, or since each is open."""
        ended = [bulk for bulk in self.live.values() if bulk.is_ended]
        size_bytes = sum(bulk.end_position for bulk in ended if bulk.is_own)
        return size_bytes >= self._config.wal_retained_bytes // 2 or len(ended) >= self._config.bulk_files

    # Recovery and write-behind.

    def adopted(self, file: ReadFile, files: LogFiles) -> BulkFile:
        """A file that an earlier session has written to: it is read from, and copied."""
        for bulk in reversed(self._by_log.get(files, ())):  # the last one, unless this is another
            if bulk.file is file:
                return bulk
        bulk = BulkFile(file, self._wal_files.next_ordinal(), files, 0, is_own=False)
        self._register(bulk)
        return bulk

    async def settle_recovered(self, opened: Iterable[AppendFile]) -> None:
        """After a kill the kernel has what was written; what is served from now on must survive a power cut too."""
        adopted = {id(bulk.file) for bulk in self.live.values()}
        for file in opened:
            if id(file) in adopted:
                await file.sync()
            else:
                await file.close()  # of a torn tail

    def of_log(self, files: LogFiles) -> list[BulkFile]:
        """Those with committed bytes, in the order of offsets."""
        found = [bulk for bulk in self._by_log.get(files, ()) if bulk.chunks]
        return sorted(found, key=_base_offset)

    def whole_files(self, files: LogFiles, count: int) -> int:
        """How many leading chunks of the log may be written behind if `count` shall be: a bulk file goes as a whole.

        Ends those that it comes to. Files that have ended go, too; one that a flush is being written to stays for the
        next time, and what is behind it.
        """
        table = files.wal
        for bulk in self.of_log(files):
            first = max(table.find(bulk.base_offset), 0)
            if bulk.is_ended or first < count:
                self.end(bulk)
                if bulk.in_flight:
                    return min(count, first)
                count = max(count, table.find(bulk.next_offset - 1) + 1)
        return count

    def holding(self, files: LogFiles, offset: int) -> BulkFile | None:
        """The bulk file that has the offset, or the first one after it."""
        return next((bulk for bulk in self.of_log(files) if bulk.next_offset > offset), None)

    def is_worth_a_segment(self, bulk: BulkFile) -> bool:
        return bulk.is_own and not bulk.is_doubtful and bulk.end_position >= self._config.bulk_segment_bytes

    async def release(self) -> None:
        """Lets go of the files that no extent refers to any more: segments by now, copied, or of a log that is gone."""
        for bulk in list(self.live.values()):
            if bulk.ordinal in self.live and self._is_over(bulk):
                self._unregister(bulk)
                await self._close(bulk, bulk.log)

    def _is_over(self, bulk: BulkFile) -> bool:
        files = bulk.log
        if files.deleted or (bulk.chunks and bulk.next_offset <= files.log_start_offset and not bulk.in_flight):
            self.end(bulk)
        if bulk.in_flight or not bulk.is_ended or files.revision < 0:
            return False  # a manifest of unknown outcome may name it
        first_needed = files.wal.bases[0] if len(files.wal) else files.wal.end_offset
        return files.deleted or bulk.next_offset <= first_needed

    async def _close(self, bulk: BulkFile, files: LogFiles) -> None:
        await bulk.unpinned()
        await bulk.file.close()
        if files.deleted or all(segment.name != bulk.file.name for segment in files.manifest.segments):
            self._discard([bulk.file.name])

    async def close(self) -> None:
        """Closes all files; those that nothing was written to go."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        for bulk in self.live.values():
            await bulk.unpinned()
            await bulk.file.close()
        unused = [bulk.file.name for bulk in self.live.values() if bulk.is_own and not bulk.chunks]
        if unused:
            self._discard(unused)


def _writes(placed: Sequence[Placed], flush: Flush) -> Iterator[Write]:
    for bulk, first, behind in placed:
        buffers = [batch.view for share in flush.shares[first:behind] for batch in share.batches]
        yield bulk.writable, buffers, bulk.end_position


def references(placed: Sequence[Placed], flush: Flush) -> dict[int, Reference]:
    """Where the shares are that a flush does not hold itself, by their number."""
    found = {}
    for bulk, first, behind in placed:
        position = bulk.end_position
        for number in range(first, behind):
            found[number] = Reference(bulk.file.name, position)
            position += flush.shares[number].size_bytes
    return found


def _base_offset(bulk: BulkFile) -> int:
    return bulk.base_offset
