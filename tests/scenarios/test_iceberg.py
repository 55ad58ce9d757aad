"""Topics as Iceberg tables, by engines that know nothing but the node's URL."""

from __future__ import annotations

import asyncio
from pathlib import Path

import duckdb
import pytest
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.table import Table

from bytemq.metadata.topics import TopicSpec
from bytemq.node.node import Node
from tests.scenarios.test_sql import with_sql
from tests.scenarios.test_tables import bootstrap, build, consume_all, produce, produce_transactions

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def catalog_url(node: Node) -> str:
    assert node.http_address is not None
    return "http://{}:{}/iceberg".format(*node.http_address)


def rows(table: Table) -> list[tuple[int, int, bytes | None]]:
    found = table.scan(selected_fields=("offset", "timestamp_ms", "value")).to_arrow()
    columns = [found.column(name).to_pylist() for name in ("offset", "timestamp_ms", "value")]
    return sorted(zip(*columns, strict=True))


async def test_iceberg__pyiceberg_reads_what_a_consumer_reads(tmp_path: Path) -> None:
    async with with_sql(tmp_path, bytemq_table_grace_ms="600000") as (node, _):
        await node.broker.topics.create([TopicSpec("my.topic")])
        url = catalog_url(node)
        catalog = await asyncio.to_thread(lambda: load_catalog("node", type="rest", uri=url))
        assert await asyncio.to_thread(catalog.list_tables, "bytemq") == [("bytemq", "my.topic")]
        name = ("bytemq", "my.topic")
        empty = await asyncio.to_thread(catalog.load_table, name)
        assert await asyncio.to_thread(rows, empty) == []
        await asyncio.to_thread(produce, bootstrap(node), "my.topic", iter([b"%d" % n for n in range(500)]))
        committed = await asyncio.to_thread(produce_transactions, bootstrap(node), "my.topic", 4)
        await build(node, "my.topic")
        first = await asyncio.to_thread(catalog.load_table, name)
        consumed = await asyncio.to_thread(consume_all, bootstrap(node), "my.topic", 500 + len(committed))
        assert await asyncio.to_thread(rows, first) == consumed

        # A snapshot of before is still what it was when there is a new one.
        await asyncio.to_thread(produce, bootstrap(node), "my.topic", iter([b"more"] * 5))
        await build(node, "my.topic")
        second = await asyncio.to_thread(catalog.load_table, name)
        assert len(await asyncio.to_thread(rows, second)) == len(consumed) + 5
        assert await asyncio.to_thread(rows, first) == consumed
        old = first.current_snapshot()
        assert old is not None
        again = second.scan(snapshot_id=old.snapshot_id)
        assert (await asyncio.to_thread(again.to_arrow)).num_rows == len(consumed)
        few = second.scan(row_filter="offset >= 510 and offset < 513")
        assert len(list(await asyncio.to_thread(few.plan_files))) == 1
        assert (await asyncio.to_thread(few.to_arrow)).num_rows <= 3

        with pytest.raises(NoSuchTableError):
            await asyncio.to_thread(catalog.load_table, ("bytemq", "nothing"))
        with pytest.raises(NotImplementedError, match="DELETE"):
            await asyncio.to_thread(catalog.drop_table, name)


async def test_iceberg__names_every_file_of_every_partition(tmp_path: Path) -> None:
    async with with_sql(tmp_path) as (node, _):
        await node.broker.topics.create([TopicSpec("t", 3)])
        await asyncio.to_thread(produce, bootstrap(node), "t", iter([b"%d" % n for n in range(300)]))
        await build(node, "t")
        url = catalog_url(node)
        catalog = await asyncio.to_thread(lambda: load_catalog("node", type="rest", uri=url))
        table = await asyncio.to_thread(catalog.load_table, ("bytemq", "t"))
        tasks = await asyncio.to_thread(lambda: list(table.scan().plan_files()))
        files = [task.file.file_path.removeprefix("file://") for task in tasks]
        assert duckdb.read_parquet(files).aggregate("count(*), count(distinct value)").fetchall() == [(300, 300)]
