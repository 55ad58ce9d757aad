"""How long partitions are away when a broker dies, when etcd's leader dies, and when both die at the same moment:
`python -m tests.chaos.failover --times 5`.

By `kill -9`. From then on: until others are to have all that broker had, as another one tells, and until each partition
has acknowledged a record again to an unmodified idempotent producer.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.cluster import LATE, STRICT, ChaosBroker, ChaosCluster, end_when_terminated, leading, running_cluster
from tests.scenarios.cluster.cluster import CountingProducer, until
from tests.support import probe

TOPIC = "failover"
CASES = ("broker", "etcd's leader", "both")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.failover", description=__doc__)
    parser.add_argument("--times", type=int, default=5, help="each case (default: 5)")
    parser.add_argument("--partitions", type=int, default=12, help="(default: 12)")
    options = parser.parse_args()
    end_when_terminated()
    with tempfile.TemporaryDirectory(prefix="chaos-failover-") as folder, running_cluster(Path(folder), 0) as cluster:
        cluster.way(STRICT).create_topic(TOPIC, options.partitions)
        for case in CASES:
            found = [measure(cluster, case, number) for number in range(options.times)]
            for words, column in zip(
                ("others are named", "acknowledging again"), zip(*found, strict=True), strict=True
            ):
                print(
                    f"{case} killed, {words}: median {statistics.median(column):.2f} s,"
                    f" {min(column):.2f} to {max(column):.2f}; load {os.getloadavg()[0]:.0f}",
                    flush=True,
                )
    return 0


def measure(cluster: ChaosCluster, case: str, number: int) -> tuple[float, float]:
    """Seconds until there are new owners, and until everything is acknowledged again."""
    producer = CountingProducer(cluster.way(LATE), TOPIC)
    producer.wait_for_more(200)
    until(lambda: set(owners(cluster.brokers[0])) == {0, 1, 2}, "every broker owns something")
    victim = cluster.brokers[number % len(cluster.brokers)]
    witness = cluster.brokers[(number + 1) % len(cluster.brokers)]
    leader = leading(cluster.etcd)
    kills: dict[str, list[Callable[[], None]]] = {
        "broker": [lambda: cluster.kill_broker(victim)],
        "etcd's leader": [leader.kill9],
        "both": [leader.kill9, lambda: cluster.kill_broker(victim)],
    }
    killed_at = time.monotonic()
    for kill in kills[case]:
        kill()
    gone = -1 if case == "etcd's leader" else cluster.brokers.index(victim)
    until(lambda: not {gone, -1} & set(owners(witness)), "others are to have everything")
    named_s = time.monotonic() - killed_at
    until(lambda: producer.acknowledged_since(killed_at) is not None, "every partition acknowledges again")
    again_at = producer.acknowledged_since(killed_at)
    assert again_at is not None
    producer.stop()
    cluster.heal()
    for broker in cluster.brokers:
        broker.node.wait_ready()
    return named_s, again_at - killed_at


def owners(broker: ChaosBroker) -> list[int]:
    with probe.connect(broker.node.address) as wire:
        return probe.leaders(wire, TOPIC)


if __name__ == "__main__":
    sys.exit(main())
