"""The log on the real storage and the local disk: what the tests on memory promise holds there too."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bytemq.broker.log.partition import Partition
from bytemq.broker.log.partitions import PartitionTable
from bytemq.broker.log.results import AppendResult, Origin
from bytemq.broker.log.services import LogServices
from bytemq.metadata.standing import Standing
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.records.batch import split_batches
from bytemq.protocol.records.control import EndTransactionMarker, end_transaction_batch
from bytemq.runtime.clock import SystemClock
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.log_storage import LogStorage
from bytemq.storage.manifests.manifest import with_leader_epoch
from bytemq.storage.settings import StorageConfig
from bytemq.storage.stores.local import LocalStore
from tests.support.power_cut_store import MemoryMetadata, Power
from tests.unit.log.harness import PID, HeldExecutor, LetIn, batch, sequenced, topic_config

NOW_MS = SystemClock().wall_ms()
SETTINGS = StorageConfig(wal_file_bytes=1 << 20, reserve_bytes=0)


class DiskNode:
    """One node over one directory, killed or stopped and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.metadata = MemoryMetadata(Power(seed=0))
        self.session_id = 0

    async def start(self) -> Partition:
        self.session_id += 1
        clock = SystemClock()
        self.storage = await LogStorage.open(
            LocalStore(self.directory, threads=2),
            self.metadata,
            session_id=self.session_id,
            config=SETTINGS,
            clock=clock,
            supervisor=Supervisor(clock, lambda name, error: None),
        )
        self.table = PartitionTable(
            LogServices(self.storage, clock, HeldExecutor(), guard=LetIn()), Standing(clock.monotonic)
        )
        await self.table.own(PID, "events", self.session_id, topic_config())
        return await self.table.open_by_id(*PID)

    async def stop(self) -> None:
        await self.table.close()
        await self.storage.close()

    def kill(self) -> None:
        for task in self.storage._tasks:
            task.cancel()


async def append(partition: Partition, payload: bytearray, **options: Any) -> AppendResult:
    answer: asyncio.Future[AppendResult] = asyncio.get_running_loop().create_future()
    partition.append(memoryview(bytearray(payload)), answer.set_result, **options)
    return await answer


@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("checkpoint", [False, True])
async def test_partition__is_the_same_after_the_node_comes_back(tmp_path: Path, end: str, checkpoint: bool) -> None:
    node = DiskNode(tmp_path)
    partition = await node.start()
    answers = await asyncio.gather(*(append(partition, sequenced(n, timestamp_ms=NOW_MS + n)) for n in range(6)))
    assert [answer.base_offset for answer in answers] == list(range(6))
    if checkpoint:
        await node.storage.checkpoint()
    await append(partition, sequenced(0, 2, producer_id=8, transactional=True))
    marker = end_transaction_batch(EndTransactionMarker(False, 4), producer_id=8, producer_epoch=0, timestamp_ms=NOW_MS)
    await append(partition, marker, origin=Origin.COORDINATOR)
    await append(partition, sequenced(2, producer_id=8, transactional=True))
    assert (await partition.delete_records(1)).low_watermark == 1
    if end == "stop":
        await node.stop()
    else:
        node.kill()
    partition = await node.start()
    assert (partition.log_start_offset, partition.high_watermark, partition.last_stable_offset) == (1, 10, 9)
    for sequence in range(1, 6):
        assert (await append(partition, sequenced(sequence, timestamp_ms=NOW_MS + sequence))).base_offset == sequence
    other = await append(partition, sequenced(5, value=b"other"))
    assert other.error is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    fetched = await partition.read(6, 100_000, isolation=1)
    assert fetched.aborted == [(8, 6)]
    listed = await partition.list_offset(NOW_MS + 4, 0)
    assert (listed.offset, listed.leader_epoch) == (4, 1)
    assert (await append(partition, batch(timestamp_ms=NOW_MS))).base_offset == 10
    assert partition.snapshot().leader_epochs == [(1, 1), (2, 10)]
    await node.stop()


async def test_partition__moves_within_a_session(tmp_path: Path) -> None:
    node = DiskNode(tmp_path)
    partition = await node.start()
    pending = append(partition, sequenced(0))
    task = asyncio.create_task(pending)
    await asyncio.sleep(0)
    await node.table.release(PID)
    assert (await task).error is ErrorCode.NONE
    await node.table.own(PID, "events", 9, topic_config())
    again = await node.table.open_by_id(*PID)
    assert (await append(again, sequenced(0))).base_offset == 0
    assert (await append(again, sequenced(1))).base_offset == 1
    await node.stop()


async def test_partition__is_gone_after_delete(tmp_path: Path) -> None:
    node = DiskNode(tmp_path)
    await append(await node.start(), batch(timestamp_ms=NOW_MS))
    await node.table.delete(PID)
    await node.stop()
    assert (await node.start()).high_watermark == 0
    await node.stop()


async def test_fenced_owner__writes_in_the_epoch_in_which_it_opened_the_log(tmp_path: Path) -> None:
    """It has asked for the manifest again and been given its successor's: metadata that are made anew of the storage
    must not take what it writes for that one's.
    """
    node = DiskNode(tmp_path)
    partition = await node.start()
    files = partition._files
    files.stored = files.stored._replace(manifest=with_leader_epoch(files.manifest, 7))
    files.manifest = files.stored.manifest
    await append(partition, batch(timestamp_ms=NOW_MS))
    fetched = await partition.read(0, 100_000, isolation=0)
    [written] = split_batches(memoryview(b"".join(fetched.buffers)))
    assert written.leader_epoch == 1
    await node.stop()
