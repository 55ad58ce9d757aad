"""Brokers over a real S3 server and a real etcd: killed, paused past their lease, and the audit of what is left."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.scenarios.cluster.at_rest import await_clean
from tests.scenarios.cluster.cluster import Cluster, CountingProducer, check_nothing_lost, read_all, until
from tests.support import probe
from tests.support.etcd_process import EtcdProcess
from tests.support.node_process import NodeProcess
from tests.support.s3_server import minio_program, running_s3

QUICK = ("--set", "storage.upkeep.interval.ms=500", "--set", "storage.garbage.grace.ms=1000")


@pytest.mark.parametrize("kind", ["minio" if minio_program() else "seaweedfs"])
def test_cluster_on_s3__loses_nothing_when_brokers_die_or_are_only_taken_for_dead(tmp_path: Path, kind: str) -> None:
    etcd = EtcdProcess(tmp_path / "etcd").start()
    with running_s3(tmp_path / "s3", kind) as s3:
        cluster = Cluster(tmp_path, etcd, 3, QUICK, storage="s3://records/cluster", environment=s3.environment)
        try:
            run(cluster.start())
            await_clean(cluster)
        finally:
            cluster.close()
            etcd.close()


def run(cluster: Cluster) -> None:
    cluster.create_topic("topic", 12)
    producer = CountingProducer(cluster, "topic")
    producer.wait_for_more()
    cluster.nodes[1].kill9()
    until(lambda: {0, 2} == set(cluster.leaders("topic")), "all partitions have new owners")
    producer.wait_for_more(200)
    cluster.nodes[1].restart()
    paused = cluster.nodes[2]
    ready = paused.log().count(" is ready on ")
    paused.signal(signal.SIGSTOP)
    until(lambda: 2 not in leaders_as_told_by(cluster.nodes[0]), "others took over")
    producer.wait_for_more(200)
    paused.signal(signal.SIGCONT)
    until(lambda: paused.log().count(" is ready on ") > ready, "it has joined anew")
    producer.wait_for_more(200)
    producer.stop()
    check_nothing_lost(producer, read_all(cluster, "topic"))


def leaders_as_told_by(node: NodeProcess) -> list[int]:
    with probe.connect(node.address) as wire:
        return probe.leaders(wire, "topic")
