"""Topics become tables and stay topics: the same records through Kafka, the same rows for everybody else."""

from __future__ import annotations

import asyncio
import glob
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import confluent_kafka
import duckdb
import pyarrow.dataset as ds
import pytest

from bytemq.broker.log.partition import Partition
from bytemq.broker.log.results import AppendResult
from bytemq.config import BrokerConfig
from bytemq.errors import Fenced
from bytemq.metadata import keys
from bytemq.metadata.store import Put
from bytemq.metadata.topics import TopicSpec
from bytemq.node import tables
from bytemq.node.node import Node
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.storage.checks.verify import verify
from bytemq.storage.log_storage import LogStorage
from bytemq.storage.manifests.manifest import FileKind
from tests.unit.storage.parquet.shapes import identities, parsed

READ_UNCOMMITTED, READ_COMMITTED = 0, 1


@asynccontextmanager
async def running(folder: Path, **configs: str) -> AsyncIterator[Node]:
    given = {name.replace("_", "."): value for name, value in configs.items()}
    node = await Node.start(
        BrokerConfig(
            {
                "bytemq.data.dir": str(folder),
                "listeners": "PLAINTEXT://127.0.0.1:0",
                "bytemq.http.listen": "",
                "wal.file.bytes": "1048576",
                "bytemq.table.grace.ms": "0",
                **given,
            }
        )
    )
    try:
        yield node
    finally:
        await node.stop()


def bootstrap(node: Node) -> str:
    host, port = next(iter(node.addresses.values()))
    return f"{host}:{port}"


def produce(address: str, topic: str, values: Iterator[bytes], **configs: object) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": address, "linger.ms": 5, **configs})
    for number, value in enumerate(values):
        producer.produce(topic, value, key=None if number % 3 else b"k%d" % number, headers=[("n", b"%d" % number)])
        producer.poll(0)
    assert producer.flush(60) == 0


def produce_transactions(address: str, topic: str, transactions: int) -> list[bytes]:
    """What was committed."""
    producer = confluent_kafka.Producer({"bootstrap.servers": address, "transactional.id": "t", "linger.ms": 5})
    producer.init_transactions(60)
    committed = []
    for number in range(transactions):
        values = [b"transaction %d record %d" % (number, record) for record in range(5)]
        producer.begin_transaction()
        for value in values:
            producer.produce(topic, value)
        producer.flush(60)
        if number % 3 == 1:
            producer.abort_transaction(60)
        else:
            producer.commit_transaction(60)
            committed.extend(values)
    return committed


def consume_all(address: str, topic: str, count: int) -> list[tuple[int, int, bytes | None]]:
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": address, "group.id": "g", "enable.auto.commit": False, "auto.offset.reset": "earliest"}
    )
    consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
    found = []
    while len(found) < count:
        message = consumer.poll(120)
        assert message is not None and message.error() is None, f"{len(found)} of {count} records came"
        found.append((message.offset(), message.timestamp()[1], message.value()))
    consumer.close()
    return found


async def everything(partition: Partition, isolation: int = READ_UNCOMMITTED) -> list[tuple[object, ...]]:
    """All that Fetch gives of a partition, field by field, from the start to the end."""
    found: list[tuple[object, ...]] = []
    offset, end = partition.log_start_offset, partition.high_watermark
    while offset < end:
        read = await partition.read(offset, 1 << 20, isolation=isolation)
        assert read.buffers, f"nothing at offset {offset}, below {end}: {read}"
        data = b"".join(read.buffers)
        # As a consumer does: the first batch may begin below what was asked for, the more so after a merge.
        found.extend(one for one in identities(parsed(data)) if not isinstance(one[8], int) or one[8] >= offset)
        offset = parsed(data)[-1].next_offset
    return found


async def build(node: Node, topic: str) -> None:
    assert node.tables is not None
    await node.tables.restructuring.build(await node.tables.partitions_of(topic))


def kinds(partition: Partition) -> set[FileKind]:
    return {segment.kind for segment in partition.segments}


