"""What readers in other zones cost and how late they are: a cluster of three zones over a real S3 server and etcd.

    python -m benchmarks.readers [--seconds 10] [--pairs 4] [--mb-per-s 3] [--groups 5] [--kind seaweedfs|minio]

Groups read the tail in one zone while something is produced at a steady rate, each record with its time. Told are the
bytes that the zone's broker has read from the store for each byte produced, and how old records are when they are read:
by the owners' own readers, in the zone, and in the zone while another group there reads all of the history, as fast as
it can, again and again; the last two alternately. Clients and brokers share the machine: the ratios say more than the
times, and the consumer of the history has a lower priority, so that what is seen is what it does to the broker.
"""

from __future__ import annotations

import argparse
import os
import statistics
import struct
import threading
import time
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.clusters import cluster_on_s3
from benchmarks.rescan import Rescan
from tests.scenarios.cluster.cluster import Cluster

TOPIC = "tail"
PARTITIONS = 6
MIB = 1024 * 1024
RECORD_BYTES = 10_000
"""Not small: clients in Python would take more of the machine than the brokers."""
ZONE, ZONE_BROKER = "c", 2
SETTLE_S = 5.0
SETTINGS = tuple(
    option
    for name, value in {
        "broker.session.timeout.ms": 20_000,  # a machine that is busy is no reason to move
        "wal.memory.bytes": 64 * MIB,
        "wal.retained.bytes": 64 * MIB,
        "storage.cache.bytes": 32 * MIB,
        "storage.scratch.bytes": 64 * MIB,
    }.items()
    for option in ("--set", f"{name}={value}")
)
"""Little memory, so that a history of some hundred megabytes is history: most of it is read from the store."""
_STAMP = struct.Struct("<d")


def fill(cluster: Cluster, topic: str, partitions: int, megabytes: int) -> None:
    """As fast as it goes."""
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "linger.ms": 20, "log_level": 0})
    for number in range(megabytes * 1_000_000 // RECORD_BYTES):
        while True:
            try:
                producer.produce(topic, os.urandom(RECORD_BYTES), partition=number % partitions)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush(120)


class Load(threading.Thread):
    """Produces at a steady rate until `stop`; counts bytes of values and keys, not of protocol."""

    def __init__(self, cluster: Cluster, bytes_per_s: float) -> None:
        super().__init__(daemon=True)
        self._producer = Producer(
            {"bootstrap.servers": cluster.bootstrap, "linger.ms": 5, "enable.idempotence": True, "log_level": 0}
        )
        self._per_step = max(1, round(bytes_per_s / 100 / RECORD_BYTES))
        self._stopping = threading.Event()
        self._filler = os.urandom(RECORD_BYTES - _STAMP.size)

    def run(self) -> None:
        due = time.monotonic()
        while not self._stopping.is_set():
            for _ in range(self._per_step):
                try:
                    self._producer.produce(TOPIC, _STAMP.pack(time.time()) + self._filler)
                except BufferError:
                    self._producer.poll(0.1)
            self._producer.poll(0)
            due = max(due + 0.01, time.monotonic() - 0.1)
            time.sleep(max(0.0, due - time.monotonic()))
        self._producer.flush(60)

    def stop(self) -> None:
        self._stopping.set()
        self.join(60)


class TailReader(threading.Thread):
    """Reads from the end and notes how old each record is. Without a zone it reads from the owners."""

    def __init__(self, cluster: Cluster, group: str, zone: str = "") -> None:
        super().__init__(daemon=True)
        self._consumer = _consumer(cluster, group, zone)
        ends = [
            TopicPartition(TOPIC, index, self._consumer.get_watermark_offsets(TopicPartition(TOPIC, index))[1])
            for index in range(PARTITIONS)
        ]
        self._consumer.assign(ends)
        self._stopping = threading.Event()
        self.ages_s: list[float] = []

    def run(self) -> None:
        while not self._stopping.is_set():
            for message in self._consumer.consume(500, 0.05):
                if message.error() is None:
                    self.ages_s.append(time.time() - _STAMP.unpack_from(message.value())[0])
        self._consumer.close()

    def stop(self) -> None:
        self._stopping.set()
        self.join(60)


def _consumer(cluster: Cluster, group: str, zone: str, **config: Any) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": cluster.bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 500,
            "client.rack": zone,
            "log_level": 0,
            **config,
        }
    )


