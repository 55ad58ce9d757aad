"""Compaction on a running node: workers and node killed while it goes on and tables are made, and what is left in the
data folder.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from bytemq.compaction.worker import WORKER_PROCESS
from bytemq.metadata import keys
from bytemq.metadata.database import Database
from bytemq.storage.checks.verify import DATABASE, verify
from bytemq.storage.manifests.manifest_codec import decode_manifest, directory_of, names_of
from tests.support.living_files import files_under
from tests.support.node_process import NodeProcess, command_of

MAKE = Callable[..., NodeProcess]
TIMEOUT_S = 180.0
CONFIGS = {
    "log.cleaner.backoff.ms": "50",
    "log.retention.check.interval.ms": "200",
    "bytemq.table.after.ms": "1000",
    "bytemq.table.grace.ms": "0",
}
OPTIONS = [part for name, value in CONFIGS.items() for part in ("--set", f"{name}={value}")]
COMPACTED = {
    "cleanup.policy": "compact",
    "segment.bytes": "1048576",
    "min.cleanable.dirty.ratio": "0.01",
    "delete.retention.ms": "0",
}
KEYS = 2_000


def create(node: NodeProcess, topic: str, **config: str) -> AdminClient:
    admin = AdminClient({"bootstrap.servers": node.bootstrap})
    admin.create_topics([NewTopic(topic, 1, 1, config=config)])[topic].result(TIMEOUT_S)
    return admin


def state_of(node: NodeProcess, topic: str) -> tuple[dict[bytes, bytes], int]:
    """What a consumer from the beginning knows at the end, and how many records it took."""
    settings = {"bootstrap.servers": node.bootstrap, "group.id": "reader", "enable.partition.eof": True}
    consumer = Consumer(settings | {"auto.offset.reset": "earliest", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    state: dict[bytes, bytes | None] = {}
    count, last = 0, -1
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        for message in consumer.consume(5_000, timeout=1.0):
            error = message.error()
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                consumer.close()
                return {key: value for key, value in state.items() if value is not None}, count
            assert message.offset() > last, "offsets go up"
            last = message.offset()
            state[message.key()] = message.value()
            count += 1
    raise TimeoutError("the consumer did not reach the end")


def workers_of(node: NodeProcess) -> list[int]:
    return [pid for pid in node.children() if WORKER_PROCESS in command_of(pid)]


def kill_workers(node: NodeProcess, after_s: float) -> int:
    """Those there are so long after there were any; how many."""
    until(lambda: bool(workers_of(node)))
    time.sleep(after_s)
    killed = 0
    for worker in workers_of(node):
        with suppress(ProcessLookupError):  # it has ended by itself
            os.kill(worker, signal.SIGKILL)
            killed += 1
    return killed


def referenced(data: Path) -> set[str]:
    """Everything that a manifest names, by a copy of the metadata: a node keeps its own to itself."""
    with TemporaryDirectory() as folder:
        before = None
        while before != (before := [(path.stat().st_mtime_ns, path.stat().st_size) for path in databases(data)]):
            for path in databases(data):  # again, if it was written to meanwhile
                shutil.copy(path, folder)
        database = Database(Path(folder) / DATABASE, "page-cache")
        found: set[str] = set()
        for entry in database.range(keys.MANIFESTS).entries:
            directory = directory_of(keys.partition_of_manifest(entry.key))
            found.update(names_of(decode_manifest(entry.value, directory)))
        database.close()
        return found


def databases(data: Path) -> list[Path]:
    return [path for path in (data / DATABASE, data / f"{DATABASE}-wal") if path.exists()]


def objects(data: Path) -> set[str]:
    folders = [data / "topics", data / "tables", data / "iceberg"]
    return {path.relative_to(data).as_posix() for folder in folders for path in files_under(folder)}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.02)


def test_worker_and_node__killed_during_compaction_lose_nothing(make_node: MAKE) -> None:
    chance = random.Random(4)
    node = make_node(options=OPTIONS).start()
    create(node, "topic", **COMPACTED)
    settings = {"bootstrap.servers": node.bootstrap, "enable.idempotence": True, "linger.ms": 2, "log_level": 0}
    producer = Producer(settings)
    expected: dict[bytes, bytes] = {}
    number = killed_workers = 0
    for kill in range(8):
        for _ in range(6_000):
            number += 1
            key = b"key-%d" % chance.randrange(KEYS)
            if chance.random() < 0.1:
                expected.pop(key, None)
                producer.produce("topic", None, key)
            else:
                expected[key] = b"%d" % number + bytes(chance.randrange(120))
                producer.produce("topic", expected[key], key)
            producer.poll(0)
        assert producer.flush(TIMEOUT_S) == 0
        if kill % 4 == 3:
            node.kill9()
            node.restart()
        else:
            killed_workers += kill_workers(node, chance.random() / 5)
        state, _ = state_of(node, "topic")
        assert state == expected, kill
    assert killed_workers >= 3
    until(lambda: state_of(node, "topic")[1] < 3 * KEYS + 8_000)
    assert state_of(node, "topic")[0] == expected
    node.terminate()
    assert [finding for finding in verify(node.data_dir) if not finding.is_leftover] == []
    node.restart()
    until(lambda: objects(node.data_dir) == referenced(node.data_dir))
    assert state_of(node, "topic")[0] == expected
