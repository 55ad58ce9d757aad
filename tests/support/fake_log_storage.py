"""A log storage in memory with the face of `bytemq.storage.log_storage`: what the log's tests and simulation run on.

`Disk` is what survives a crash. `FakeLogStorage` is one session over it: appends wait in `in_flight` until the test
says `settle` or `fail`; a snapshot is taken when it says `checkpoint`.
"""

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bytemq.errors import BytemqError, Corrupt, NotFound, Unavailable
from bytemq.protocol.records.batch import HEADER_BYTES, RecordBatch, parse_header
from bytemq.storage.log_files import RecoveredLog
from bytemq.storage.manifests.manifest import Manifest, PartitionSnapshot, SegmentInfo
from bytemq.storage.reading import Read
from bytemq.storage.wal.extents import Chunk, ExtentTable
from bytemq.types import PartitionId

OnDurable = Callable[[BytemqError | None], None]


class StoredBatch(NamedTuple):
    data: bytes
    sent_crc: int

    def parsed(self) -> RecordBatch:
        batch = parse_header(memoryview(self.data))
        batch.sent_crc = self.sent_crc
        return batch


@dataclass
class StoredLog:
    """What the disk knows of one partition."""

    batches: list[RecordBatch] = field(default_factory=list)
    headers: list[RecordBatch] = field(default_factory=list)
    """Since the snapshot: as the write-ahead log's index, they outlive deleted records."""
    log_start_offset: int = 0
    snapshot: PartitionSnapshot | None = None
    leader_epochs: list[tuple[int, int]] = field(default_factory=list)

    @property
    def end_offset(self) -> int:
        return self.batches[-1].next_offset if self.batches else self.log_start_offset

    @property
    def segments(self) -> Sequence[SegmentInfo]:
        """One batch, one segment: retention then cuts where a test wants."""
        return [
            SegmentInfo(batch.base_offset, batch.last_offset, batch.size_bytes, batch.max_timestamp, 0, "segment", True)
            for batch in self.batches
        ]


class Disk:
    def __init__(self) -> None:
        self.logs: dict[PartitionId, StoredLog] = {}


class Flight(NamedTuple):
    log: "FakeLogFiles"
    batches: list[StoredBatch]
    on_durable: OnDurable


class FakeLogFiles:
    """The face of `LogFiles`. Set `cached` to False to make `read_cached` say that it would block, `in_memory` to True
    to let reads cost no copy.
    """

    def __init__(self, storage: "FakeLogStorage", partition: PartitionId, stored: StoredLog) -> None:
        self.partition = partition
        self.stored = stored
        self.staged_end = stored.end_offset
        self.taken_back: Callable[[BytemqError], None] | None = None
        self.snapshot_source: Callable[[], PartitionSnapshot] | None = None
        self.segment_bytes = 0
        self.segment_ms = 0
        self.cached = True
        self.in_memory = False
        self.read_error: BytemqError | None = None
        self._storage = storage
        self.recovered: RecoveredLog | None = RecoveredLog(
            stored.log_start_offset,
            stored.end_offset,
            list(stored.leader_epochs),
            stored.snapshot,
            list(stored.headers),
        )

    @property
    def log_start_offset(self) -> int:
        return self.stored.log_start_offset

    @property
    def end_offset(self) -> int:
        return self.stored.end_offset

    @property
    def size_bytes(self) -> int:
        return sum(batch.size_bytes for batch in self.stored.batches)

    @property
    def segments(self) -> Sequence[SegmentInfo]:
        return self.stored.segments

    manifest = Manifest(leader_epoch=-1)
    """As far as what searches the log is told: all of it is in the write-ahead log, one batch a chunk."""

    @property
    def wal(self) -> ExtentTable:
        table = ExtentTable(self.log_start_offset)
        for batch in self.stored.batches:
            chunk = Chunk(batch.base_offset, batch.next_offset, 0, batch.size_bytes, batch.max_timestamp)
            table.append(chunk, 0, 0, verified=True)
        return table

    def bytes_between(self, offset: int, end_offset: int, enough_bytes: int) -> int:
        return sum(batch.size_bytes for batch in self._between(offset, end_offset))

    def read_cached(self, offset: int, max_bytes: int, end_offset: int, *, at_least_one: bool = True) -> Read | None:
        return self._read(offset, max_bytes, end_offset, at_least_one) if self.cached else None

    def read_in_memory(self, offset: int, max_bytes: int, end_offset: int) -> Read | None:
        return self._read(offset, max_bytes, end_offset, False) if self.in_memory else None

    async def bring_near(self, offset: int, size_bytes: int) -> int:
        return self.end_offset

    async def read(self, offset: int, max_bytes: int, end_offset: int, *, at_least_one: bool = True) -> Read:
        await self._storage.wait()
        return self._read(offset, max_bytes, end_offset, at_least_one)

    def _read(self, offset: int, max_bytes: int, end_offset: int, at_least_one: bool) -> Read:
        if self.read_error is not None:
            raise self.read_error
        if offset < self.log_start_offset:
            raise NotFound(f"offset {offset} is below the log start")
        chosen: list[memoryview] = []
        size_bytes, next_offset = 0, offset
        for batch in self.stored.batches:
            if batch.next_offset <= offset:
                continue
            if batch.next_offset > end_offset:
                break
            if size_bytes + batch.size_bytes > max_bytes and not (at_least_one and not chosen):
                break
            chosen.append(batch.view)
            size_bytes += batch.size_bytes
            next_offset = batch.next_offset
        return Read(chosen, size_bytes, offset, next_offset)

    def _between(self, start_offset: int, end_offset: int) -> list[RecordBatch]:
        start = max(start_offset, self.log_start_offset)
        return [b for b in self.stored.batches if b.next_offset <= end_offset and b.last_offset >= start]

    async def advance_log_start(self, offset: int) -> None:
        await self._storage.wait()
        assert offset >= self.stored.log_start_offset, "the log start offset must not go back"
        self.stored.log_start_offset = offset
        self.stored.batches = [batch for batch in self.stored.batches if batch.last_offset >= offset]


