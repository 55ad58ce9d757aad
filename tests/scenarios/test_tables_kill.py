"""kill -9 while topics become tables: the same records through Kafka, SQL and Iceberg, and what was half made goes."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import RESTError

import bytemq
from bytemq.errors import BytemqError, Invalid, Unavailable
from bytemq.query.client import Connection
from bytemq.storage.checks.verify import verify
from tests.support.living_files import files_under
from tests.support.node_process import NodeProcess, free_port

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
MAKE = Callable[..., NodeProcess]
KILLS = int(os.environ.get("BYTEMQ_TABLE_KILLS", "3"))
"""`make test` has few; more were run before each change of how files are published."""
MOST_KILLS = 8 * KILLS
"""On a slow machine the first ones come before a worker has got anywhere; each lets it live a little longer."""
VICTIMS = ("worker_process", "node", "query.process")
PATIENCE_S = 120.0
RECORDS = 600
"""Before each kill."""


class Asker(threading.Thread):
    """Asks all the time how much there is, whatever dies meanwhile."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(daemon=True)
        self._connection = connection
        self._stopped = threading.Event()
        self.acknowledged = self.answers = self.refusals = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        query = """select count(*) as n, count(distinct "offset") as m, count(distinct value) as v from t"""
        while not self._stopped.is_set():
            least = self.acknowledged
            try:
                [row] = self._connection.sql(query).rows()
            except BytemqError as error:  # the node is away, or the query's process is
                self.refusals += 1
                if isinstance(error, Invalid) and least:
                    self.wrong.append(str(error))
                self._stopped.wait(0.1)
                continue
            self.answers += 1
            if row["n"] < least or row["n"] != row["m"] or row["n"] != row["v"]:
                self.wrong.append(f"{row}, {least} were acknowledged before")

    def stop(self) -> None:
        self._stopped.set()
        self.join(120)
        assert not self.wrong and self.answers


def test_tables__whoever_is_killed_in_the_middle_of_conversion_merging_and_new_columns(make_node: MAKE) -> None:
    """The node, the worker, a query; while SQL is asked, and documents come with fields that nobody has seen."""
    http = f"127.0.0.1:{free_port()}"
    configs = {
        "bytemq.http.listen": http,
        "bytemq.table.after.ms": "1000",
        "bytemq.table.grace.ms": "0",
        "bytemq.table.row.group.bytes": "65536",
        "bytemq.table.value.format": "json",
        "wal.file.bytes": "1048576",
    }
    options = [part for name, value in configs.items() for part in ("--set", f"{name}={value}")]
    node = make_node(options=options).start()
    connection = bytemq.connect(http)
    asker = Asker(connection)
    moments = random.Random(3)
    sent: list[bytes] = []
    kills: Counter[str] = Counter()
    while kills.total() < KILLS or (not files(connection) and kills.total() < MOST_KILLS):
        victim = VICTIMS[kills.total() % len(VICTIMS)]
        producer = confluent_kafka.Producer({"bootstrap.servers": node.bootstrap, "linger.ms": 5})
        for _ in range(RECORDS):
            field = f"field {kills.total()}.{len(sent) // 200}"
            sent.append(json.dumps({"n": len(sent), field: "x" * moments.randrange(400)}).encode())
            producer.produce("t", sent[-1])
            producer.poll(0)
        assert producer.flush(60) == 0
        asker.acknowledged = len(sent)
        if not asker.is_alive():
            asker.start()
        kill(victim, node, moments.uniform(0.8, 2.0 + kills.total() / 2))
        kills[victim] += 1
        assert consumed(node.bootstrap, len(sent)) == sent
        [row] = patiently(
            lambda: connection.sql("""select count(*) as n, count(distinct "offset") as m from t""").rows()
        )
        assert row == {"n": len(sent), "m": len(sent)}
        check_iceberg(http, sent)
    assert files(connection), "nothing was ever converted"
    assert patiently(lambda: connection.post("/tables/t/build"))["records"] == len(sent)
    assert consumed(node.bootstrap, len(sent)) == sent
    assert check_iceberg(http, sent) == len(sent)
    asker.stop()
    until(lambda: on_disk(node.data_dir) == {file["file"] for file in files(connection)})
    node.terminate()
    assert [str(finding) for finding in verify(node.data_dir) if not finding.is_leftover] == []


def kill(victim: str, node: NodeProcess, wait_s: float) -> None:
    """A process of the node's at once when there is one, and it as well if it is late; the node after a while."""
    if victim == "node":
        time.sleep(wait_s)
        node.kill9()
        node.restart()
        return
    give_up_at = time.monotonic() + 10 * wait_s
    while time.monotonic() < give_up_at:
        for process in children(node.pid, victim):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
                return
        time.sleep(0.01)


def children(parent: int, program: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            is_child = int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[1]) == parent
            if is_child and program in folder.joinpath("cmdline").read_text():
                found.append(int(folder.name))
    return found


def check_iceberg(http: str, sent: list[bytes]) -> int:
    """What pyiceberg finds is what was sent, and each once; how much of it that is."""

    def read() -> Any:
        """Its files may go in the middle: what was merged is kept for nobody here."""
        return load_catalog("node", type="rest", uri=f"http://{http}/iceberg").load_table("bytemq.t").scan().to_arrow()

    rows = patiently(read)
    offsets = rows.column("offset").to_pylist()
    assert len(set(offsets)) == len(offsets)
    assert rows.column("value").to_pylist() == [sent[offset] for offset in offsets]
    assert not offsets or rows.column("n").to_pylist() == offsets
    return len(offsets)


def patiently(ask: Callable[[], Any]) -> Any:
    """Whoever was killed is back soon."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except (Unavailable, OSError, RESTError):
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.1)


def files(connection: Connection) -> list[dict[str, str]]:
    found: list[dict[str, str]] = connection.get("/tables/t/files")
    return found


def on_disk(data: Path) -> set[str]:
    return {path.relative_to(data).as_posix() for path in files_under(data / "tables") if path.suffix == ".parquet"}


def until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.1)


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
