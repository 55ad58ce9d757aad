"""A seeded workload on a LogStorage, and what must be true of the logs after a power cut.

Appends to a few partitions, reads, writes behind, advances log start offsets, deletes logs. `Model` holds what was
handed over and what was acknowledged. Every batch is different, so that equal bytes mean the same batch.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from bytemq.errors import BytemqError, NotFound, Unavailable
from bytemq.protocol.records.batch import RecordBatch, parse_header, split_batches
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.runtime.clock import SystemClock
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.log_files import LogFiles
from bytemq.storage.log_storage import LogStorage
from bytemq.storage.manifests.manifest import PartitionSnapshot, ProducerSnapshot
from bytemq.storage.settings import StorageConfig
from bytemq.types import PartitionId, TopicId
from tests.support.power_cut_store import MemoryMetadata, PowerCutStore

SMALL = StorageConfig(
    wal_file_bytes=4096,
    wal_flush_bytes=1500,
    wal_inline_bytes=600,
    recent_bytes=3000,
    write_behind_step_bytes=1000,
    bulk_bytes=400,
    bulk_share_bytes=400,
    bulk_synced_bytes=400,
    bulk_segment_bytes=900,
    wal_retained_bytes=4 * 4096,
    wal_sync_interval_ms=1,
    segment_bytes=2500,
    chunk_bytes=300,
    manifests_per_transaction=2,
    snapshot_inline_bytes=100,
    reserve_bytes=0,
    open_files=3,
    retry_delay_ms=0,
)
"""Everything so small that files roll, segments are sealed and indexes evicted all the time."""


def partition_id(number: int) -> PartitionId:
    return PartitionId(TopicId(number.to_bytes(16, "big")), number % 3)


@dataclass
class Batch:
    base_offset: int
    next_offset: int
    data: bytes
    sent_crc: int


@dataclass
class Model:
    """One log as it ought to be."""

    partition: PartitionId
    batches: list[Batch] = field(default_factory=list)
    acked_end: int = 0
    log_start: int = 0
    asked_log_start: int = 0
    """A higher log start offset that was asked for, whose answer did not come: it may be in force."""
    deletion_asked: bool = False
    lossy: bool = False
    """The newest batches may be missing, as after a power cut with page-cache durability."""
    exists: bool = False
    """Whether opening it was answered."""

    @property
    def end(self) -> int:
        return self.batches[-1].next_offset if self.batches else 0


def small_batch(chance: random.Random, base_offset: int, epoch: int) -> RecordBatch:
    records = [
        Record(None, chance.randbytes(chance.choice((1, 40, 200, 700)))) for _ in range(chance.choice((1, 1, 2, 5)))
    ]
    timestamp_ms = chance.randrange(1000)
    batch = parse_header(memoryview(build_batch(records, timestamp_ms=timestamp_ms, producer_id=chance.randrange(3))))
    batch.place(base_offset, epoch)
    return batch


class Workload:
    """Runs on one open storage. Stop it by cancelling its tasks."""

    def __init__(
        self, storage: LogStorage, models: dict[PartitionId, Model], chance: random.Random, epoch: int
    ) -> None:
        self.storage = storage
        self.models = models
        self.chance = chance
        self.epoch = epoch
        self.logs: dict[PartitionId, LogFiles] = {}
        self.failed = 0
        self._created = 0

    async def open(self, partition: PartitionId) -> LogFiles:
        model = self.models.setdefault(partition, Model(partition))
        files = await self.storage.open_log(partition, self.epoch)
        model.exists = True
        files.segment_bytes = self.chance.choice((0, 800, 2000))
        files.snapshot_source = lambda: snapshot_of(files)
        self.logs[partition] = files
        return files

    def new_partition(self) -> PartitionId:
        """One that never was before, as topic ids are."""
        self._created += 1
        return partition_id(self.epoch * 1000 + self._created)

    def append(self, files: LogFiles) -> None:
        model = self.models[files.partition]
        count = self.chance.choice((1, 1, 1, 2, 4))
        batches, end = [], model.end
        for _ in range(count):
            batch = small_batch(self.chance, end, self.epoch)
            end = batch.next_offset
            batches.append(batch)
            model.batches.append(Batch(batch.base_offset, end, bytes(batch.view), batch.sent_crc))

        def on_durable(error: BytemqError | None) -> None:
            if error is not None:
                self.failed += 1
                model.batches = [one for one in model.batches if one.next_offset <= model.acked_end]
                return
            assert model.acked_end == batches[0].base_offset, "acknowledged out of order"
            model.acked_end = end
            assert files.end_offset >= end, "acknowledged before it is readable"
            shown = {id(kept.view) for kept in files.recent.chunks.values()} if files.recent is not None else ()
            for batch in batches:
                if id(batch.view) not in shown:
                    batch.view[:] = bytes(len(batch.view))  # the buffer is the appender's again

        self.storage.append(files, batches, on_durable)

    async def run(self, actions: int) -> None:
        for _ in range(actions):
            await self._act()
            for _ in range(self.chance.randrange(4)):
                await asyncio.sleep(0)

    async def _act(self) -> None:
        files = self.logs[self.chance.choice(sorted(self.logs))]
        model = self.models[files.partition]
        action = self.chance.random()
        if action < 0.70:
            self.append(files)
        elif action < 0.85:
            await check_read(files, model, self.chance)
        elif action < 0.90:
            await attempted(self.storage.checkpoint())
        elif action < 0.95 and model.acked_end:
            offset = self.chance.randrange(model.acked_end + 1)
            model.asked_log_start = max(model.asked_log_start, offset)
            if await attempted(files.advance_log_start(offset)):
                model.log_start = max(model.log_start, offset)
        elif action < 0.96 and len(self.logs) > 1 and model.acked_end == model.end:
            model.deletion_asked = True
            del self.logs[files.partition]
            while not await attempted(self.storage.delete_log(files.partition)):
                pass
            del self.models[files.partition]
            new = self.new_partition()
            while not await attempted(self.open(new)):
                pass


async def until(condition: Callable[[], object]) -> None:
    """Lets the event loop turn until the condition holds; fails when it never does."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