def produced_bytes(cluster: Cluster) -> float:
    return sum(node.metric("bytemq_topic_bytes_in_total", TOPIC) for node in cluster.nodes)


def moves_so_far(cluster: Cluster) -> int:
    """Each is a pause of some hundred milliseconds, for one partition's readers, and belongs to the balance of load."""
    return cluster.logs().count("moving partitions")


class Readers:
    """All groups, at the tail."""

    def __init__(self, cluster: Cluster, groups: int, zone: str) -> None:
        self._cluster = cluster
        self._node = cluster.nodes[ZONE_BROKER]
        self._readers = [TailReader(cluster, f"group-{zone}-{number}", zone) for number in range(groups)]
        for reader in self._readers:
            reader.start()
        time.sleep(SETTLE_S)  # until they read where they shall

    def measure(self, name: str, seconds: float) -> tuple[float, float]:
        """The 99th percentile of the age of records in ms, and bytes read from the store by the zone's broker for each
        byte produced.
        """
        for reader in self._readers:
            reader.ages_s.clear()
        read_bytes, came_bytes = self._node.metric("bytemq_store_read_bytes_total"), produced_bytes(self._cluster)
        time.sleep(seconds)
        read_bytes = self._node.metric("bytemq_store_read_bytes_total") - read_bytes
        came_bytes = produced_bytes(self._cluster) - came_bytes
        ages_s = [age for reader in self._readers for age in list(reader.ages_s)]
        cuts = statistics.quantiles(ages_s, n=100)
        p50_ms, p99_ms = cuts[49] * 1000, cuts[98] * 1000
        print(f"{name:<44} p50 {p50_ms:7.1f} ms   p99 {p99_ms:7.1f} ms   of {len(ages_s)} records", flush=True)
        return p99_ms, read_bytes / came_bytes

    def stop(self) -> None:
        for reader in self._readers:
            reader.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--mb-per-s", type=float, default=3.0)
    parser.add_argument("--history-mb", type=int, default=300)
    parser.add_argument("--groups", type=int, default=5)
    parser.add_argument("--rescan-niceness", type=int, default=10, help="beside that of everything else")
    parser.add_argument("--kind", default="seaweedfs", choices=("seaweedfs", "minio"))
    options = parser.parse_args()
    with cluster_on_s3(options.kind, 3, SETTINGS) as (cluster, _):
        run(cluster, options)


def run(cluster: Cluster, options: argparse.Namespace) -> None:
    cluster.create_topic(TOPIC, PARTITIONS)
    fill(cluster, TOPIC, PARTITIONS, options.history_mb)
    load = Load(cluster, options.mb_per_s * 1e6)
    load.start()
    time.sleep(5)
    owners_readers = Readers(cluster, options.groups, "")
    owners_readers.measure("owners' readers", options.seconds)
    owners_readers.stop()
    readers = Readers(cluster, options.groups, ZONE)
    ratios, moves = [], moves_so_far(cluster)
    for _ in range(options.pairs):
        p99_ms, read_ratio = readers.measure(f"readers in zone {ZONE}", options.seconds)
        rescan = Rescan(cluster.bootstrap, TOPIC, PARTITIONS, ZONE, options.rescan_niceness)
        time.sleep(SETTLE_S)
        beside_ms, _ = readers.measure(f"readers in zone {ZONE}, beside a rescan", options.seconds)
        told = rescan.stop()
        ratios.append(beside_ms / p99_ms)
        print(
            f"{options.groups} groups: {read_ratio:.2f} bytes read from the store for each byte produced; "
            f"{told}, p99 beside it to p99 without {ratios[-1]:.2f}; "
            f"partitions moved {moves_so_far(cluster) - moves} times",
            flush=True,
        )
        moves = moves_so_far(cluster)
    readers.stop()
    load.stop()
    print(f"p99 beside the rescan to p99 without, median: {statistics.median(ratios):.2f}")
    print(f"load average {os.getloadavg()[0]:.0f}")
    lost = cluster.logs().count("session lost")
    if lost:
        print(f"{lost} sessions were lost meanwhile: these figures are not what they should be")


if __name__ == "__main__":
    main()
