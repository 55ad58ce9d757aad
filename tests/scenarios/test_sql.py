"""SQL over topics: history, what is not converted yet, and the record acknowledged just now, each once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import confluent_kafka
import pytest

import bytemq
from bytemq.errors import BytemqError
from bytemq.metadata.topics import TopicSpec
from bytemq.node.node import Node
from bytemq.node.queried_topics import QueriedTopics
from bytemq.query.client import Connection
from bytemq.query.cuts import TopicCut
from tests.scenarios.test_tables import bootstrap, build, produce, produce_transactions, running


@asynccontextmanager
async def with_sql(folder: Path, **configs: str) -> AsyncIterator[tuple[Node, Connection]]:
    async with running(folder, bytemq_http_listen="127.0.0.1:0", **configs) as node:
        assert node.http_address is not None
        yield node, bytemq.connect("{}:{}".format(*node.http_address))


async def ask(connection: Connection, query: str) -> list[tuple[object, ...]]:
    rows = await asyncio.to_thread(connection.sql(query).rows)
    return [tuple(row.values()) for row in rows]


async def test_sql__sees_tables_and_log_and_each_committed_record_once(tmp_path: Path) -> None:
    async with with_sql(tmp_path) as (node, sql):
        await node.broker.topics.create([TopicSpec("my.topic")])
        count = """select count(*), count(distinct "offset") from "my.topic" """
        assert await ask(sql, count) == [(0, 0)]
        address = bootstrap(node)
        await asyncio.to_thread(produce, address, "my.topic", iter([b"%d" % n for n in range(1000)]))
        assert await ask(sql, count) == [(1000, 1000)]
        await build(node, "my.topic")
        committed = await asyncio.to_thread(produce_transactions, address, "my.topic", 6)
        assert await ask(sql, count) == [(1000 + len(committed), 1000 + len(committed))]
        await build(node, "my.topic")
        assert await ask(sql, count) == [(1000 + len(committed), 1000 + len(committed))]
        partition = await node.broker.partitions.open("my.topic", 0)
        await partition.delete_records(10)
        assert await ask(sql, """select min("offset"), count(*) from "my.topic" """) == [(10, 990 + len(committed))]
        rows = await ask(sql, """select value, headers from "my.topic" where "offset" = 77""")
        assert rows == [("77", [{"key": "n", "value": "77"}])]


async def test_sql__counts_go_up_exactly_while_it_is_produced_converted_and_merged(tmp_path: Path) -> None:
    """A reader counts; whatever it sees is at least what was acknowledged before it asked, and no record twice."""
    async with with_sql(tmp_path, bytemq_table_after_ms="1000", bytemq_table_grace_ms="60000") as (node, sql):
        await node.broker.topics.create([TopicSpec("t")])
        acknowledged = 0
        stop = threading.Event()

        def produce_slowly() -> None:
            nonlocal acknowledged
            producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap(node), "linger.ms": 0})
            number = 0
            while not stop.is_set():
                for _ in range(20):
                    producer.produce("t", b"%d" % number)
                    number += 1
                if producer.flush(30) == 0:
                    acknowledged = number
                time.sleep(0.01)

        producing = asyncio.create_task(asyncio.to_thread(produce_slowly))
        assert node.tables is not None
        restructuring, began = node.tables.restructuring, time.monotonic()
        while restructuring.conversions < 3 and time.monotonic() - began < 180:
            least = acknowledged
            [(rows, offsets, values)] = await ask(
                sql, """select count(*), count(distinct "offset"), count(distinct value) from t"""
            )
            assert rows == offsets == values
            assert isinstance(rows, int) and rows >= least
        stop.set()
        await producing
        assert restructuring.conversions >= 3
        assert (await ask(sql, "select count(*) from t"))[0][0] == acknowledged


REFUSED = (
    ("drop table t", "only SELECT"),
    ("select 1; select 2", "one SELECT"),
    ("selekt", "syntax error"),
    ("", "one SELECT"),
    ("select * from nothing", "there is no topic nothing"),
    ("select offset from t", 'write "offset"'),
    ("select * from read_text('/etc/passwd')", "disabled"),
    ("select * from glob('/*')", "disabled"),
    ("copy (select 1) to '/tmp/bytemq-no'", "only SELECT"),
    ("select error('boom')", "boom"),
    ("select * from range(100)", "more than 50 rows"),
    ("select case when range = 40 then error('a: boom') end from range(50)", "a: boom"),
)


async def test_sql__refuses_what_is_not_a_query_and_goes_on(tmp_path: Path) -> None:
    async with with_sql(tmp_path, bytemq_sql_max_rows="50") as (_, sql):
        for query, problem in REFUSED:
            with pytest.raises(BytemqError) as refused:
                await ask(sql, query)
            assert problem in str(refused.value), query
        assert await ask(sql, "select 1") == [(1,)]


async def test_sql__of_a_topic_that_is_another_one_meanwhile_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleted, and created under the same name, after the cut: nothing of the new one is shown as the old one."""
    async with with_sql(tmp_path, bytemq_table_grace_ms="0") as (node, sql):
        await node.broker.topics.create([TopicSpec("t", configs={"bytemq.table.value.format": "json"})])
        await asyncio.to_thread(produce, bootstrap(node), "t", iter([b'{"old": 1}'] * 10))
        cut, answers = QueriedTopics.cut, 0

        async def replaced(topics: QueriedTopics, names: Sequence[str]) -> dict[str, TopicCut]:
            nonlocal answers
            answers += 1
            found = await cut(topics, names)
            await node.broker.topics.delete(found["t"].topic_id)
            await node.broker.topics.create([TopicSpec("t")])
            await asyncio.to_thread(produce, bootstrap(node), "t", iter([b"new"] * 20))
            return found

        for is_in_parquet in (False, True):
            if is_in_parquet:
                await build(node, "t")
            with monkeypatch.context() as patched:
                patched.setattr(QueriedTopics, "cut", replaced)
                with pytest.raises(BytemqError, match="t was deleted while the query ran"):
                    await ask(sql, "select count(*) from t")
            assert await ask(sql, "select count(*), count(*) filter (value = 'new') from t") == [(20, 20)]
        assert answers == 2


