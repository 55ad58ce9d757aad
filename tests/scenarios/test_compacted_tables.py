"""Compacted topics are tables, too: the same records for everybody, before and after, and while they are cleaned."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import confluent_kafka
import duckdb
import pyarrow.dataset as ds
import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from pyiceberg.catalog import load_catalog

from bytemq.broker.log.partition import Partition
from bytemq.metadata.topics import TopicSpec
from bytemq.node.node import Node
from bytemq.storage.checks.verify import verify
from bytemq.storage.manifests.manifest import FileKind
from bytemq.storage.tables.table_file import table_file
from tests.scenarios.test_sql import ask, with_sql
from tests.scenarios.test_tables import bootstrap, build, everything, kinds, until
from tests.support.living_files import files_under

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

PARTITIONS = 2
NEVER = "9000000000000"
COMPACTED = {
    "cleanup.policy": "compact",
    "segment.bytes": "1048576",
    "min.cleanable.dirty.ratio": "0.01",
    "bytemq.table.row.group.bytes": "65536",
}
Row = tuple[int, int, bytes, bytes | None]
"""Partition, offset, key, value."""


def alter(node: Node, topic: str, name: str, value: str) -> None:
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": bootstrap(node)})
    admin.incremental_alter_configs([resource])[resource].result(30)


def produce_everything(address: str, topic: str) -> dict[bytes, bytes]:
    """Keys again and again, in every codec, with tombstones, transactions and headers: the state at last."""
    chance = random.Random(5)
    state: dict[bytes, bytes] = {}
    number = 0
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        for is_transactional in (False, True):
            configs = {"transactional.id": f"t-{codec}"} if is_transactional else {}
            producer = confluent_kafka.Producer(
                {"bootstrap.servers": address, "linger.ms": 5, "compression.type": codec, **configs}
            )
            if is_transactional:
                producer.init_transactions(60)
            for round_ in range(3):
                is_aborted = is_transactional and round_ == 1
                if is_transactional:
                    producer.begin_transaction()
                for _ in range(300):
                    number += 1
                    key = b"key-%d" % chance.randrange(400)
                    value = None if chance.random() < 0.1 else b"%d:" % number + chance.randbytes(700)
                    producer.produce(topic, value, key, headers=[("n", b"%d" % number), ("n", None)])
                    if is_aborted:
                        continue
                    if value is None:
                        state.pop(key, None)
                    else:
                        state[key] = value
                if is_transactional and is_aborted:
                    producer.flush(60)
                    producer.abort_transaction(60)
                elif is_transactional:
                    producer.commit_transaction(60)
            assert producer.flush(60) == 0
    return state


def consumed(address: str, topic: str) -> list[Row]:
    """All that read_committed gets from the beginning to the end."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": address, "group.id": "g", "enable.auto.commit": False, "enable.partition.eof": True}
    )
    consumer.assign([confluent_kafka.TopicPartition(topic, index, 0) for index in range(PARTITIONS)])
    rows: list[Row] = []
    ended: set[int] = set()
    while len(ended) < PARTITIONS:
        message = consumer.poll(120)
        assert message is not None, "the consumer did not reach the end"
        if message.error() is not None:
            assert message.error().code() == confluent_kafka.KafkaError._PARTITION_EOF, message.error()
            ended.add(message.partition())
            continue
        rows.append((message.partition(), message.offset(), message.key(), message.value()))
    consumer.close()
    return sorted(rows)


async def partitions_of(node: Node, topic: str) -> list[Partition]:
    return [await node.broker.partitions.open(topic, index) for index in range(PARTITIONS)]


def is_clean(partition: Partition) -> bool:
    return partition.files.manifest.first_dirty_offset == partition.high_watermark


def on_disk(data: Path, topic: str) -> set[str]:
    files = files_under(data / "tables" / topic)
    return {path.relative_to(data).as_posix() for path in files if path.suffix == ".parquet"}


async def test_compacted_topic__is_a_table_with_the_same_records_and_is_cleaned_as_one(tmp_path: Path) -> None:
    async with with_sql(tmp_path, log_cleaner_backoff_ms="50") as (node, sql):
        await node.broker.topics.create([TopicSpec("c", PARTITIONS, configs=COMPACTED)])
        address = bootstrap(node)
        expected = await asyncio.to_thread(produce_everything, address, "c")
        partitions = await partitions_of(node, "c")
        await until(lambda: all(one.last_stable_offset == one.high_watermark for one in partitions))
        await until(lambda: all(one.files.manifest.first_dirty_offset > 0 for one in partitions))

        # From here on nothing is dirty, so that what changes is what conversion changes.
        await asyncio.to_thread(alter, node, "c", "min.compaction.lag.ms", NEVER)
        await until(lambda: all(one.config.min_compaction_lag_ms == int(NEVER) for one in partitions))
        await until(lambda: not any(partition.files.rewriting.locked() for partition in partitions))
        before = [await everything(partition) for partition in partitions]
        assert any(info.is_cleaned for partition in partitions for info in partition.segments)
        await build(node, "c")
        assert all(kinds(partition) == {FileKind.PARQUET} for partition in partitions)
        assert not any(is_clean(partition) for partition in partitions)
        assert [await everything(partition) for partition in partitions] == before
        rows = await asyncio.to_thread(consumed, address, "c")
        assert await readings(node, sql, tmp_path, "c") == [rows] * 4

        await asyncio.to_thread(alter, node, "c", "min.compaction.lag.ms", "0")
        await until(lambda: all(map(is_clean, partitions)))
        assert all(kinds(partition) == {FileKind.PARQUET} for partition in partitions)
        rows = await asyncio.to_thread(consumed, address, "c")
        assert len({key for _, _, key, _ in rows}) == len(rows), "each key once"
        assert {key: value for _, _, key, value in rows if value is not None} == expected
        named = {info.name for partition in partitions for info in partition.segments}
        await until(lambda: on_disk(tmp_path, "c") == named)
        assert await readings(node, sql, tmp_path, "c") == [rows] * 4
        assert sum(table_file(info).records for partition in partitions for info in partition.segments) == len(rows)
        before = [await everything(partition) for partition in partitions]
    async with with_sql(tmp_path) as (node, sql):
        assert [await everything(partition) for partition in await partitions_of(node, "c")] == before
        assert await asyncio.to_thread(consumed, bootstrap(node), "c") == rows
    assert [finding for finding in verify(tmp_path) if not finding.is_leftover] == []


