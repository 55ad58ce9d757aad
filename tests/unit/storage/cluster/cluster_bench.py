"""Several brokers' storages over one object store and one metadata store, all in memory, in virtual or real time.

A session is what it is in a cluster: a key in the metadata whose revision is the session's id. `end` takes the key away
and leaves the process running, as for a paused owner; `kill` ends the process and leaves the key, until `end`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from bytemq.errors import BytemqError, Corrupt
from bytemq.metadata import keys
from bytemq.metadata.pools import PoolUse, PoolValue, decode_pool, encode_pool
from bytemq.metadata.store import Put
from bytemq.protocol.records.batch import RecordBatch, parse_header
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.runtime.clock import Clock
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.cluster_storage import ClusterStorage, Session
from bytemq.storage.log_files import LogFiles
from bytemq.storage.objects.session_log import SessionTail, decode_tail
from bytemq.storage.pools.keeper import PoolKeeper
from bytemq.storage.pools.names import PRIMARY, SHOWN_PRIMARY
from bytemq.storage.pools.opening import drained
from bytemq.storage.pools.pooled_store import PooledStore
from bytemq.storage.settings import StorageConfig
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.stores.remote import RemoteStore, RetryPolicy
from bytemq.types import PartitionId, TopicId
from tests.support.failing_driver import FailingDriver, Fault
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
    made.place(offset, 1)
    return made


class Broker:
    """One session with its storage and its own connection to the object store."""

    def __init__(self, cluster: Cluster, broker_id: int, session_id: int, config: StorageConfig) -> None:
        self.cluster = cluster
        self.session = Session(broker_id, session_id)
        self.driver = FailingDriver(objects=cluster.objects)
        self.store = RemoteStore(self.driver, cluster.clock, Random(session_id), cluster.policy)
        self.drivers = {PRIMARY: self.driver}
        """By pool, of those that are open."""
        self.pools = PooledStore(self.store, cluster.clock, self._open_pool, late_ms=cluster.late_ms)
        self.failures: list[tuple[str, BaseException]] = []
        self.supervisor = Supervisor(cluster.clock, lambda name, error: self.failures.append((name, error)))
        self.config = config
        self.storage: ClusterStorage

    async def start(self) -> Broker:
        self.pools.set_pools(drained(self.cluster.pool_values))
        self.storage = await ClusterStorage.open(
            self.pools,
            self.cluster.metadata,
            session=self.session,
            config=self.config,
            clock=self.cluster.clock,
            random=Random(self.session.session_id),
            supervisor=self.supervisor,
        )
        random, supervisor = Random(self.session.session_id + 1), self.supervisor
        keeper = PoolKeeper(
            self.pools,
            lambda: self.cluster.pool_values,
            self.session.session_id,
            self.cluster.clock,
            random,
            supervisor,
        )
        if self.cluster.pools:
            supervisor.keep_running("pools", keeper.run)
        return self

    async def _open_pool(self, name: str) -> ObjectStore:
        if name not in self.cluster.pools:
            raise Corrupt(f"there is no pool {name}")
        driver = FailingDriver(objects=self.cluster.pools[name])
        driver.fault = self.cluster.fault_of_pool(self, name)
        store = RemoteStore(driver, self.cluster.clock, Random(self.session.session_id), self.cluster.policy)
        await store.prepare(patience_s=0.0)
        self.drivers[name] = driver
        return store

    def heal(self) -> None:
        """The stores do what they should, also what they were asked a while ago."""
        for driver in self.drivers.values():
            driver.fault = lambda operation, name: None
            driver.latency_s = 0.0
            driver.settle()

    async def kill(self) -> None:
        """The process is gone; its session's key is still there."""
        for driver in self.drivers.values():
            driver.fault = lambda operation, name: "refused"
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
        self.late_ms = 1000
        """After which a write tells against its store, where there are several."""
        self.pools: dict[str, dict[str, tuple[bytes, str]]] = {}
        """What is in each pool beside the primary."""
        self.fault_of_pool: Callable[[Broker, str], Fault] = lambda broker, pool: lambda operation, name: None
        """How a pool is when a broker opens it."""
        self.metadata = MemoryMetadata(Power(1))

    async def broker(self, broker_id: int, **changes: int) -> Broker:
        await self.metadata.txn([], [Put(keys.broker(broker_id), b"")])
        session_id = self.metadata.entries[keys.broker(broker_id)].revision
        return await Broker(self, broker_id, session_id, replace(SMALL, **changes)).start()

    def stores(self) -> PooledStore:
        """The store with its pools, which all do what they should, for somebody who is no broker."""

        def store(objects: dict[str, tuple[bytes, str]]) -> RemoteStore:
            return RemoteStore(FailingDriver(objects=objects), self.clock, Random(0), self.policy)

        async def opened(name: str) -> RemoteStore:
            return store(self.pools[name])

        stores = PooledStore(store(self.objects), self.clock, opened)
        stores.set_pools(drained(self.pool_values))
        return stores

    async def set_pool(self, name: str, use: PoolUse = PoolUse.IN_USE) -> None:
        """A pool comes, is drained, or takes part again. Brokers that started without any do not look after them."""
        if name != SHOWN_PRIMARY:
            self.pools.setdefault(name, {})
        await self.metadata.txn([], [Put(keys.pool(name), encode_pool(PoolValue(f"memory://{name}", use)))])

    @property
    def all_objects(self) -> list[tuple[str, dict[str, tuple[bytes, str]]]]:
        """What is in each pool."""
        return [(PRIMARY, self.objects), *self.pools.items()]

    @property
    def pool_values(self) -> dict[str, PoolValue]:
        entries = self.metadata.entries.values()
        return {
            entry.key.removeprefix(keys.POOLS): decode_pool(entry.value)
            for entry in entries
            if entry.key.startswith(keys.POOLS)
        }

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
