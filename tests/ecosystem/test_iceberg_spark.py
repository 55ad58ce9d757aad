"""Spark reads a topic as an Iceberg table, and finds what was produced."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import bytemq
from tests.ecosystem.topics import create_topics, produce
from tests.interop.conftest import Server
from tests.support.java import compile_project, java_command
from tests.support.node_process import free_port

pytestmark = pytest.mark.ecosystem
PROJECT = Path(__file__).parent / "iceberg"
OPENED = ("java.lang", "java.nio", "sun.nio.ch", "java.util", "java.lang.invoke", "sun.util.calendar")
"""Spark reaches into the Java runtime, as its own launcher allows it to."""


def test_spark__reads_a_topic_as_an_iceberg_table(
    make_server: Callable[..., Server], request: pytest.FixtureRequest
) -> None:
    if request.config.getoption("--server") == "kafka":
        pytest.skip("Apache Kafka has no tables")
    http = f"127.0.0.1:{free_port()}"
    server = make_server(bytemq_http_listen=http)
    create_topics(server.bootstrap, ["a.topic"])
    sent = [(f"k{number}", f"value {number}") for number in range(1000)]
    produce(server.bootstrap, "a.topic", sent)
    assert bytemq.connect(http).post("/tables/a.topic/build")["records"] == len(sent)
    command = java_command(compile_project(PROJECT), "ecosystem.Table", f"http://{http}/iceberg", "a.topic")
    options = " ".join(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in OPENED)
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | {"JDK_JAVA_OPTIONS": options}
    )
    values = [line.split("\t")[2] for line in done.stdout.splitlines() if line.startswith("row\t")]
    assert sorted(values) == sorted(value for _, value in sent)
