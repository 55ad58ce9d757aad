"""A public benchmark's largest table through a topic: by SQL while it is produced, and by Iceberg, to the last cent."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

import bytemq
from bytemq.query.client import Connection
from tests.ecosystem import line_items
from tests.ecosystem.duckdb_environment import duckdb_python
from tests.ecosystem.topics import TIMEOUT_S, create_topics
from tests.interop.conftest import Server
from tests.support.node_process import free_port

pytestmark = pytest.mark.ecosystem
SCALE = os.environ.get("BYTEMQ_TPCH_SCALE", "0.1")
"""600,572 rows; 1 is six million."""
PARTITIONS = 2
COUNT = "select count(*), count(l_orderkey), count(distinct (l_orderkey, l_linenumber)) from lineitem"
PATIENT = {"bytemq_sql_timeout_ms": "600000", "bytemq_sql_memory_bytes": str(1 << 30)}


def duckdb_answers(*arguments: str) -> list[list[list[Any]]]:
    done = subprocess.run(
        [duckdb_python(), line_items.__file__, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    found: list[list[list[Any]]] = json.loads(done.stdout)
    return found


def sql_answers(node: Connection) -> list[list[list[Any]]]:
    return [[list(row.values()) for row in node.sql(query).rows()] for query in line_items.QUERIES]


def test_line_items__are_the_same_sums_while_and_after_they_become_a_table(
    make_server: Callable[..., Server], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if request.config.getoption("--server") == "kafka":
        pytest.skip("Apache Kafka has no tables")
    file = tmp_path / "lineitem.json"
    expected = duckdb_answers("generate", SCALE, str(file))
    rows = file.read_bytes().splitlines()
    http = f"127.0.0.1:{free_port()}"
    server = make_server(bytemq_http_listen=http, **PATIENT)
    configs = {"bytemq.table.value.format": "json", "bytemq.table.after.ms": "1000"}
    create_topics(server.bootstrap, ["lineitem"], PARTITIONS, **configs)
    node = bytemq.connect(http)
    acknowledged = 0

    def produce() -> None:
        nonlocal acknowledged
        producer = Producer({"bootstrap.servers": server.bootstrap, "linger.ms": 5, "compression.type": "lz4"})

        def delivered(error: object, _: object) -> None:
            nonlocal acknowledged
            assert error is None
            acknowledged += 1

        for number, row in enumerate(rows):
            while True:
                try:
                    producer.produce("lineitem", row, partition=number % PARTITIONS, on_delivery=delivered)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        producer.flush(TIMEOUT_S)

    producing = threading.Thread(target=produce)
    producing.start()
    asked = 0
    while producing.is_alive() or not asked:
        least = acknowledged
        [(records, typed, distinct)] = (row.values() for row in node.sql(COUNT).rows())
        assert least <= records == typed == distinct <= len(rows)
        asked += 1
    producing.join()
    assert acknowledged == len(rows)
    assert sql_answers(node) == expected, "of files and of what is not in files yet"
    assert node.post("/tables/lineitem/build")["records"] == len(rows)
    assert sql_answers(node) == expected, "of files"
    assert duckdb_answers("read", f"http://{http}/iceberg", "lineitem") == expected
