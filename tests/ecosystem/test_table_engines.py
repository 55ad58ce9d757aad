"""Spark and DuckDB read a topic as an Iceberg table and as plain Parquet: what an unmodified consumer got, typed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyiceberg.catalog import load_catalog

import bytemq
from tests.ecosystem.duckdb_environment import duckdb_rows
from tests.ecosystem.shaped_topic import DOCUMENTS, PARTITIONS, TOPIC, check_readers, consumed, produce_waves
from tests.ecosystem.topics import create_topics
from tests.interop.conftest import Server
from tests.scenarios.cluster.cluster import Cluster
from tests.scenarios.cluster.test_sql_on_s3 import OPTIONS, given_to_everybody, http_of, patiently
from tests.support.etcd_process import EtcdProcess
from tests.support.java import compile_project, java_command
from tests.support.node_process import free_port, running_node
from tests.support.s3_server import S3Server, minio_program, running_s3

pytestmark = pytest.mark.ecosystem
PROJECT = Path(__file__).parent / "iceberg"
OPENED = ("java.lang", "java.nio", "sun.nio.ch", "java.util", "java.lang.invoke", "sun.util.calendar")
"""Spark reaches into the Java runtime, as its own launcher allows it to."""


def spark_rows(*arguments: str) -> Iterator[list[str]]:
    command = java_command(compile_project(PROJECT), "ecosystem.Table", *arguments)
    options = " ".join(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in OPENED)
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | {"JDK_JAVA_OPTIONS": options}
    )
    return (line.split("\t") for line in done.stdout.splitlines() if line.startswith(("row\t", "sums\t")))


@pytest.mark.parametrize("engine", ["spark", "duckdb"])
def test_engines__read_the_columns_of_a_topic_that_changes_its_shape_as_a_consumer_reads_it(
    engine: str, make_server: Callable[..., Server], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if request.config.getoption("--server") == "kafka":
        pytest.skip("Apache Kafka has no tables")
    http = f"127.0.0.1:{free_port()}"
    server = make_server(bytemq_http_listen=http)
    create_topics(server.bootstrap, [TOPIC], PARTITIONS, **{"bytemq.table.value.format": "json"})
    node = bytemq.connect(http)
    produce_waves(server.bootstrap, lambda: node.post("/tables/a.topic/build"))
    expected = consumed(server.bootstrap)
    files = node.get("/tables/a.topic/files")
    assert len(files) == PARTITIONS * len(DOCUMENTS)
    folder = next(path for path in tmp_path.rglob("a.topic") if path.parent.name == "tables")
    catalog = f"http://{http}/iceberg"
    if engine == "spark":
        lines = spark_rows(catalog, TOPIC, str(folder))
    else:
        lines = duckdb_rows(catalog, TOPIC, f"{folder}/**/*.parquet")
    check_readers(lines, expected, {"iceberg", "parquet"})


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    with running_s3(tmp_path / "s3", "minio" if minio_program() else "seaweedfs") as server:
        yield server


@pytest.mark.parametrize("credentials", ["its own", "of the catalog"])
def test_duckdb__reads_a_topic_whose_files_are_on_s3(
    credentials: str, s3: S3Server, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if request.config.getoption("--server") == "kafka":
        pytest.skip("Apache Kafka has no tables")
    http = f"127.0.0.1:{free_port()}"
    options = ["--storage", "s3://records/node", "--set", f"bytemq.http.listen={http}"]
    if credentials == "of the catalog":
        options += given_to_everybody(s3)
    with running_node(tmp_path / "data", options=options, environment=s3.environment) as broker:
        create_topics(broker.bootstrap, [TOPIC], PARTITIONS, **{"bytemq.table.value.format": "json"})
        node = bytemq.connect(http)
        produce_waves(broker.bootstrap, lambda: node.post("/tables/a.topic/build"))
        expected, catalog = consumed(broker.bootstrap), f"http://{http}/iceberg"
        if credentials == "of the catalog":
            check_readers(duckdb_rows(catalog, TOPIC, "-"), expected, {"iceberg"})
            scan = load_catalog("node", type="rest", uri=catalog).load_table(("bytemq", TOPIC)).scan()
            assert scan.to_arrow().num_rows == len(expected)
            return
        address = s3.environment["AWS_ENDPOINT_URL"].removeprefix("http://")
        key, secret = (s3.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
        own = f"key_id '{key}', secret '{secret}', endpoint '{address}', url_style 'path', use_ssl false"
        lines = duckdb_rows(catalog, TOPIC, f"s3://records/node/tables/{TOPIC}/**/*.parquet", own)
        check_readers(lines, expected, {"iceberg", "parquet"})


def test_spark__reads_a_topic_whose_files_are_on_s3(
    s3: S3Server, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """By the URL of the catalog alone, which has credentials for everybody."""
    if request.config.getoption("--server") == "kafka":
        pytest.skip("Apache Kafka has no tables")
    etcd = EtcdProcess(tmp_path / "etcd").start()
    options = (*OPTIONS, *given_to_everybody(s3))
    cluster = Cluster(tmp_path, etcd, 2, options, storage="s3://records/cluster", environment=s3.environment)
    try:
        cluster.start()
        cluster.create_topic(TOPIC, PARTITIONS, bytemq_table_value_format="json")
        http = http_of(cluster.nodes[1])
        node = bytemq.connect(http)
        produce_waves(cluster.bootstrap, lambda: patiently(lambda: node.post("/tables/a.topic/build")))
        lines = spark_rows(f"http://{http}/iceberg", TOPIC, "-")  # plain files would need Hadoop's client for S3
        check_readers(lines, consumed(cluster.bootstrap), {"iceberg"})
    finally:
        cluster.close()
        etcd.close()
