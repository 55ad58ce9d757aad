"""SQL and tables in a cluster whose records are on a real S3 server: any broker is asked, whoever owns the partitions.

What is compared with is what an unmodified read_committed consumer gets.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pytest
from confluent_kafka import Producer
from pyarrow.fs import S3FileSystem
from pyiceberg.catalog import load_catalog

import bytemq
from bytemq.errors import Unavailable
from bytemq.query.client import Connection
from tests.scenarios.cluster.cluster import PATIENCE_S, Cluster, CountingProducer, check_nothing_lost, read_all, until
from tests.support.etcd_process import EtcdProcess
from tests.support.node_process import NodeProcess
from tests.support.s3_server import S3Server, minio_program, running_s3

PARTITIONS = 6
QUERIES = 3
OPTIONS = (
    *("--set", "bytemq.table.grace.ms=600000"),
    # Queries beside three brokers, etcd and S3 are many processes for two cores that others use as well.
    *("--set", "broker.session.timeout.ms=18000"),
    *("--set", "bytemq.sql.timeout.ms=300000"),
)
Row = tuple[int, int, bytes]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module", params=["minio" if minio_program() else "seaweedfs"])
def s3(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3"), request.param) as server:
        yield server


def given_to_everybody(s3: S3Server) -> list[str]:
    """Options of a broker whose catalog lets engines in."""
    key, secret = (s3.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
    settings = (f"bytemq.iceberg.access.key.id={key}", f"bytemq.iceberg.secret.access.key={secret}")
    return [option for setting in settings for option in ("--set", setting)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("sql")
    etcd = EtcdProcess(folder / "etcd").start()
    options = (*OPTIONS, *given_to_everybody(s3))
    made = Cluster(folder, etcd, 3, options, storage="s3://records/cluster", environment=s3.environment)
    try:
        yield made.start()
    finally:
        made.close()
        etcd.close()


def http_of(node: NodeProcess) -> str:
    return ":".join(re.findall(r"http listener started.*host=(\S+) port=(\d+)", node.log())[-1])


def sql_of(node: NodeProcess) -> Connection:
    return bytemq.connect(http_of(node))


def patiently(ask: Callable[[], Any]) -> Any:
    """On a busy machine brokers lose their sessions, and say so."""
    give_up_at = time.monotonic() + 3 * PATIENCE_S
    while True:
        try:
            return ask()
        except Unavailable:
            assert time.monotonic() < give_up_at
            time.sleep(0.5)


def asked(node: NodeProcess, query: str) -> list[tuple[Any, ...]]:
    return patiently(lambda: [tuple(row.values()) for row in sql_of(node).sql(query).rows()])


def explained(node: NodeProcess, query: str) -> str:
    return patiently(lambda: sql_of(node).sql(query).explain())


def fingerprint(rows: Iterable[Row]) -> tuple[int, str]:
    ordered = sorted(rows)
    return len(ordered), hashlib.sha256(repr(ordered).encode()).hexdigest()


def consumed(cluster: Cluster, topic: str) -> list[Row]:
    found = read_all(cluster, topic, isolation="read_committed")
    return [(partition, offset, value.encode()) for value, partition, offset in found]


def rows_by_sql(node: NodeProcess, topic: str) -> list[Row]:
    table = patiently(lambda: sql_of(node).sql(f'select partition, "offset", value from {topic}').arrow())
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def produce_orders(cluster: Cluster) -> None:
    """In transactions, each over all partitions; a third of them aborted."""
    settings = {"bootstrap.servers": cluster.bootstrap, "transactional.id": "orders", "log_level": 0}
    producer = Producer(settings)
    producer.init_transactions(PATIENCE_S)
    for number in range(9):
        producer.begin_transaction()
        for index in range(5 * PARTITIONS):
            order = {"number": number, "price": index / 4, "customer": {"name": f"customer {index}"}}
            producer.produce("orders", json.dumps(order).encode(), partition=index % PARTITIONS)
        if number % 3:
            producer.commit_transaction(PATIENCE_S)
        else:
            producer.flush(PATIENCE_S)
            producer.abort_transaction(PATIENCE_S)


def test_sql__of_every_broker_is_what_a_consumer_reads_before_and_after_conversion(
    cluster: Cluster, s3: S3Server
) -> None:
    cluster.create_topic("orders", PARTITIONS, bytemq_table_value_format="json")
    produce_orders(cluster)
    until(lambda: len(set(cluster.leaders("orders"))) == 3, "every broker has some")
    expected = consumed(cluster, "orders")
    assert len(expected) == 180
    sums = "select number, count(*), sum(price), max(customer.name) from orders group by 1 order by 1"
    by_number = [(number, 30, 108.75, "customer 9") for number in range(9) if number % 3]
    for node in cluster.nodes:
        assert fingerprint(rows_by_sql(node, "orders")) == fingerprint(expected)
        assert asked(node, sums) == by_number
    built = command(cluster, "table", "build", "orders")
    assert "180 records in Parquet after 6 conversions" in built
    for node in cluster.nodes:
        assert fingerprint(rows_by_sql(node, "orders")) == fingerprint(expected)
        assert asked(node, sums) == by_number
        told = explained(node, "select count(*) from orders")
        assert "Parquet: 6 files, 180 records" in told and re.search(r"read from the storage: \d+", told)
    described = json.loads(command(cluster, "table", "describe", "orders", "--json"))
    assert [row["partition"] for row in described] == list(range(PARTITIONS))
    assert sum(row["rows"] for row in described) == 180
    assert {"topic": "orders"} in json.loads(command(cluster, "table", "list", "--json"))
    files = [row["file"] for row in json.loads(command(cluster, "table", "files", "orders", "--json"))]
    check_readers(cluster, s3, files, fingerprint(expected))


def check_readers(cluster: Cluster, s3: S3Server, files: list[str], expected: tuple[int, str]) -> None:
    """Programs that know of the bucket alone, or of the catalog."""
    endpoint, region = s3.environment["AWS_ENDPOINT_URL"], s3.environment["AWS_REGION"]
    keys = (s3.environment["AWS_ACCESS_KEY_ID"], s3.environment["AWS_SECRET_ACCESS_KEY"])
    for node in cluster.nodes[:2]:
        url = f"http://{http_of(node)}/iceberg"
        scan = load_catalog("node", type="rest", uri=url).load_table("bytemq.orders").scan()
        assert fingerprint(rows_of(scan.to_arrow())) == expected
    filesystem = S3FileSystem(access_key=keys[0], secret_key=keys[1], endpoint_override=endpoint, region=region)
    folder = "records/cluster/tables/orders"
    assert fingerprint(rows_of(ds.dataset(folder, filesystem=filesystem, format="parquet").to_table())) == expected
    assert fingerprint(rows_of(pd.read_parquet(folder, filesystem=filesystem))) == expected
    options = {"aws_endpoint_url": endpoint, "aws_access_key_id": keys[0], "aws_secret_access_key": keys[1]}
    options |= {"aws_region": region, "aws_allow_http": "true"}
    frame = pl.scan_parquet(f"s3://{folder}/**/*.parquet", storage_options=options).select(*COLUMNS).collect()
    assert fingerprint(frame.iter_rows()) == expected
    named = ds.dataset([f"records/cluster/{file}" for file in files], filesystem=filesystem, format="parquet")
    with duckdb.connect() as connection:
        connection.register("orders", named)
        found = connection.execute('select partition, "offset", value from orders').fetchall()
    assert fingerprint((partition, offset, bytes(value)) for partition, offset, value in found) == expected


COLUMNS = ("partition", "offset", "value")


def rows_of(table: Any) -> list[Row]:
    """Of Arrow, or of pandas."""
    columns = [table[name] for name in COLUMNS]
    return list(zip(*(one.to_pylist() if hasattr(one, "to_pylist") else one.tolist() for one in columns), strict=True))


def command(cluster: Cluster, *arguments: str) -> str:
    options = ["--http", http_of(cluster.nodes[1])]
    done = subprocess.run([sys.executable, "-m", "bytemq", *arguments, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_sql__sees_each_record_once_and_at_once_while_it_is_produced_converted_and_moved(cluster: Cluster) -> None:
    cluster.create_topic("events", PARTITIONS, bytemq_table_after_ms="1000")
    producer = CountingProducer(cluster, "events")
    producer.wait_for_more(200)
    metadata = cluster.etcd.url("cluster")
    drain = [sys.executable, "-m", "bytemq", "cluster", "drain", "1", "--metadata", metadata]
    drained: subprocess.Popen[bytes] | None = None
    asked_after_move = 0
    number = 0

    def check() -> str:
        """By a broker in turn: all that was acknowledged before it was asked."""
        nonlocal number
        number += 1
        least = len(producer.acknowledged)
        node = cluster.nodes[number % 3]
        query = """select count(*), count(distinct value), count(distinct (partition, "offset")) from events"""
        [(rows, values, offsets)] = asked(node, query)
        assert rows == values == offsets and rows >= least, f"query {number} at broker {number % 3}"
        return explained(node, "select count(*) from events") if number % 4 == 0 else ""

    while asked_after_move < QUERIES:
        check()
        if drained is None and number == QUERIES:
            drained = subprocess.Popen(drain)
        asked_after_move += drained is not None and drained.poll() is not None
    assert drained is not None and drained.returncode == 0
    until(lambda: set(cluster.leaders("events")) == {0, 2}, "broker 1 owns nothing")
    until(lambda: re.search(r"Parquet: [1-9]", check()), "something is converted")
    producer.stop()
    found = read_all(cluster, "events")
    check_nothing_lost(producer, found)
    expected = fingerprint((partition, offset, value.encode()) for value, partition, offset in found)
    for node in cluster.nodes:
        assert fingerprint(rows_by_sql(node, "events")) == expected
