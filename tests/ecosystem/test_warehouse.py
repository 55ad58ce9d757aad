"""A warehouse that keeps offsets with its rows: exact rows after kill -9 of the program and of the broker."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import KafkaException, Producer

from tests.ecosystem.topics import create_topics
from tests.ecosystem.warehouse import open_database
from tests.interop.conftest import Server

PARTITIONS = 3
TRANSACTIONS = 60
ROWS_OF_ONE = 40
TIMEOUT_S = 60.0
SEEN_S = 0.1
"""Long enough for records to be read, were it allowed."""


@contextmanager
def loading(server: Server, database: Path) -> Iterator[None]:
    """The warehouse at work; killed at the end of the block, wherever it is."""
    command = [sys.executable, "-m", "tests.ecosystem.warehouse", server.bootstrap, "facts", str(database)]
    program = subprocess.Popen(command)
    try:
        yield
        assert program.poll() is None, f"the warehouse gave up with {program.returncode}"
    finally:
        program.kill()
        program.wait()


def rows_of(database: Path) -> list[tuple[int, int, str]]:
    connection = open_database(str(database))
    try:
        return connection.execute("SELECT partition, offset, value FROM rows ORDER BY rowid").fetchall()
    finally:
        connection.close()


def wait_for_rows(database: Path, count: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while len(rows_of(database)) < count:
        assert time.monotonic() < deadline, f"{len(rows_of(database))} of {count} rows"
        time.sleep(0.02)


class Source:
    """Writes numbered values in transactions, every fifth of which it aborts."""

    def __init__(self, bootstrap: str) -> None:
        # A transaction outlives every restart, however slow the machine is.
        patience = {"transaction.timeout.ms": 300_000, "reconnect.backoff.max.ms": 100}
        settings = {"transactional.id": "source", "linger.ms": 1, **patience}
        self._producer = Producer({"bootstrap.servers": bootstrap, **settings})
        self._producer.init_transactions(TIMEOUT_S)
        self._next = 0
        self.committed: list[str] = []

    def transactions(self, count: int, meanwhile: Callable[[], object] | None = None) -> None:
        """`meanwhile` happens in the middle of the last one."""
        for number in range(count):
            values = [str(value) for value in range(self._next, self._next + ROWS_OF_ONE)]
            self._next += ROWS_OF_ONE
            aborts = number % 5 == 3
            self._producer.begin_transaction()
            for value in values:
                self._producer.produce("facts", value, partition=int(value) % PARTITIONS)
            if meanwhile is not None and number == count - 1:
                self._producer.poll(0.01)
                meanwhile()
            if aborts:
                self._producer.flush(TIMEOUT_S)
                time.sleep(SEEN_S)
            self._end(aborts)
            if not aborts:
                self.committed += values

    def _end(self, aborts: bool) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                (self._producer.abort_transaction if aborts else self._producer.commit_transaction)(TIMEOUT_S)
                return
            except KafkaException as error:  # the broker is away
                assert error.args[0].retriable() and time.monotonic() < deadline, error


def test_warehouse__rows_are_exact_whoever_is_killed(make_server: Callable[..., Server], tmp_path: Path) -> None:
    server = make_server()
    create_topics(server.bootstrap, ["facts"], PARTITIONS)
    database = tmp_path / "warehouse.db"
    source = Source(server.bootstrap)
    share = TRANSACTIONS // 6

    def kill_server() -> None:
        server.kill9()
        server.restart()

    for _ in range(3):
        with loading(server, database):
            source.transactions(share)
            wait_for_rows(database, len(source.committed) // 2)
        source.transactions(share, meanwhile=kill_server)
    with loading(server, database):
        kill_server()
        wait_for_rows(database, len(source.committed))
        source.transactions(share, meanwhile=kill_server)
        wait_for_rows(database, len(source.committed))
    rows = rows_of(database)
    read = [[value for partition, _, value in rows if partition == index] for index in range(PARTITIONS)]
    written = [[value for value in source.committed if int(value) % PARTITIONS == index] for index in range(PARTITIONS)]
    assert read == written, "rows lost, repeated, out of order or aborted"
    connection = sqlite3.connect(database)
    stored = dict(connection.execute("SELECT partition, next FROM offsets"))
    connection.close()
    assert stored == {index: max(row[1] for row in rows if row[0] == index) + 1 for index in range(PARTITIONS)}
