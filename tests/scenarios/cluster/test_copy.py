"""`bytemq copy`: a single node becomes a cluster over a real S3 server and a real etcd, under clients that go on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import ConfigResource, ResourceType

from tests.scenarios.cluster.cluster import CountingProducer, Reachable, check_nothing_lost, read_all, until
from tests.support.etcd_process import EtcdProcess
from tests.support.node_process import NodeProcess
from tests.support.s3_server import S3Server, running_s3

TIMEOUT_S = 120.0
RETENTION_MS = "7654321000"


class Place(Reachable):
    """Where the clients go, whoever listens there."""

    def __init__(self, node: NodeProcess) -> None:
        self.node = node

    @property
    def bootstrap(self) -> str:
        return self.node.bootstrap


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    with running_s3(tmp_path / "s3") as server:
        yield server


def copy(data: Path, s3: S3Server, etcd: EtcdProcess) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bytemq", "copy", str(data), "s3://records/copied"]
    return subprocess.Popen(
        [*command, "--metadata", etcd.url("cluster")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **s3.environment},
    )


def refused(copying: subprocess.Popen[str], sentence: str) -> None:
    said, _ = copying.communicate(timeout=TIMEOUT_S)
    assert copying.returncode == 1 and sentence in said and "Traceback" not in said, said


def committed(place: Place, topic: str) -> list[int]:
    """What the group has committed of each partition."""
    consumer = Consumer({"bootstrap.servers": place.bootstrap, "group.id": "g", "log_level": 0})
    try:
        return [one.offset for one in consumer.committed([TopicPartition(topic, n) for n in range(4)], TIMEOUT_S)]
    finally:
        consumer.close()


def consume(place: Place, topic: str, count: int) -> list[str]:
    """So many records, as the group's only member; committed when they are here."""
    consumer = Consumer(
        {
            "bootstrap.servers": place.bootstrap,
            "group.id": "g",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "log_level": 0,
        }
    )
    consumer.subscribe([topic])
    found: list[str] = []
    give_up_at = time.monotonic() + TIMEOUT_S
    while len(found) < count:
        assert time.monotonic() < give_up_at, f"{len(found)} of {count}"
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            found.append(message.value().decode())
    consumer.commit(asynchronous=False)
    consumer.close()
    return found


class Transactions:
    """One transactional producer, alive all the time."""

    def __init__(self, place: Place) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": place.bootstrap,
                "transactional.id": "tx",
                "message.timeout.ms": 60_000,
                "log_level": 0,
            }
        )
        self._producer.init_transactions(TIMEOUT_S)

    def run(self, first: int, *, commit: bool) -> list[str]:
        values = [f"t{number}" for number in range(first, first + 20)]
        self._producer.begin_transaction()
        for number, value in enumerate(values):
            self._producer.produce("transactions", value.encode(), partition=number % 4)
        self._producer.flush(TIMEOUT_S)
        if commit:
            self._producer.commit_transaction(TIMEOUT_S)
        else:
            self._producer.abort_transaction(TIMEOUT_S)
        return values if commit else []


def test_copy__of_a_node_becomes_a_cluster_in_which_clients_go_on(
    tmp_path: Path, etcd: EtcdProcess, s3: S3Server
) -> None:
    node = NodeProcess(tmp_path / "data", options=["--id", "1"]).start()
    place = Place(node)
    brokers: list[NodeProcess] = []
    try:
        for name in ("t", "transactions"):
            place.create_topic(name, 4, retention_ms=RETENTION_MS)
        producer = CountingProducer(place, "t")
        transactions = Transactions(place)
        sent = transactions.run(0, commit=True) + transactions.run(100, commit=False)
        first = consume(place, "transactions", 10)
        offsets = committed(place, "transactions")
        producer.wait_for_more(200)
        refused(copy(node.data_dir, s3, etcd), "is in use by another node")
        node.kill9()

        interrupted = copy(node.data_dir, s3, etcd)
        until(lambda: any(s3_objects(tmp_path)), "it has begun")
        interrupted.kill()
        interrupted.communicate()
        copying = copy(node.data_dir, s3, etcd)
        said, _ = copying.communicate(timeout=TIMEOUT_S)
        if copying.returncode:  # it had done everything before it was killed
            assert "there are metadata at this address already" in said, said
        else:
            assert "Copied " in said

        options = ["--metadata", etcd.url("cluster"), "--storage", "s3://records/copied"]
        for number, port in ((1, node.port), (2, None)):
            broker = NodeProcess(
                tmp_path / f"broker-{number}", options=["--id", str(number), *options], port=port,
                environment=s3.environment,
            )  # fmt: skip
            brokers.append(broker.start())
        producer.wait_for_more(200)
        producer.stop()
        check_nothing_lost(producer, read_all(place, "t"))

        assert committed(place, "transactions") == offsets
        sent += transactions.run(200, commit=False) + transactions.run(300, commit=True)
        seen = read_all(place, "transactions", isolation="read_committed")
        assert sorted(value for value, _, _ in seen) == sorted(sent)
        rest = consume(place, "transactions", len(sent) - 10)
        assert sorted(first + rest) == sorted(sent), "the group goes on where it was"
        resource = ConfigResource(ResourceType.TOPIC, "t")
        admin = place.admin()  # it must live until it has answered
        configs = admin.describe_configs([resource])[resource].result(TIMEOUT_S)
        assert configs["retention.ms"].value == RETENTION_MS
        for broker in brokers:
            broker.terminate()
        command = [sys.executable, "-m", "bytemq", "verify", "s3://records/copied", "--metadata", etcd.url("cluster")]
        environment = {**os.environ, **s3.environment}
        verified = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert verified.returncode == 0, verified.stdout + verified.stderr
    finally:
        for broker in (node, *brokers):
            broker.close()


def s3_objects(folder: Path) -> Iterator[Path]:
    """Something of the bucket's volumes that has grown."""
    return (path for path in (folder / "s3").rglob("*.dat") if path.stat().st_size > 100)