async def test_tables__a_topic_is_parquet_for_everybody_and_the_same_records_for_kafka(tmp_path: Path) -> None:
    rng = random.Random(1)
    values = [rng.randbytes(rng.randrange(1, 2000)) for _ in range(2000)]
    async with running(tmp_path) as node:
        await node.broker.topics.create([TopicSpec("flights")])
        address = bootstrap(node)
        await asyncio.to_thread(produce, address, "flights", iter(values), **{"compression.type": "zstd"})
        committed = await asyncio.to_thread(produce_transactions, address, "flights", 9)
        partition = await node.broker.partitions.open("flights", 0)
        await until(lambda: partition.last_stable_offset == partition.high_watermark)  # the last marker is written
        before = await everything(partition)
        await build(node, "flights")
        assert kinds(partition) == {FileKind.PARQUET}
        assert await everything(partition) == before
        consumed = await asyncio.to_thread(consume_all, address, "flights", len(values) + len(committed))
        assert [value for _, _, value in consumed] == [*values, *committed]
        assert rows_of(tmp_path, "flights") == consumed
    async with running(tmp_path) as node:
        partition = await node.broker.partitions.open("flights", 0)
        assert await everything(partition) == before
        await asyncio.to_thread(produce, bootstrap(node), "flights", iter([b"one more"]))
        consumed = await asyncio.to_thread(consume_all, bootstrap(node), "flights", len(consumed) + 1)
        assert consumed[-1][2] == b"one more"
    assert [finding for finding in verify(tmp_path) if not finding.is_leftover] == []


def rows_of(data: Path, topic: str) -> list[tuple[int, int, bytes | None]]:
    """By DuckDB and by pyarrow, over a plain glob."""
    pattern = f"{data}/tables/{topic}/**/*.parquet"
    query = f"""select "offset", timestamp_ms, value from '{pattern}' order by "offset" """
    by_duckdb = [(offset, time, bytes(value)) for offset, time, value in duckdb.sql(query).fetchall()]
    table = ds.dataset(data / "tables" / topic, format="parquet").to_table(columns=["offset", "value"])
    by_arrow = sorted(zip(table.column("offset").to_pylist(), table.column("value").to_pylist(), strict=True))
    assert by_arrow == [(offset, value) for offset, _, value in by_duckdb]
    return by_duckdb


async def test_tables__a_topic_with_after_ms_is_converted_and_merged_by_itself(tmp_path: Path) -> None:
    async with running(tmp_path, bytemq_table_after_ms="1000") as node:
        await node.broker.topics.create([TopicSpec("t")])
        partition = await node.broker.partitions.open("t", 0)
        before: list[tuple[object, ...]] = []
        for number in range(9):
            await asyncio.to_thread(produce, bootstrap(node), "t", iter([b"%d" % number] * 10))
            before = await everything(partition)
            await until(lambda: kinds(partition) == {FileKind.PARQUET})
            assert await everything(partition) == before
        await until(lambda: len(partition.segments) < 9)
        assert await everything(partition) == before
    assert [finding for finding in verify(tmp_path) if not finding.is_leftover] == []


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1800):
        if condition():
            return
        await asyncio.sleep(0.1)
    raise AssertionError("it did not happen within three minutes")


async def test_tables__history_that_nobody_asks_for_after_a_restart_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as node:
        await node.broker.topics.create([TopicSpec("t")])
        await asyncio.to_thread(produce, bootstrap(node), "t", iter([b"%d" % n for n in range(100)]))
    assert not names(tmp_path, "tables/t/**/*.parquet")
    monkeypatch.setattr(tables, "UNTOUCHED_INTERVAL_S", 0.2)
    async with running(tmp_path, bytemq_table_after_ms="1000") as node:
        await until(lambda: bool(names(tmp_path, "tables/t/**/*.parquet")))
        assert len(await everything(await node.broker.partitions.open("t", 0))) == 100


