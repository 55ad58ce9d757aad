"""A single node's data to a cluster: what it knew is known there; interrupted, it goes on; what is wrong is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from bytemq.broker.log.partition import Partition
from bytemq.broker.log.partitions import PartitionTable
from bytemq.broker.log.results import Origin
from bytemq.broker.log.services import LogServices
from bytemq.errors import BytemqError, Corrupt, Unavailable
from bytemq.metadata import keys, values
from bytemq.metadata.data_lock import DataLock
from bytemq.metadata.embedded import EmbeddedStore
from bytemq.metadata.identity import ensure_identity
from bytemq.metadata.standing import Standing
from bytemq.metadata.store import MetadataStore, Put
from bytemq.node import copying
from bytemq.node.copying import Progress, copy_node
from bytemq.protocol.records.control import EndTransactionMarker, end_transaction_batch
from bytemq.runtime.clock import SystemClock
from bytemq.runtime.tasks import Supervisor
from bytemq.scheduler.membership import Membership
from bytemq.storage import copying as copying_files
from bytemq.storage.cluster_storage import ClusterStorage, Session
from bytemq.storage.log_storage import LogStorage
from bytemq.storage.manifests.manifest_codec import directory_of
from bytemq.storage.pools.pooled_store import PooledStore
from bytemq.storage.settings import StorageConfig
from bytemq.storage.stores.local import LocalStore
from bytemq.types import PartitionId
from tests.support.metadata import broker_value, embedded_store, topic_id, topic_puts
from tests.unit.log.harness import HeldExecutor, LetIn, batch, sequenced, topic_config
from tests.unit.log.test_on_storage import append

T1 = topic_id(1)
GONE = topic_id(2)
CLOCK = SystemClock()
NOW_MS = CLOCK.wall_ms()
SMALL = StorageConfig(wal_file_bytes=1 << 20, reserve_bytes=0, segment_bytes=6000)


def supervisor() -> Supervisor:
    return Supervisor(CLOCK, lambda name, error: None)


def table(storage: LogStorage | ClusterStorage) -> PartitionTable:
    return PartitionTable(LogServices(storage, CLOCK, HeldExecutor(), guard=LetIn()), Standing(CLOCK.monotonic))


async def written(data: Path) -> None:
    """A node's folder as `kill -9` leaves it: a partition in segments and the write-ahead log, with an idempotent
    producer, an aborted and an open transaction; one that was never used; what is left of a topic that is gone."""
    async with embedded_store(data) as metadata:
        await ensure_identity(metadata, lambda count: bytes(range(count)))
        membership = await Membership.join(metadata, CLOCK, 0, broker_value(), 3.0)
        facts = values.OwnersValue([0, 0], [membership.session_id] * 2, [4, 4])
        await metadata.txn(
            [],
            [
                *topic_puts("t", T1, [0, 0], facts),
                Put(keys.config("broker", ""), values.encode_configs({"log.retention.hours": "24"})),
                Put(keys.PRODUCER_IDS, b"2000"),
                Put(keys.MOVES, b"[]"),
            ],
        )
        storage = await LogStorage.open(
            LocalStore(data), metadata, session_id=membership.session_id, config=SMALL, clock=CLOCK,
            supervisor=supervisor(), durability="page-cache",
        )  # fmt: skip
        partitions = table(storage)
        await partitions.own(PartitionId(T1, 0), "t", 4, topic_config())
        await partitions.own(PartitionId(GONE, 0), "gone", 4, topic_config())
        await append(await partitions.open("gone", 0), batch(timestamp_ms=NOW_MS))
        partition = await partitions.open("t", 0)
        for number in range(20):
            await append(partition, sequenced(number, value=b"x" * 500, timestamp_ms=NOW_MS + number))
        await storage.checkpoint()
        await append(partition, sequenced(0, 2, producer_id=8, transactional=True))
        marker = end_transaction_batch(
            EndTransactionMarker(False, 4), producer_id=8, producer_epoch=0, timestamp_ms=NOW_MS
        )
        await append(partition, marker, origin=Origin.COORDINATOR)
        await append(partition, sequenced(2, producer_id=8, transactional=True))
        for task in storage._tasks:
            task.cancel()
        await asyncio.gather(*storage._tasks, return_exceptions=True)


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    await written(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata addresses are folders of embedded stores; segments are small."""

    async def opened(url: str, environment: object) -> MetadataStore:
        lock = DataLock.acquire(Path(url))
        store = EmbeddedStore.open(lock, "page-cache")
        close = store.close

        async def close_and_release() -> None:
            await close()
            lock.release()

        monkeypatch.setattr(store, "close", close_and_release)
        return store

    monkeypatch.setattr(copying, "open_metadata", opened)
    monkeypatch.setattr(copying_files, "SEGMENT_BYTES", 3000)


async def copied(data: Path, *, to: str = "target") -> Progress:
    folder = data.parent
    return await copy_node(data, (folder / to).as_uri(), str(folder / "metadata"), {}, lambda progress: None)


