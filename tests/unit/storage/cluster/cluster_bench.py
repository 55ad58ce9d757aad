"""Several brokers' storages over one object store and one metadata store, all in memory, in virtual or real time.

A session is what it is in a cluster: a key in the metadata whose revision is the session's id. `end` takes the key away
and leaves the process running, as for a paused owner; `kill` ends the process and leaves the key, until `end`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from bytemq.errors import BytemqError
from bytemq.metadata import keys
from bytemq.metadata.store import Put
from bytemq.protocol.records.batch import RecordBatch, parse_header, place
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.runtime.clock import Clock
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.cluster_storage import ClusterStorage, Session
from bytemq.storage.log_files import LogFiles
from bytemq.storage.objects.session_log import SessionTail, decode_tail
from bytemq.storage.settings import StorageConfig
from bytemq.storage.stores.remote import RemoteStore, RetryPolicy
from bytemq.types import PartitionId, TopicId
from tests.support.failing_driver import FailingDriver
from tests.support.power_cut_store import MemoryMetadata, Power
from tests.support.virtual_time import LoopClock

SMALL = StorageConfig(
    wal_flush_bytes=4000,
    wal_flush_interval_ms=100,
    wal_flush_in_flight=3,
    wal_memory_bytes=20_000,
    wal_retained_bytes=40_000,
    storage_cache_bytes=100_000,
    storage_upkeep_interval_ms=1_000,
    storage_garbage_grace_ms=10_000,
    segment_bytes=2500,
    chunk_bytes=300,
    manifests_per_transaction=2,
    snapshot_inline_bytes=100,
    open_files=3,
    retry_delay_ms=200,
)


def pid(number: int) -> PartitionId:
    return PartitionId(TopicId(number.to_bytes(16, "big")), 0)


def batch(offset: int, size_bytes: int = 100, *, mark: int = 0) -> RecordBatch:
    """One record. `mark` tells it from others of the same offset and size."""
    records = [Record(None, b"%010d %010d" % (offset, mark) + b"x" * size_bytes)]
    made = parse_header(memoryview(build_batch(records, timestamp_ms=1000 + offset, producer_id=1)))
    place(made, offset, 1)
    return made


class Broker:
    """One session with its storage and its own connection to the object store."""

    def __init__(self, cluster: Cluster, broker_id: int, session_id: int, config: StorageConfig) -> None:
        self.cluster = cluster
        self.session = Session(broker_id, session_id)
        self.driver = FailingDriver(objects=cluster.objects)
        self.store = RemoteStore(self.driver, cluster.clock, Random(session_id), cluster.policy)
        self.failures: list[tuple[str, BaseException]] = []
        self.supervisor = Supervisor(cluster.clock, lambda name, error: self.failures.append((name, error)))
        self.config = config
        self.storage: ClusterStorage

    async def start(self) -> Broker:
        self.storage = await ClusterStorage.open(
            self.store,
            self.cluster.metadata,
            session=self.session,
            config=self.config,
            clock=self.cluster.clock,
            random=Random(self.session.session_id),
            supervisor=self.supervisor,
        )
        return self

    async def kill(self) -> None:
        """The process is gone; its session's key is still there."""
        self.driver.fault = lambda operation, name: "refused"
        await self.supervisor.close()

    async def stop(self) -> None:
        """A clean stop, at the end of which the session ends."""
        await self.storage.close()
        await self.supervisor.close()
        self.cluster.end(self)

    def append(self, log: LogFiles, *batches: RecordBatch) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_durable(error: BytemqError | None) -> None:
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        self.storage.append(log, batches, on_durable)
        return done

    async def write(self, log: LogFiles, count: int, size_bytes: int = 100) -> list[bytes]:
        """Appends batches of one record, one flush each. Returns their bytes."""
        written = []
        for _ in range(count):
            one = batch(log.staged_end, size_bytes)
            written.append(bytes(one.view))
            await self.append(log, one)
        return written

    @property
    def puts(self) -> list[str]:
        return [name for operation, name in self.driver.calls if operation == "put"]

    @property
    def tail(self) -> SessionTail:
        return decode_tail(self.cluster.metadata.entries[keys.session_log(self.session.session_id)].value)


class Cluster:
    def __init__(self, clock: Clock | None = None, policy: RetryPolicy | None = None) -> None:
        self.clock = clock or LoopClock()
        self.policy = policy or RetryPolicy(attempts=3)
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.metadata = MemoryMetadata(Power(1))

    async def broker(self, broker_id: int, **changes: int) -> Broker:
        await self.metadata.txn([], [Put(keys.broker(broker_id), b"")])
        session_id = self.metadata.entries[keys.broker(broker_id)].revision
        return await Broker(self, broker_id, session_id, replace(SMALL, **changes)).start()

    def end(self, broker: Broker) -> None:
        """The lease has ended: the session's key goes."""
        key = keys.broker(broker.session.broker_id)
        entry = self.metadata.entries.get(key)
        if entry is not None and entry.revision == broker.session.session_id:
            del self.metadata.entries[key]
            self.metadata.revision += 1


async def content(log: LogFiles) -> list[bytes]:
    """Every batch of the log, one read each."""
    found, offset = [], log.log_start_offset
    while offset < log.end_offset:
        read = await log.read(offset, 1, log.end_offset)
        assert read.base_offset == offset
        found.append(b"".join(read.buffers))
        offset = read.next_offset
    return found


async def eventually(clock: Clock, condition: Callable[[], object], within_s: float = 60.0) -> None:
    deadline = clock.monotonic() + within_s
    while not condition():
        assert clock.monotonic() < deadline, "it never came to that"
        await clock.sleep(0.05)


def failures(outcomes: Sequence[object]) -> list[str]:
    return [type(outcome).__name__ if isinstance(outcome, BaseException) else "" for outcome in outcomes]
