"""A planned restart under unmodified clients: nobody sees an error, nothing is lost, and nobody waits for long. And
what clients are told of the owners that a partition has had.

The figures are those of `python -m benchmarks.moves`; the limits here are patient, for a machine that is busy.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.scenarios.cluster.cluster import (
    LONG_SESSIONS,
    Cluster,
    CountingProducer,
    check_nothing_lost,
    read_all,
    until,
)
from tests.scenarios.leader_epochs import check_ends
from tests.support import machine, probe

PAUSE_LIMIT_S = 3.0
OPTIONS = LONG_SESSIONS


def command(cluster: Cluster, *arguments: str) -> None:
    whole = [sys.executable, "-m", "bytemq", "cluster", *arguments, "--metadata", cluster.etcd.url("cluster")]
    done = subprocess.run(whole, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_planned_restart__is_seen_by_no_client(cluster: Cluster) -> None:
    cluster.create_topic("restarted", 12)
    until(lambda: sorted(set(cluster.leaders("restarted"))) == [0, 1, 2], "every broker has some")
    producer = CountingProducer(cluster, "restarted", acks="all")
    producer.wait_for_more(200)
    command(cluster, "drain", "1")
    assert cluster.leaders("restarted").count(1) == 0
    producer.wait_for_more(200)
    drained_s = producer.longest_pause_of_a_partition_s()
    print(f"longest pause of a partition while it was drained {drained_s:.2f} s")
    limit_s = PAUSE_LIMIT_S * machine.slowness()
    assert drained_s < limit_s, "a client's back-off, a flush and a commit: not a lease, nor a claim that is waited for"
    assert cluster.nodes[1].terminate(60) == 0
    cluster.nodes[1].restart()
    command(cluster, "undrain", "1")
    until(lambda: cluster.leaders("restarted").count(1) >= 3, "it has its share again")
    producer.wait_for_more(200)
    producer.stop()
    check_nothing_lost(producer, read_all(cluster, "restarted"))


def test_leader_epochs__end_where_their_last_record_is_whoever_owned_it(cluster: Cluster) -> None:
    cluster.create_topic("topic", 1)

    def written() -> bool:
        with probe.connect(cluster.owner("topic").address) as wire:
            return probe.produce(wire, "topic")[0] == 0

    counts = (3, 2, 4, 1)
    for count, how in zip(counts, ("drained", "killed", "stopped", None), strict=True):
        for _ in range(count):
            until(written, "a record is acknowledged by its owner")
        owner = cluster.owner("topic")
        number = str(cluster.nodes.index(owner))
        if how == "drained":
            command(cluster, "drain", number)
            command(cluster, "undrain", number)
        elif how is not None:
            owner.terminate(60) if how == "stopped" else owner.kill9()
            until(lambda dead=owner: cluster.owner("topic") is not dead, "another one owns it")
            owner.restart()
    with probe.connect(cluster.owner("topic").address) as wire:
        assert len(check_ends(wire, sum(counts))) >= len(counts)
