"""One storage on a store in memory, with the moves that tests make."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from bytemq.errors import BytemqError
from bytemq.protocol.records.batch import RecordBatch, parse_header
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.runtime.clock import SystemClock
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.log_files import LogFiles
from bytemq.storage.log_storage import LogStorage
from bytemq.storage.manifests.manifest_codec import names_of
from bytemq.storage.settings import Durability, StorageConfig
from bytemq.storage.tables.restored import Restorer
from bytemq.types import PartitionId, TopicId
from tests.support.log_workload import until
from tests.support.power_cut_store import MemoryMetadata, Power, PowerCutStore

CONFIG = StorageConfig(
    wal_file_bytes=16 * 1024,
    wal_flush_bytes=4096,
    wal_retained_bytes=1 << 30,
    segment_bytes=8 * 1024,
    chunk_bytes=1024,
    table_grace_ms=0,
    reserve_bytes=0,
    retry_delay_ms=0,
)


def pid(number: int) -> PartitionId:
    return PartitionId(TopicId(number.to_bytes(16, "big")), 0)


def batch_at(
    offset: int, value: bytes = b"value", *, timestamp_ms: int = 1000, epoch: int = 1, **fields: int
) -> RecordBatch:
    batch = parse_header(memoryview(build_batch([Record(None, value)], timestamp_ms=timestamp_ms, **fields)))  # type: ignore[arg-type]
    batch.place(offset, epoch)
    return batch


class Bench:
    def __init__(self) -> None:
        self.power = Power(1)
        self.power.random.randrange = lambda *_: 1  # type: ignore[method-assign]  # every call takes one turn
        self.store = PowerCutStore(self.power)
        self.metadata = MemoryMetadata(self.power)
        self.session = 0
        self.storage: LogStorage | None = None
        self.restorer: Restorer | None = None
        self.answers: list[tuple[int, BytemqError | None]] = []
        self.supervisor = Supervisor(SystemClock(), lambda name, error: self.fatal.append((name, error)))
        self.fatal: list[tuple[str, BaseException]] = []

    async def start(self, durability: Durability = "fsync", *, first_sequence: int = 1, **changes: int) -> LogStorage:
        self.session += 1
        self.storage = await LogStorage.open(
            self.store,
            self.metadata,
            session_id=self.session,
            config=replace(CONFIG, **changes),
            clock=SystemClock(),
            supervisor=self.supervisor,
            durability=durability,
            restorer=self.restorer,
            first_sequence=first_sequence,
        )
        return self.storage

    async def log(self, number: int = 1) -> LogFiles:
        assert self.storage is not None
        return await self.storage.open_log(pid(number), self.session)

    def append(self, log: LogFiles, *values: bytes, timestamp_ms: int = 1000) -> list[RecordBatch]:
        """Stages one append with a batch for each value."""
        assert self.storage is not None
        start = log.staged_end
        batches = [
            batch_at(
                start + n,
                value,
                timestamp_ms=timestamp_ms + n,
                producer_id=1,
                producer_epoch=0,
                base_sequence=start + n,
            )
            for n, value in enumerate(values)
        ]
        self.storage.append(log, batches, lambda error: self.answers.append((start, error)))
        return batches

    async def settle(self) -> None:
        """Returns when nothing is pending."""
        storage = self.storage
        assert storage is not None
        await until(lambda: not storage.pending_bytes)

    async def write(self, log: LogFiles, *values: bytes, timestamp_ms: int = 1000) -> bytes:
        """Appends durably; returns the bytes."""
        batches = self.append(log, *values, timestamp_ms=timestamp_ms)
        await self.settle()
        return b"".join(bytes(batch.view) for batch in batches)

    async def stop(self) -> None:
        if self.storage is not None:
            storage, self.storage = self.storage, None
            await storage.close()

    async def kill(self, *, power_cut: bool = False) -> None:
        """Ends the process without any goodbye."""
        assert self.storage is not None
        self.storage = None
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)
        self.store = self.store.after_power_cut(self.power) if power_cut else self.store.after_kill(self.power)
        self.metadata = self.metadata.after_power_cut(self.power)

    def names(self, part: str) -> list[str]:
        return [name for name in self.store.names() if part in name]

    def named(self, partition: PartitionId) -> list[str]:
        """The objects that the log's manifest names."""
        assert self.storage is not None
        return names_of(self.storage._logs[partition].stored)


async def content(log: LogFiles) -> bytes:
    """Everything in the log, read piece by piece."""
    parts: list[bytes] = []
    offset = log.log_start_offset
    while offset < log.end_offset:
        read = await log.read(offset, 3000, log.end_offset)
        parts.extend(bytes(buffer) for buffer in read.buffers)
        offset = read.next_offset
    return b"".join(parts)
