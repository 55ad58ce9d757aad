"""Brokers that lose their sessions under traffic come back by themselves, soon and every time.

`BYTEMQ_PAUSES=50` for more of them than `make test` has the time for.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.scenarios.cluster.cluster import Cluster, CountingProducer, check_nothing_lost, read_all, until
from tests.support.etcd_process import EtcdProcess
from tests.support.node_process import NodeProcess

PAUSES = int(os.environ.get("BYTEMQ_PAUSES", "3"))
TTL_MS = 2000
BACK_WITHIN_S = 60.0
"""Stopping takes 2 s at most, the session before needs no waiting for, and a start is a second or two at rest."""


def lives(node: NodeProcess) -> int:
    return node.log().count(" is ready on ")


def test_brokers__paused_past_their_leases_under_traffic_join_anew_every_time(
    etcd: EtcdProcess, tmp_path: Path
) -> None:
    cluster = Cluster(tmp_path, etcd, 2, ("--set", f"broker.session.timeout.ms={TTL_MS}"))
    try:
        cluster.start()
        pids = [node.pid for node in cluster.nodes]
        cluster.create_topic("t", 20)
        producer = CountingProducer(cluster, "t")
        took_s = []
        for number in range(PAUSES):
            paused, other = number % 2, 1 - number % 2
            node = cluster.nodes[paused]
            before = lives(node)
            producer.wait_for_more()
            node.signal(signal.SIGSTOP)
            until(lambda other=other: set(cluster.leaders("t")) == {other}, "the other one has it all")
            node.signal(signal.SIGCONT)
            resumed_at = time.monotonic()
            until(lambda node=node, before=before: lives(node) > before, "it is back", BACK_WITHIN_S)
            took_s.append(time.monotonic() - resumed_at)
            producer.wait_for_more()
        producer.stop()
        check_nothing_lost(producer, read_all(cluster, "t"))
        assert [node.pid for node in cluster.nodes] == pids, "none has ended"
        print(f"back {max(took_s):.1f} s after it went on at the latest, of {len(took_s)} times")
    finally:
        cluster.close()