async def test_sql__ends_a_query_whose_time_is_over(tmp_path: Path) -> None:
    async with with_sql(tmp_path, bytemq_sql_timeout_ms="2000") as (_, sql):
        with pytest.raises(BytemqError, match="longer than 2 s"):
            await ask(sql, "select count(*) from range(100000000000) a, range(100000) b")
        await until_children(0)


async def test_sql__that_breaks_off_says_why_to_whoever_has_taken_rows_of_it(tmp_path: Path) -> None:
    async with with_sql(tmp_path, bytemq_sql_max_rows="20000") as (node, sql):
        query, taken = "select range from range(30000)", bytearray()

        def take() -> None:
            for chunk in sql.sql(query).chunks("csv"):
                taken.extend(chunk)

        with pytest.raises(BytemqError, match="more than 20000 rows"):
            await asyncio.to_thread(take)
        assert taken.startswith(b"range\n")
        with pytest.raises(BytemqError, match=r"^more than 10000 rows make no table"):
            await asyncio.to_thread(lambda: list(sql.sql("from range(15000)").chunks("table")))
        assert node.http_address is not None
        with pytest.raises(AssertionError, match="more than 20000 rows"):
            await command("sql", "--format", "csv", query, "--http", "{}:{}".format(*node.http_address))


async def test_sql__in_every_form_and_for_every_frame(tmp_path: Path) -> None:
    async with with_sql(tmp_path) as (node, sql):
        await node.broker.topics.create([TopicSpec("t")])
        await asyncio.to_thread(produce, bootstrap(node), "t", iter([b"a,b", b"\xff\x00", b"c"]))
        query = """select "offset", value, key from t order by 1"""
        csv = await asyncio.to_thread(lambda: b"".join(sql.sql(query).chunks("csv")))
        assert csv == b'offset,value,key\n0,"a,b",k0\n1,"{""base64"": ""/wA=""}",\n2,c,\n'
        arrow = await asyncio.to_thread(sql.sql(query).arrow)
        assert arrow.column("value").to_pylist() == [b"a,b", b"\xff\x00", b"c"]
        assert (await asyncio.to_thread(sql.sql(query).to_polars)).height == 3
        assert list((await asyncio.to_thread(sql.sql(query).to_pandas))["offset"]) == [0, 1, 2]
        explained = await asyncio.to_thread(sql.sql(query).explain)
        assert "partition 0: offsets 0 to 2: 0 files, log 0 to 2" in explained
        table = await asyncio.to_thread(lambda: b"".join(sql.sql("select 1 as one, 'x' as two").chunks("table")))
        assert table == b"one  two\n---  ---\n  1  x\n"


async def test_sql__a_client_that_leaves_ends_its_query(tmp_path: Path) -> None:
    async with with_sql(tmp_path) as (node, sql):
        assert node.http_address is not None
        _, writer = await asyncio.open_connection(*node.http_address)
        query = b"select count(*) from range(100000000000) a, range(100000) b"
        writer.write(b"POST /sql HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\n\r\n%s" % (len(query), query))
        await writer.drain()
        await until_children(1)
        writer.close()
        await until_children(0)
        assert await ask(sql, "select 1") == [(1,)]


async def until_children(busy: int) -> None:
    """So many children of this process are computing."""
    for _ in range(1200):
        if await asyncio.to_thread(busy_children) == busy:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"there never were {busy} queries at work")


def busy_children() -> int:
    listed = subprocess.run(
        ["ps", "-o", "stat=,args=", "--ppid", str(__import__("os").getpid())],
        capture_output=True,
        text=True,
        check=False,
    )
    return sum("query.process" in line and line.startswith("R") for line in listed.stdout.splitlines())


async def test_sql__from_the_command_line(tmp_path: Path) -> None:
    async with with_sql(tmp_path) as (node, _):
        await node.broker.topics.create([TopicSpec("t", 2)])
        await asyncio.to_thread(produce, bootstrap(node), "t", iter([b"v"] * 10))
        assert node.http_address is not None
        where = ["--http", "{}:{}".format(*node.http_address)]
        assert "10 records in Parquet" in await command("table", "build", "t", *where)
        assert json.loads(await command("table", "list", "--json", *where)) == [{"topic": "t"}]
        described = json.loads(await command("table", "describe", "t", "--json", *where))
        assert sum(partition["rows"] for partition in described) == 10
        files = json.loads(await command("table", "files", "t", "--json", *where))
        assert all((tmp_path / file["file"]).exists() for file in files)
        assert await command("sql", "--format", "csv", "select count(*) as n from t", *where) == "n\n10\n"
        with pytest.raises(AssertionError, match="there is no topic nothing"):
            await command("table", "build", "nothing", *where)


async def command(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bytemq", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return out.decode()
