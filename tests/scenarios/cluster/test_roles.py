"""Brokers that do only part of the work: who owns what, who coordinates, who controls, and who serves readers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from confluent_kafka import Consumer

from tests.scenarios.cluster.cluster import PATIENCE_S, Cluster, CountingProducer, until
from tests.scenarios.cluster.zone_reader import ZoneReader
from tests.support.etcd_process import EtcdProcess

ROLES = ["write", "read,write", "control,coordinate", "read"]
"""In zones a, b, c and a."""


def test_roles__keep_the_work_apart(tmp_path: Path, etcd: EtcdProcess) -> None:
    cluster = Cluster(tmp_path, etcd, 4, ("--set", "broker.session.timeout.ms=15000"))  # nobody is to die
    for node, roles in zip(cluster.nodes, ROLES, strict=True):
        node.options += ["--roles", roles]
    try:
        run(cluster.start())
    finally:
        cluster.close()


def run(cluster: Cluster) -> None:
    cluster.create_topic("work", 8)
    until(lambda: sorted(cluster.leaders("work")) == [0] * 4 + [1] * 4, "who writes has all of it")
    producer = CountingProducer(cluster, "work")
    producer.wait_for_more(200)
    in_group = consume_in_a_group(cluster, 100)
    assert in_group
    assert set(cluster.leaders("__consumer_offsets")) == {2}
    assert {row["broker"]: row["roles"] for row in told(cluster)} == dict(enumerate(ROLES))
    assert cluster_status(cluster)["controller"] == 2
    reader = ZoneReader(cluster, "work", 8, "a")
    producer.wait_for_more(300)
    producer.stop()
    reader.wait_for(set(producer.acknowledged))
    assert reader.found == producer.acknowledged
    reader.stop()
    received = reader.received_by_broker
    assert received[3] > 0.8 * sum(received.values()), f"of zone a, broker 3 serves readers: {received}"


def consume_in_a_group(cluster: Cluster, count: int) -> list[bytes]:
    consumer = Consumer(
        {"bootstrap.servers": cluster.bootstrap, "group.id": "g", "auto.offset.reset": "earliest", "log_level": 0}
    )
    consumer.subscribe(["work"])
    found: list[bytes] = []

    def enough() -> bool:
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            found.append(message.value())
        return len(found) >= count

    until(enough, "a group reads")
    consumer.close()
    return found


def told(cluster: Cluster) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(command(cluster, "brokers"))
    return rows


def cluster_status(cluster: Cluster) -> dict[str, object]:
    status: dict[str, object] = json.loads(command(cluster, "status"))
    return status


def command(cluster: Cluster, action: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "bytemq", "cluster", action, "--json", "--metadata", cluster.etcd.url("cluster")],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    ).stdout