@asynccontextmanager
async def cluster_partition(folder: Path) -> AsyncIterator[Partition]:
    """Partition 0 of the topic, opened by a broker of the cluster."""
    async with embedded_store(folder / "metadata") as metadata:
        membership = await Membership.join(metadata, CLOCK, 1, broker_value(), 3.0)
        tasks = supervisor()
        storage = await ClusterStorage.open(
            PooledStore(LocalStore(folder / "target"), CLOCK), metadata, config=SMALL,
            session=Session(1, membership.session_id),
            clock=CLOCK, random=Random(1), supervisor=tasks,
        )  # fmt: skip
        partitions = table(storage)
        await partitions.own(PartitionId(T1, 0), "t", 5, topic_config(), least_end_offset=24)
        try:
            yield await partitions.open("t", 0)
        finally:
            await partitions.close()
            await storage.close()
            await tasks.close()


async def test_copy__of_a_killed_node_is_all_that_it_knew(data: Path) -> None:
    done = await copied(data)
    assert (done.logs, done.of_logs, done.found_bytes) == (1, 1, 0)
    async with cluster_partition(data.parent) as partition:
        assert (partition.log_start_offset, partition.high_watermark, partition.last_stable_offset) == (0, 24, 23)
        assert len(partition.files.segments) > 4 and all(info.sealed for info in partition.files.segments)
        duplicate = await append(partition, sequenced(19, value=b"x" * 500, timestamp_ms=NOW_MS + 19))
        assert duplicate.base_offset == 19
        fetched = await partition.read(20, 1_000_000, isolation=1)
        assert fetched.aborted == [(8, 20)]
        assert partition.snapshot().leader_epochs == [(4, 0), (5, 24)]
        assert (await append(partition, sequenced(20, timestamp_ms=NOW_MS))).base_offset == 24


async def test_copy__takes_metadata_along_and_leaves_behind_what_was_the_nodes_own(data: Path) -> None:
    await copied(data)
    async with embedded_store(data.parent / "metadata") as store:
        found = {entry.key: entry.value for entry in (await store.range("")).entries}
    owners = values.decode_owners(found.pop(keys.owners(T1, 0)))
    assert owners == values.OwnersValue([-1, -1], [-1, -1], [4, 4], {0: 24})
    assert set(found) == {
        keys.IDENTITY,
        keys.FEATURE_LEVEL,
        keys.topic("t"),
        keys.config("broker", ""),
        keys.PRODUCER_IDS,
        keys.manifest(PartitionId(T1, 0)),
    }


async def test_copy__that_was_interrupted_goes_on(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    created, create = list[str](), LocalStore.create

    async def failing(self: LocalStore, name: str, parts: object) -> None:
        if name.startswith("topics/"):
            if len(created) == 3:
                raise Unavailable("the store is down")
            created.append(name)
        await create(self, name, parts)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "create", failing)
        with pytest.raises(Unavailable, match="the store is down"):
            await copied(data)
    async with embedded_store(data.parent / "metadata") as store:
        assert [entry.key for entry in (await store.range("")).entries] == [keys.COPY_SOURCE], "nothing to start on"
    done = await copied(data)
    assert 0 < done.found_bytes < done.copied_bytes
    async with cluster_partition(data.parent) as partition:
        assert partition.high_watermark == 24


async def test_copy__of_a_damaged_log_is_refused(data: Path) -> None:
    path = min((data / directory_of(PartitionId(T1, 0))).glob("*.log"))
    damaged = bytearray(path.read_bytes())
    damaged[1000] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(Corrupt, match="offset 1: the checksum does not match"):
        await copied(data)


async def refused(data: Path, sentence: str, **options: str) -> None:
    with pytest.raises(BytemqError, match=sentence):
        await copied(data, **options)


async def test_copy__refuses_what_is_not_the_folder_of_a_stopped_node(data: Path, tmp_path: Path) -> None:
    await refused(tmp_path / "nothing", "is not the data folder of a node")
    lock = DataLock.acquire(data)
    await refused(data, "is in use by another node")
    lock.release()
    async with embedded_store(data) as store:
        await store.txn([], [Put(keys.session_log(7), b"")])
    await refused(data, "on a storage that brokers share already")


async def test_copy__refuses_a_target_that_is_not_empty(data: Path, tmp_path: Path) -> None:
    (tmp_path / "used" / "topics").mkdir(parents=True)
    (tmp_path / "used" / "topics" / "1.log").write_bytes(b"x")
    await refused(data, "is not empty", to="used")
    (tmp_path / "other" / "cluster").mkdir(parents=True)
    (tmp_path / "other" / "cluster" / "id").write_bytes(b"another")
    await refused(data, "is the storage of cluster another", to="other")
    await copied(data)
    await refused(data, "there are metadata at this address already")


async def test_copy__refuses_to_go_on_with_anothers_or_beside_a_broker(data: Path, tmp_path: Path) -> None:
    async with embedded_store(tmp_path / "metadata") as store:
        await store.txn([], [Put(keys.COPY_SOURCE, b"another")])
    await refused(data, "a copy of another node, of cluster another, was begun")
    async with embedded_store(tmp_path / "metadata") as store, embedded_store(data) as source:
        identity = await source.get(keys.IDENTITY)
        assert identity is not None
        await store.txn([], [Put(keys.COPY_SOURCE, identity.value), Put(keys.broker(3), b"{}")])
    await refused(data, "a broker uses these metadata")
