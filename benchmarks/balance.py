"""How the controller of a running cluster spreads a skewed load: three brokers, real etcd, a real S3 server or a
folder.

    python -m benchmarks.balance [--storage s3|file] [--seconds 60] [--seed 1]

A producer writes to 300 partitions, to the n-th busiest 1/n as much as to the busiest one (Zipf), 12 MB/s in all. Told
is what each broker's partitions are given of that, the most loaded one over the mean, while nothing but the controller
moves them: until it is below 1.15, and for a while after that; then the hot set changes at once: other partitions are
the busy ones. An owner is what Metadata says once a second; what partitions are given is counted where it is sent.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from random import Random

from confluent_kafka import Producer

from benchmarks.moves import running_cluster
from tests.scenarios.cluster.cluster import Cluster

TOPIC = "skewed"
PARTITIONS = 300
BYTES_PER_S = 12_000_000
RECORD_BYTES = 20_000
GOAL = 1.15
LIMIT_S = 30.0
"""Within which the goal is to be reached."""


def zipf(random: Random) -> list[float]:
    """The part of each partition, in random order."""
    parts = [1 / rank for rank in range(1, PARTITIONS + 1)]
    random.shuffle(parts)
    return [part / sum(parts) for part in parts]


class SkewedLoad(threading.Thread):
    """Produces at a steady rate; `parts` may be replaced at any time."""

    def __init__(self, cluster: Cluster, parts: Sequence[float], random: Random) -> None:
        super().__init__(daemon=True)
        self._producer = Producer({"bootstrap.servers": cluster.bootstrap, "acks": "all", "log_level": 0})
        self._random = random
        self._stopping = threading.Event()
        self.parts = parts
        self.errors: Counter[str] = Counter()

    def run(self) -> None:
        value, due = os.urandom(RECORD_BYTES), time.monotonic()
        while not self._stopping.is_set():
            if due <= time.monotonic():
                [partition] = self._random.choices(range(PARTITIONS), self.parts)
                due += RECORD_BYTES / BYTES_PER_S
                try:
                    self._producer.produce(TOPIC, value, partition=partition, on_delivery=self._delivered)
                except BufferError:
                    self._producer.poll(0.1)
            self._producer.poll(max(0.0, due - time.monotonic()))
        self._producer.flush(60)

    def _delivered(self, error: object, message: object) -> None:
        if error is not None:
            self.errors[str(error)] += 1

    def stop(self) -> None:
        self._stopping.set()
        self.join(90)


class Watch:
    """Who owns what, once a second."""

    def __init__(self, cluster: Cluster, load: SkewedLoad) -> None:
        self._cluster = cluster
        self._load = load
        self._owners = cluster.leaders(TOPIC)

    def run(self, name: str, seconds: float) -> None:
        """Tells when the goal was reached for good, what moved, and what never twice."""
        began = time.monotonic()
        moved: Counter[int] = Counter()
        late_moves = 0
        reached_s: float | None = None
        ratio = start = self._ratio()
        while (passed_s := time.monotonic() - began) < seconds:
            time.sleep(1)
            owners = self._cluster.leaders(TOPIC)
            if len(owners) != PARTITIONS:
                continue
            changed = [index for index, pair in enumerate(zip(self._owners, owners, strict=True)) if len(set(pair)) > 1]
            moved.update(changed)
            if passed_s > LIMIT_S:
                late_moves += len(changed)
            self._owners, ratio = owners, self._ratio()
            if ratio >= GOAL:
                reached_s = None
            elif reached_s is None:
                reached_s = time.monotonic() - began
        reached = f"below {GOAL} for good after {reached_s:.0f} s" if reached_s is not None else f"not below {GOAL}"
        print(
            f"{name}: max/mean {start:.2f} at first, {reached}, {ratio:.2f} at the end; {sum(moved.values())} moves, "
            f"{late_moves} of them in the {seconds - LIMIT_S:.0f} s after the first {LIMIT_S:.0f}; "
            f"one partition at most {max(moved.values(), default=0)} times; load average {os.getloadavg()[0]:.1f}",
            flush=True,
        )

    def _ratio(self) -> float:
        sums = [0.0] * 3
        for owner, part in zip(self._owners, self._load.parts, strict=True):
            if owner >= 0:
                sums[owner] += part
        return max(sums) / (sum(sums) / len(sums))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", default="s3", choices=("s3", "file"))
    parser.add_argument("--kind", default="seaweedfs", choices=("seaweedfs", "minio"))
    parser.add_argument("--seconds", type=float, default=60.0, help="of each half")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--logs", help="a folder for the brokers' logs")
    options = parser.parse_args()
    random = Random(options.seed)
    with running_cluster(options) as cluster:
        cluster.create_topic(TOPIC, PARTITIONS)
        load = SkewedLoad(cluster, zipf(random), random)
        load.start()
        watch = Watch(cluster, load)
        watch.run("from the start of the load", options.seconds)
        load.parts = zipf(random)
        watch.run("from a change of the hot set", options.seconds)
        load.stop()
        print(f"errors that the producer saw: {dict(load.errors) or 'none'}", flush=True)


if __name__ == "__main__":
    main()