class FakeLogStorage:
    """The face of `LogStorage`, one session."""

    followed = None
    healthy = None
    wal_bytes = 0
    pool_states: Mapping[str, str] = {}

    def __init__(self, disk: Disk | None = None) -> None:
        self.disk = disk or Disk()
        self.in_flight: deque[Flight] = deque()
        self.open_error: BytemqError | None = None
        self.append_error: BytemqError | None = None
        self.opened = 0

    async def wait(self) -> None:
        """Where the real storage would wait for the disk; the simulation makes it take time and fail."""

    async def open_log(self, pid: PartitionId, leader_epoch: int, *, least_end_offset: int = -1) -> FakeLogFiles:
        await self.wait()
        if self.open_error is not None:
            raise self.open_error
        if self.disk.logs.setdefault(pid, StoredLog()).end_offset < least_end_offset:
            raise Corrupt("acknowledged records are missing")
        self.opened += 1
        return FakeLogFiles(self, pid, self.disk.logs.setdefault(pid, StoredLog()))

    def append(self, log: FakeLogFiles, batches: Sequence[RecordBatch], on_durable: OnDurable) -> None:
        kept = [StoredBatch(bytes(batch.view), batch.sent_crc) for batch in batches]
        assert batches[0].base_offset == log.staged_end, "a batch is placed at the next offset"
        log.staged_end = batches[-1].next_offset
        self.in_flight.append(Flight(log, kept, on_durable))

    def append_all(self, appends: Sequence[tuple[FakeLogFiles, Sequence[RecordBatch], OnDurable]]) -> None:
        for log, batches, on_durable in appends:
            self.append(log, batches, on_durable)

    def hasten(self) -> None:
        return None

    async def look_ahead(self, session_id: int) -> None:
        return None

    async def release_log(self, partition: PartitionId) -> None:
        return None

    async def delete_log(self, pid: PartitionId) -> None:
        await self.wait()
        self.disk.logs.pop(pid, None)

    held_logs: Collection[PartitionId] = ()

    async def segments_of(self, pid: PartitionId) -> Sequence[SegmentInfo]:
        stored = self.disk.logs.get(pid)
        return stored.segments if stored is not None else ()

    def settle(self, count: int | None = None) -> None:
        """The oldest `count` appends (all, if None) become durable."""
        for _ in range(len(self.in_flight) if count is None else count):
            flight = self.in_flight.popleft()
            self.persist(flight)
            flight.on_durable(None)

    def persist(self, flight: Flight) -> None:
        stored = flight.log.stored
        for kept in flight.batches:
            batch = kept.parsed()
            assert batch.base_offset == stored.end_offset, "appends must be dense and in order"
            stored.batches.append(batch)
            stored.headers.append(_header_only(batch))

    def fail(self, error: BytemqError | None = None) -> None:
        """Everything in flight fails, reported in order."""
        failed, self.in_flight = self.in_flight, deque()
        fail_together(failed, error or Unavailable("the disk is away"))

    def checkpoint(self, log: FakeLogFiles) -> None:
        """Take the owner's snapshot, as a checkpoint of the real storage does; it must describe the committed end."""
        assert log.snapshot_source is not None
        snapshot = log.snapshot_source()
        assert snapshot.offset == log.end_offset, "a snapshot describes exactly the committed end"
        log.stored.snapshot = snapshot
        log.stored.headers = [header for header in log.stored.headers if header.base_offset >= snapshot.offset]


def fail_together(failed: Collection[Flight], error: BytemqError) -> None:
    """All are taken back before anyone is told."""
    for log in {flight.log: None for flight in failed}:
        log.staged_end = log.end_offset
        if log.taken_back is not None:
            log.taken_back(error)
    for flight in failed:
        flight.on_durable(error)


def _header_only(batch: RecordBatch) -> RecordBatch:
    header = parse_header(memoryview(bytes(batch.view[:HEADER_BYTES])), header_only=True)
    header.sent_crc = batch.sent_crc
    return header
