"""A partition of a compacted topic on a real storage in memory; the cleaner, and tables, with a worker in the same
process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bytemq.broker.log.partition import Partition
from bytemq.broker.log.partitions import PartitionTable
from bytemq.broker.log.results import AppendResult, Origin
from bytemq.broker.log.services import LogServices
from bytemq.compaction.cleaner import Cleaner, CleanerSettings
from bytemq.compaction.job import Job, Workspace
from bytemq.compaction.restructuring import Restructuring
from bytemq.compaction.table_planner import TableSettings
from bytemq.errors import BytemqError
from bytemq.metadata.standing import Standing
from bytemq.node.tables import OpenedPartition
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.records.batch import split_batches
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.protocol.records.control import EndTransactionMarker, end_transaction_batch
from bytemq.protocol.records.reader import iter_records
from bytemq.storage.manifests.manifest_codec import names_of
from bytemq.storage.tables.published_columns import ColumnStore
from bytemq.storage.tables.restored import RestoredFile
from bytemq.types import PartitionId
from tests.support.object_store import MemoryObjectStore
from tests.support.virtual_time import VirtualClock
from tests.unit.log.harness import HeldExecutor, LetIn, topic_config
from tests.unit.storage.bench import CONFIG, Bench, pid

SETTINGS = CleanerSettings(True, 1000, 1 << 20, 0.9, CONFIG.segment_bytes, CONFIG.chunk_bytes)
CONFIGS = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.01",
    "delete.retention.ms": "0",
}
CLIENT = Origin.CLIENT
COORDINATOR = Origin.COORDINATOR


class InlineWorker:
    """Does the job here. `before` and `after` run around it; `error` is raised in the middle, with objects created."""

    def __init__(self, bench: Bench) -> None:
        self.jobs: list[Any] = []
        self.error: BytemqError | None = None
        self.before: Callable[[], Any] | None = None
        self.after: Callable[[], Any] | None = None
        self._bench = bench

    async def run(self, job: Job[Any], created: list[str]) -> Any:
        self.jobs.append(job)
        if self.before is not None:
            await self.before()
        module, _, function = job.runs.partition(":")
        done = await getattr(import_module(module), function)(
            job, Workspace(self._bench.store, 1 << 30, created.append)
        )
        if self.error is not None:
            raise self.error
        if self.after is not None:
            await self.after()
        return done


class InlineRestorer:
    """Implements `Restorer`: units are restored here, into memory."""

    def __init__(self, bench: Bench) -> None:
        self.scratch = MemoryObjectStore()
        self._bench = bench
        self._made = 0

    async def restore(self, parquet: str, companion: str, unit: int) -> RestoredFile:
        from tests.unit.storage.parquet.shapes import restored  # with pyarrow, which simulations do without

        self._made += 1
        with TemporaryDirectory() as folder:
            paths = [Path(folder, "parquet"), Path(folder, "companion")]
            for name, path in zip((parquet, companion), paths, strict=True):
                path.write_bytes(await self._bench.store.read(name))
            pieces = restored(paths[0], paths[1], unit, 1000)
        made = RestoredFile(f"{self._made}.restored", sum(map(len, pieces[:-1])))
        await self.scratch.create(made.name, pieces)
        return made


class BenchTable(OpenedPartition):
    """Of small row groups, and at once."""

    after_ms = 0
    target_file_bytes: int | None = None
    """Less than a config may say."""

    @property
    def settings(self) -> TableSettings:
        settings = super().settings
        target_bytes = self.target_file_bytes or settings.target_file_bytes
        return settings._replace(after_ms=self.after_ms, row_group_bytes=700, target_file_bytes=target_bytes)


class CleanerBench(Bench):
    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock()
        self.epoch = 0
        self.segment_bytes = 1200
        self.settings = SETTINGS
        self.restorer = InlineRestorer(self)
        self.as_tables = False
        """Whether `clean` has all that there is converted before."""
        self.written: dict[bytes, bytes | None] = {}
        """The newest acknowledged value of each key, by plain appends."""

    async def open(self, **configs: str) -> Partition:
        """Starts the storage, and owns and opens the partition of topic `log`."""
        storage = await self.start()
        self.epoch += 1
        services = LogServices(storage, self.clock, HeldExecutor(), guard=LetIn())
        self.table = PartitionTable(services, Standing(self.clock.monotonic))
        self.configs = {**CONFIGS, **{name.replace("_", "."): value for name, value in configs.items()}}
        await self.own(pid(1), "log")
        self.worker = InlineWorker(self)
        columns = ColumnStore(self.metadata)
        worker: Any = self.worker
        self.cleaner = Cleaner(self.table, storage, worker, self.clock, lambda: self.settings, columns)
        self.restructuring = Restructuring(
            lambda: (BenchTable(one, one.config) for one in self.table.open_partitions()),
            storage,
            worker,
            self.clock,
            columns,
        )
        self.partition = await self.opened("log")
        return self.partition

    async def own(self, partition: PartitionId, topic: str) -> None:
        config = topic_config(**{name.replace(".", "_"): value for name, value in self.configs.items()})
        await self.table.own(partition, topic, self.epoch, config)

    async def opened(self, topic: str) -> Partition:
        """With segments smaller than a config may say."""
        partition = await self.table.open(topic, 0)
        partition.files.segment_bytes = self.segment_bytes
        return partition

    async def close(self) -> None:
        await self.table.close()
        await self.stop()

    async def clean(self) -> bool:
        if self.as_tables:
            await self.convert()
        return await self.cleaner.clean_filthiest()

    async def convert(self) -> int:
        """All that is decided becomes part of tables; how many conversions that took."""
        conversions = await self.restructuring.pass_over_all()
        self.clock.advance(0.001)
        return conversions

    async def put(self, *records: tuple[bytes, bytes | None], partition: Partition | None = None, **fields: Any) -> int:
        """One batch; its base offset."""
        now_ms = self.clock.wall_ms()
        data = build_batch([Record(*pair) for pair in records], timestamp_ms=now_ms, **fields)
        result = await self.send(data, partition or self.partition)
        assert result.error is ErrorCode.NONE, result
        if partition is None and not fields.get("transactional"):
            self.written.update(records)
        return result.base_offset

    async def end_transaction(self, producer_id: int, *, committed: bool) -> None:
        marker = EndTransactionMarker(committed, 0)
        data = end_transaction_batch(
            marker, producer_id=producer_id, producer_epoch=0, timestamp_ms=self.clock.wall_ms()
        )
        assert (await self.send(data, self.partition, origin=COORDINATOR)).error is ErrorCode.NONE

    async def send(self, data: bytearray, partition: Partition, *, origin: Origin = CLIENT) -> AppendResult:
        answer: asyncio.Future[AppendResult] = asyncio.get_running_loop().create_future()
        partition.append(memoryview(bytearray(data)), answer.set_result, origin=origin)
        return await answer

    async def fill(self, count: int, keys: int = 5) -> None:
        for n in range(count):
            await self.put((b"%d" % (n % keys), b"%04d" % n * 20))

    async def consume(self, *, isolation: int = 0) -> list[Record]:
        """What a consumer from the beginning gets; as clients do, without the aborted when it is read_committed, and
        without what is below where they are: a batch of a cleaned log may begin there.
        """
        partition, offset, found = self.partition, self.partition.log_start_offset, []
        end = partition.last_stable_offset if isolation else partition.high_watermark
        while offset < end:
            fetched = await partition.read(offset, 3000, isolation=isolation)
            assert fetched.error is ErrorCode.NONE, fetched
            if not fetched.size_bytes:
                break
            aborted = sorted(fetched.aborted or [], key=lambda one: one[1])
            dropping: set[int] = set()
            for batch in split_batches(memoryview(b"".join(bytes(buffer) for buffer in fetched.buffers))):
                while aborted and aborted[0][1] <= batch.last_offset:
                    dropping.add(aborted.pop(0)[0])
                position, offset = offset, batch.next_offset
                if batch.is_control:
                    dropping.discard(batch.producer_id)
                elif not (isolation and batch.is_transactional and batch.producer_id in dropping):
                    found.extend(record for record in iter_records(batch) if record.offset >= position)
        return found

    async def newest(self) -> dict[bytes | None, bytes | None]:
        """The state that a consumer builds."""
        return {record.key: record.value for record in await self.consume() if record.value is not None}

    @property
    def expected(self) -> dict[bytes, bytes | None]:
        return {key: value for key, value in self.written.items() if value is not None}

    def unreferenced(self) -> Sequence[str]:
        """What is in the store and named by no manifest."""
        assert self.storage is not None
        named = {name for files in self.storage._logs.values() for name in names_of(files.stored)}
        return [name for folder in ("topics/", "tables/") for name in self.names(folder) if name not in named]

    async def quiet(self) -> None:
        for _ in range(80):
            await asyncio.sleep(0)