async def test_tables__times_offsets_deletion_and_retention_hold_as_before(tmp_path: Path) -> None:
    async with running(tmp_path, bytemq_table_row_group_bytes="65536") as node:
        await node.broker.topics.create([TopicSpec("t")])
        address = bootstrap(node)
        producer = confluent_kafka.Producer({"bootstrap.servers": address, "linger.ms": 5})
        for number in range(400):
            producer.produce("t", b"x" * 1000, timestamp=1_700_000_000_000 + 10 * number)
        assert await asyncio.to_thread(producer.flush, 60) == 0
        partition = await node.broker.partitions.open("t", 0)
        questions = [-3, -2, -1, 0, 1_700_000_000_000, 1_700_000_001_234, 1_700_000_003_990, 1_700_000_003_991]
        before = [(await partition.list_offset(time, READ_COMMITTED))[1:3] for time in questions]
        await build(node, "t")
        assert [(await partition.list_offset(time, READ_COMMITTED))[1:3] for time in questions] == before
        low = await partition.delete_records(150)
        assert low.low_watermark == 150
        consumed = await asyncio.to_thread(consume_all, address, "t", 250)
        assert [offset for offset, _, _ in consumed] == list(range(150, 400))
        await partition.delete_records(400)
        assert not partition.segments
        await until(lambda: not names(tmp_path, "tables/t/**/*.parquet"))
        await until(lambda: not names(tmp_path, "topics/**/*.companion"))


async def test_tables__a_topic_of_the_same_name_has_another_folder(tmp_path: Path) -> None:
    async with running(tmp_path, bytemq_table_grace_ms="3600000") as node:
        for _ in range(2):
            await node.broker.topics.create([TopicSpec("t")])
            await asyncio.to_thread(produce, bootstrap(node), "t", iter([b"v"]))
            await build(node, "t")
            await node.broker.topics.delete(node.broker.image.topics["t"].topic_id)
        assert len(names(tmp_path, "tables/t/*")) == 2
    async with running(tmp_path):
        await until(lambda: not names(tmp_path, "tables/t/**/*.parquet"))


def names(data: Path, pattern: str) -> list[str]:
    return glob.glob(pattern, root_dir=data, recursive=True)


async def test_build__goes_on_when_a_partition_was_elsewhere_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest that another session has changed says that the partition is another broker's, not that all is over."""
    async with running(tmp_path) as node:
        await node.broker.topics.create([TopicSpec("t")])
        await asyncio.to_thread(produce, bootstrap(node), "t", iter([b"v"] * 10))
        replace_files, refusals = LogStorage.replace_files, iter([Fenced("it was changed by somebody else")])

        async def fenced(storage: LogStorage, *given: Any) -> None:
            for refusal in refusals:
                raise refusal
            await replace_files(storage, *given)

        monkeypatch.setattr(LogStorage, "replace_files", fenced)
        assert node.tables is not None
        assert (await node.tables.build("t")).records == 10
        assert next(refusals, None) is None


async def test_build__is_refused_with_a_word_by_a_broker_that_has_no_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "are_available", lambda: False)
    async with running(tmp_path) as node:
        store = node.broker.metadata
        asked = b'{"topic": "t", "partitions": [0], "lease": %d}' % await store.grant_lease(60)
        request = Put(f"{keys.table_builds(node.broker.node_id)}1-1", asked)
        await store.txn([], [request])
        give_up_at = time.monotonic() + 60
        while (entry := await store.get(request.key)) is not None and entry.value == asked:
            assert time.monotonic() < give_up_at
            await asyncio.sleep(0.1)
        assert entry is not None
        assert "pip install 'bytemq[tables]'" in json.loads(entry.value)["failed"]


async def test_tables__duplicates_of_idempotent_producers_are_recognised_after_conversion_and_restart(
    tmp_path: Path,
) -> None:
    batch = build_batch([Record(None, b"v")] * 3, timestamp_ms=5, producer_id=77, producer_epoch=0, base_sequence=0)
    async with running(tmp_path) as node:
        await node.broker.topics.create([TopicSpec("t")])
        first = await append(await node.broker.partitions.open("t", 0), batch)
        await build(node, "t")
        assert await append(await node.broker.partitions.open("t", 0), batch) == first
    async with running(tmp_path) as node:
        partition = await node.broker.partitions.open("t", 0)
        assert kinds(partition) == {FileKind.PARQUET}
        assert await append(partition, batch) == first
        assert partition.high_watermark == 3


async def append(partition: Partition, batch: bytes | bytearray) -> int:
    done: asyncio.Future[AppendResult] = asyncio.get_running_loop().create_future()
    partition.append(memoryview(bytearray(batch)), done.set_result)
    return (await done).base_offset
