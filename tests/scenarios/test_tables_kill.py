"""kill -9 while topics become tables: the same records through Kafka and SQL, and what was half made goes."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import confluent_kafka

import bytemq
from bytemq.query.client import Connection
from bytemq.storage.checks.verify import verify
from tests.support.node_process import NodeProcess, free_port

MAKE = Callable[..., NodeProcess]
KILLS = int(os.environ.get("BYTEMQ_TABLE_KILLS", "3"))
"""`make test` has few; more were run before each change of how files are published."""
MOST_KILLS = 8 * KILLS
"""On a slow machine the first ones come before a worker has got anywhere; each lets it live a little longer."""
RECORDS = 600
"""Before each kill."""


def test_tables__killed_at_random_moments_of_conversion_and_merging(make_node: MAKE) -> None:
    http = f"127.0.0.1:{free_port()}"
    configs = {
        "bytemq.http.listen": http,
        "bytemq.table.after.ms": "1000",
        "bytemq.table.grace.ms": "0",
        "bytemq.table.row.group.bytes": "65536",
        "wal.file.bytes": "1048576",
    }
    options = [part for name, value in configs.items() for part in ("--set", f"{name}={value}")]
    node = make_node(options=options).start()
    moments = random.Random(3)
    sent: list[bytes] = []
    conversions = kills = 0
    while kills < KILLS or (not conversions and kills < MOST_KILLS):
        kills += 1
        producer = confluent_kafka.Producer({"bootstrap.servers": node.bootstrap, "linger.ms": 5})
        for _ in range(RECORDS):
            sent.append(b"%d:" % len(sent) + b"x" * moments.randrange(400))
            producer.produce("t", sent[-1])
            producer.poll(0)
        assert producer.flush(60) == 0
        time.sleep(moments.uniform(0.8, 2.0 + kills / 2))
        node.kill9()
        node.restart()
        conversions = len(files(bytemq.connect(http)))
        assert consumed(node.bootstrap, len(sent)) == sent
        [row] = bytemq.connect(http).sql("""select count(*) as n, count(distinct "offset") as m from t""").rows()
        assert row == {"n": len(sent), "m": len(sent)}
    assert conversions, "nothing was ever converted"
    connection = bytemq.connect(http)
    assert connection.post("/tables/t/build")["records"] == len(sent)
    assert consumed(node.bootstrap, len(sent)) == sent
    named = {file["file"] for file in files(connection)}
    until(lambda: on_disk(node.data_dir) == named)
    node.terminate()
    assert [str(finding) for finding in verify(node.data_dir) if not finding.is_leftover] == []


def files(connection: Connection) -> list[dict[str, str]]:
    found: list[dict[str, str]] = connection.get("/tables/t/files")
    return found


def on_disk(data: Path) -> set[str]:
    return {path.relative_to(data).as_posix() for path in (data / "tables").rglob("*.parquet")}


def until(condition: Callable[[], bool]) -> None:
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen within half a minute")


def consumed(bootstrap: str, count: int) -> list[bytes]:
    consumer = confluent_kafka.Consumer({"bootstrap.servers": bootstrap, "group.id": "g", "enable.auto.commit": False})
    consumer.assign([confluent_kafka.TopicPartition("t", 0, 0)])
    values: list[bytes] = []
    while len(values) < count:
        message = consumer.poll(120)
        assert message is not None, f"{len(values)} of {count} records came"
        assert message.error() is None, json.dumps(str(message.error()))
        values.append(message.value())
    consumer.close()
    return values