async def readings(node: Node, sql: object, data: Path, topic: str) -> list[list[Row]]:
    """The same rows by DuckDB and pyarrow over a plain glob, by SQL, and by pyiceberg."""
    columns = ["partition", "offset", "key", "value"]
    query = f"""select partition, "offset", key, value from '{data}/tables/{topic}/**/*.parquet' order by all"""
    by_duckdb = await asyncio.to_thread(lambda: duckdb.sql(query).fetchall())
    files = [str(data / name) for name in on_disk(data, topic)]
    table = ds.dataset(files, format="parquet").to_table(columns=columns)
    assert node.http_address is not None
    url = "http://{}:{}/iceberg".format(*node.http_address)
    load = lambda: load_catalog("node", type="rest", uri=url).load_table(("bytemq", topic))  # noqa: E731
    iceberg = (await asyncio.to_thread(load)).scan(selected_fields=tuple(columns))
    by_iceberg = await asyncio.to_thread(iceberg.to_arrow)
    by_sql = await asyncio.to_thread(
        lambda: sql.sql(f'select partition, "offset", key, value from {topic}').arrow()  # type: ignore[attr-defined]
    )
    by_arrow = [
        [*zip(*(one.column(name).to_pylist() for name in columns), strict=True)] for one in (table, by_sql, by_iceberg)
    ]
    return [sorted(rows, key=lambda row: row[:2]) for rows in (by_duckdb, *by_arrow)]


@contextmanager
def producing(address: str, topic: str, acknowledged: dict[bytes, int]) -> Iterator[None]:
    """Numbers under few keys, in the background, until the block ends."""
    stopped = threading.Event()

    def work() -> None:
        producer = confluent_kafka.Producer({"bootstrap.servers": address, "linger.ms": 5, "enable.idempotence": True})
        number = 0
        while not stopped.wait(0.2):  # no more than a cleaner can follow on a crowded machine
            batch = {}
            for _ in range(500):
                number += 1
                key = b"key-%d" % (number * 7919 % 300)
                producer.produce(topic, b"%d:" % number + bytes(400), key)
                batch[key] = number
            assert producer.flush(300) == 0
            acknowledged.update(batch)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


async def test_consumer_from_the_beginning__has_the_newest_of_each_key_while_tables_are_made_and_cleaned(
    tmp_path: Path,
) -> None:
    configs = {"log_cleaner_backoff_ms": "50", "bytemq_table_after_ms": "1000"}
    async with with_sql(tmp_path, **configs) as (node, sql):
        await node.broker.topics.create([TopicSpec("c", PARTITIONS, configs=COMPACTED)])
        address = bootstrap(node)
        partitions = await partitions_of(node, "c")
        acknowledged: dict[bytes, int] = {}
        with producing(address, "c", acknowledged):
            await until(lambda: all(has_cleaned_table(partition) for partition in partitions))
            for _ in range(3):
                least = dict(acknowledged)
                check(await asyncio.to_thread(consumed, address, "c"), least)
        await until(lambda: all(map(is_clean, partitions)))
        rows = await asyncio.to_thread(consumed, address, "c")
        check(rows, acknowledged)
        assert len(rows) == len(acknowledged), "each key once"
        count = 'select count(*), count(distinct key), count(distinct (partition, "offset")) from c'
        assert await ask(sql, count) == [(len(rows),) * 3]


def has_cleaned_table(partition: Partition) -> bool:
    return any(info.is_cleaned and info.kind is FileKind.PARQUET for info in partition.segments)


def check(rows: list[Row], least: dict[bytes, int]) -> None:
    """In order of offsets each key's numbers go up, to one that is at least the one acknowledged before."""
    newest: dict[bytes, int] = {}
    for _, _, key, value in rows:
        assert value is not None
        number = int(value.partition(b":")[0])
        assert number > newest.get(key, 0), "nothing older comes after something newer"
        newest[key] = number
    assert all(newest.get(key, 0) >= number for key, number in least.items())
