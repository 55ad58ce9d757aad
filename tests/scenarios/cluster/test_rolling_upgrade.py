"""A cluster is upgraded broker by broker under the traffic of unmodified clients: two versions side by side, one broker
going back in between. No client sees an error, nothing is lost; then the feature level is raised, and the old version
stays out.

What is old here is this code without its highest level; `make upgrade-test OLD=<commit>` runs the same with the program
of that commit.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from bytemq.metadata.features import SUPPORTED
from tests.scenarios.cluster.cluster import (
    PATIENCE_S,
    Cluster,
    CountingProducer,
    bytemq,
    check_nothing_lost,
    read_all,
    until,
)
from tests.support.etcd_process import EtcdProcess
from tests.support.node_process import BYTEMQ, NodeFailed, NodeProcess

OLD = [os.environ["UPGRADED_FROM"]] if "UPGRADED_FROM" in os.environ else [
    sys.executable, "-m", "tests.support.older_program",
]  # fmt: skip
LEVEL = SUPPORTED.highest


class Client:
    """Works in a thread until `stop`. Whatever it raises is an error that a client saw."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.work(self._stopping)
        except Exception as error:
            self.errors.append(f"{type(self).__name__}: {error!r}")

    def work(self, stopping: threading.Event) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


class TransactionalWriter(Client):
    """Three records in each transaction, every fourth of which is aborted."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        self.committed: set[str] = set()
        self._topic = topic
        config = {"bootstrap.servers": cluster.bootstrap, "transactional.id": "writer", "log_level": 0}
        self._producer = Producer(config)
        super().__init__()

    def work(self, stopping: threading.Event) -> None:
        self._producer.init_transactions(PATIENCE_S)
        number = 0
        while not stopping.is_set():
            number += 1
            self._producer.begin_transaction()
            values = {f"t{number}-{each}" for each in "abc"}
            for value in values:
                self._producer.produce(self._topic, value.encode(), key=value.encode())
            if number % 4 == 0:
                # An abort of which the coordinator has heard nothing else is INVALID_TXN_STATE, as in Kafka.
                assert self._producer.flush(PATIENCE_S) == 0
                self._producer.abort_transaction(PATIENCE_S)
            else:
                self._producer.commit_transaction(PATIENCE_S)
                self.committed |= values


class Member(Client):
    """Of a group; it commits what it has read, a hundred records at a time."""

    def __init__(self, cluster: Cluster, topic: str, seen: set[str], config: dict[str, Any]) -> None:
        self._seen = seen
        self._consumer = Consumer(
            {
                "bootstrap.servers": cluster.bootstrap,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "log_level": 0,
                **config,
            }
        )
        self._consumer.subscribe([topic])
        super().__init__()

    def work(self, stopping: threading.Event) -> None:
        read = 0
        while not stopping.is_set():
            message = self._consumer.poll(0.2)
            if message is None:
                continue
            if message.error() is not None:
                self.errors.append(f"poll: {message.error()}")
                continue
            self._seen.add(message.value().decode())
            read += 1
            if read % 100 == 0:
                self._commit()
        self._consumer.close()

    def _commit(self) -> None:
        """librdkafka repeats a commit twice, within 0.3 s. Kafka's own client goes on for as long as the coordinator
        loads its log, and so does this.
        """
        while True:
            try:
                self._consumer.commit(asynchronous=False)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.COORDINATOR_LOAD_IN_PROGRESS:
                    raise
            else:
                return


class Traffic:
    """All kinds of clients at once, until `stop`."""

    def __init__(self, cluster: Cluster) -> None:
        for topic in ("plain", "transactions"):
            cluster.create_topic(topic, 6)
        self.producer = CountingProducer(cluster, "plain")
        self.writer = TransactionalWriter(cluster, "transactions")
        self.seen: dict[str, set[str]] = {}
        self._clients: list[Client] = [self.writer]
        for protocol in ("classic", "consumer"):
            values = self.seen[protocol] = set()
            config = {"group.id": f"group-{protocol}", "group.protocol": protocol}
            self._clients += [Member(cluster, "plain", values, config) for _ in range(2)]

    @property
    def errors(self) -> list[str]:
        return self.producer.failed + [error for client in self._clients for error in client.errors]

    def get_on(self) -> None:
        """Returns when everybody has done more, or somebody has seen an error."""
        self.producer.wait_for_more(100)
        sent, transactions = len(self.producer.acknowledged), len(self.writer.committed) + 15
        until(lambda: self.errors or len(self.writer.committed) >= transactions, "transactions get on")
        until(lambda: self.errors or all(len(values) >= sent for values in self.seen.values()), "groups get on")

    def stop(self) -> None:
        for client in self._clients:
            client.stop()
        self.producer.stop()


@pytest.fixture
def cluster(tmp_path: Path, etcd: EtcdProcess) -> Iterator[Cluster]:
    patient = ("--set", "broker.session.timeout.ms=10000")  # a busy machine is no trouble of this test
    made = Cluster(tmp_path, etcd, options=patient, program=OLD)
    try:
        yield made.start()
    finally:
        made.close()


def start(node: NodeProcess) -> None:
    """The program of a commit may fail to start where this one does not, and is started again, as by systemd."""
    for _ in range(0 if node.program == list(BYTEMQ) else 2):
        node.launch()
        with suppress(NodeFailed):
            node.wait_ready(PATIENCE_S)
            return
    node.start(PATIENCE_S)


def restart_with(cluster: Cluster, node: NodeProcess, program: list[str] | tuple[str, ...]) -> None:
    """As docs/operations.md says it."""
    broker, metadata = str(cluster.nodes.index(node)), ("--metadata", cluster.etcd.url("cluster"))
    bytemq("cluster", "drain", broker, *metadata)
    node.terminate(PATIENCE_S)  # on a busy machine it may be abandoned after its time, as any process may be killed
    node.program = list(program)
    start(node)
    bytemq("cluster", "undrain", broker, *metadata)


def test_cluster__is_upgraded_under_traffic_and_then_raised(
    cluster: Cluster, make_node: Callable[..., NodeProcess], tmp_path: Path
) -> None:
    metadata = ("--metadata", cluster.etcd.url("cluster"))

    def levels() -> tuple[int, int]:
        """The one that is finalised, and the highest that all brokers support."""
        found = json.loads(bytemq("cluster", "status", "--json", *metadata))
        return found["feature_level"], found["feature_level_supported"]

    old, _ = levels()
    assert old < LEVEL, f"what is upgraded from must be of a lower feature level than {LEVEL}"
    traffic = Traffic(cluster)
    try:
        traffic.get_on()
        for number, program in ((0, BYTEMQ), (0, OLD), (0, BYTEMQ), (1, BYTEMQ)):
            restart_with(cluster, cluster.nodes[number], program)
            traffic.get_on()
        refused = bytemq("cluster", "upgrade", "--level", str(LEVEL), *metadata, code=1)
        assert f"Broker 2 only supports versions 1-{old}" in refused
        assert f"The feature level is {old}, which is all" in bytemq("cluster", "upgrade", *metadata)
        restart_with(cluster, cluster.nodes[2], BYTEMQ)
        traffic.get_on()
        assert levels() == (old, LEVEL)
        assert f"could be {LEVEL}" in bytemq("cluster", "upgrade", "--dry-run", *metadata)
        assert f"The feature level is {LEVEL} now" in bytemq("cluster", "upgrade", *metadata)
        assert levels() == (LEVEL, LEVEL)
        traffic.get_on()
    finally:
        traffic.stop()
    assert traffic.errors == []
    check_nothing_lost(traffic.producer, read_all(cluster, "plain"))
    committed = [value for value, _, _ in read_all(cluster, "transactions", isolation="read_committed")]
    assert sorted(committed) == sorted(traffic.writer.committed)
    late = make_node(tmp_path / "late", options=["--id", "7", *metadata, "--storage", cluster.storage], program=OLD)
    late.launch()
    assert late.wait_exit(PATIENCE_S) != 0
    assert "written by a newer version of bytemq (feature level" in late.log() and "Traceback" not in late.log()