async def attempted(awaitable: object) -> bool:
    """Whether it succeeded; with faults about, it may be Unavailable."""
    try:
        await awaitable
    except Unavailable:
        return False
    return True


def snapshot_of(files: LogFiles) -> PartitionSnapshot:
    producers = [ProducerSnapshot(7, 1, -1, 5, [(0, 1, 2, 3, 4, 5)], None)] * (files.end_offset % 4)
    return PartitionSnapshot(files.end_offset, [(0, 0)], producers)


async def check_read(files: LogFiles, model: Model, chance: random.Random) -> None:
    """A read of a committed range returns exactly its bytes."""
    start, end = files.log_start_offset, files.end_offset
    if start >= end:
        return
    offset, limit = chance.randrange(start, end), chance.randrange(start, end + 1)
    max_bytes = chance.choice((1, 100, 1000, 100_000))
    known = list(model.batches)
    read = files.read_cached(offset, max_bytes, limit) if chance.random() < 0.5 else None
    try:
        read = read or await files.read(offset, max_bytes, limit)
    except NotFound:
        assert files.log_start_offset > offset or files.deleted
        return
    except Unavailable:
        return
    expected = [one for one in known if one.next_offset > offset and one.next_offset <= limit]
    data = b"".join(read.buffers)
    assert len(data) == read.size_bytes
    if not data:
        assert not expected or expected[0].base_offset > offset, f"nothing read at {offset} below {limit}"
        return
    assert read.base_offset == expected[0].base_offset
    whole = b"".join(one.data for one in expected if one.next_offset <= read.next_offset)
    assert data == whole
    assert len(data) <= max_bytes or len(data) == len(expected[0].data)


async def check_recovered(files: LogFiles, model: Model) -> None:
    """Every acknowledged batch is there, dense, once; adopts as acknowledged what else survived."""
    recovered = files.recovered
    assert recovered is not None
    end, start = files.end_offset, files.log_start_offset
    assert not files.manifest.holes
    assert (model.lossy or model.acked_end <= end) and end <= model.end, (
        f"acknowledged {model.acked_end}, handed over {model.end}, found {end}"
    )
    assert (model.lossy or model.log_start <= start) and start <= max(model.asked_log_start, model.log_start)
    model.batches = [one for one in model.batches if one.next_offset <= end]
    assert model.end == end or not model.batches, "the log ends inside a batch"
    model.acked_end, model.log_start, model.lossy = end, start, False
    assert (recovered.log_start_offset, recovered.end_offset) == (start, end)
    offset = start
    for expected in (one for one in model.batches if one.next_offset > start):
        read = await files.read(offset, 1, end)
        data = b"".join(read.buffers)
        assert data == expected.data, f"{files.partition}: wrong bytes at {offset}"
        assert len(split_batches(memoryview(data))) == 1
        offset = read.next_offset
    assert offset == end
    assert files.size_bytes >= sum(len(one.data) for one in model.batches if one.base_offset >= start)
    known = recovered.snapshot.offset if recovered.snapshot is not None else 0
    headers = [(header.base_offset, header.sent_crc) for header in recovered.headers]
    wanted = [(one.base_offset, one.sent_crc) for one in model.batches if one.next_offset > max(known, start)]
    assert headers[-len(wanted) or len(headers) :] == wanted, "headers after the snapshot are missing"
    assert known <= end


async def opened(
    store: PowerCutStore, metadata: MemoryMetadata, session_id: int, durability: str = "fsync", **changes: int
) -> LogStorage:
    return await LogStorage.open(
        store,
        metadata,
        session_id=session_id,
        config=replace(SMALL, **changes),
        clock=SystemClock(),
        supervisor=Supervisor(SystemClock(), lambda name, error: None),
        durability=durability,  # type: ignore[arg-type]
    )
