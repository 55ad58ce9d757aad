"""The Java consumer with `client.rack` (KIP-392): it reads in its zone what is committed, also through a kill."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.interop.conftest import PATIENT_MS
from tests.interop.kafka_process import INTEROP
from tests.scenarios.cluster.cluster import PATIENCE_S, Cluster
from tests.support.etcd_process import EtcdProcess
from tests.support.java import fetch_jars, java_command

pytestmark = pytest.mark.interop

PARTITIONS = 6
CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"


def test_java_consumer__reads_committed_transactions_in_its_zone_also_when_an_owner_is_killed(tmp_path: Path) -> None:
    etcd = EtcdProcess(tmp_path / "etcd").start()
    cluster = Cluster(tmp_path, etcd, options=("--set", f"broker.session.timeout.ms={PATIENT_MS}"))
    try:
        run(cluster.start(), tmp_path)
    finally:
        cluster.close()
        etcd.close()


def run(cluster: Cluster, folder: Path) -> None:
    cluster.create_topic("decided", PARTITIONS)
    transactions = Transactions(cluster)
    committed = transactions.run(30)
    wanted = len(committed) + 2 * 20 * PARTITIONS
    arguments = [
        *("--bootstrap-server", cluster.bootstrap, "--topic", "decided", "--from-beginning"),
        *("--isolation-level", "read_committed", "--max-messages", str(wanted), "--timeout-ms", "120000"),
        *("--command-property", "client.rack=c", "--command-property", "group.id=java"),
        *("--formatter-property", "print.partition=true", "--formatter-property", "print.offset=true"),
    ]
    command = java_command(fetch_jars(INTEROP / "kafka-tools"), CONSUMER, *arguments, heap_mib=256)
    with (folder / "out").open("wb") as out, (folder / "errors").open("wb") as errors:
        consumer = subprocess.Popen(command, stdout=out, stderr=errors)
        try:
            committed |= transactions.run(30)
            cluster.nodes[0].kill9()
            committed |= transactions.run(30)
            assert consumer.wait(2 * PATIENCE_S) == 0, (folder / "errors").read_text()
        finally:
            consumer.kill()
    lines = (folder / "out").read_text().splitlines()
    read = [(int(found[1]), int(found[2]), found[3]) for line in lines if (found := _LINE.match(line))]
    assert len(read) == len(lines) == wanted
    assert {value for _, _, value in read} == committed, "each committed record, and no other, once"
    for index in range(PARTITIONS):
        offsets = [offset for partition, offset, _ in read if partition == index]
        assert offsets == sorted(set(offsets))
    owner, reader = (node.metric("bytemq_topic_bytes_out_total", 'topic="decided"') for node in cluster.nodes[1:])
    assert reader > 0.8 * (owner + reader), f"zone c reads from broker 2: {reader} bytes, and {owner} from an owner"


_LINE = re.compile(r"Partition:(\d+)\tOffset:(\d+)\t(.*)")


class Transactions:
    """One of three is aborted; each has a record in every partition."""

    def __init__(self, cluster: Cluster) -> None:
        config = {"bootstrap.servers": cluster.bootstrap, "transactional.id": "decider", "log_level": 0}
        self._producer = Producer(config)
        self._producer.init_transactions(PATIENCE_S)
        self._count = 0

    def run(self, count: int) -> set[str]:
        """What was committed."""
        committed: set[str] = set()
        for _ in range(count):
            self._count += 1
            values = {f"{self._count}-{index}" for index in range(PARTITIONS)}
            self._producer.begin_transaction()
            for index, value in enumerate(sorted(values)):
                self._producer.produce("decided", value.encode(), partition=index)
            if self._count % 3:
                self._producer.commit_transaction(PATIENCE_S)
                committed |= values
            else:
                self._producer.flush(PATIENCE_S)
                self._producer.abort_transaction(PATIENCE_S)
        return committed
