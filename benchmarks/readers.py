"""What readers in other zones cost and how late they are: a cluster of three zones over a real S3 server and etcd.

    python -m benchmarks.readers [--seconds 20] [--mb-per-s 3] [--groups 5] [--kind seaweedfs|minio]

Groups read the tail in one zone while something is produced at a steady rate, each record with its time. Told are the
bytes that the zone's broker has read from the store for each byte produced, and how old records are when they are read:
by the owners' own readers, in the zone, and in the zone while another group there reads all of the history, as fast as
it can, again and again. Clients and brokers share the machine: the ratios say more than the times.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import struct
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from tests.scenarios.cluster.cluster import Cluster
from tests.support.etcd_process import EtcdProcess
from tests.support.s3_server import running_s3

TOPIC = "tail"
PARTITIONS = 6
RECORD_BYTES = 1000
ZONE, ZONE_BROKER = "c", 2
SETTLE_S = 10.0
_STAMP = struct.Struct("<d")


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


class Rescan(threading.Thread):
    """Reads the topic from its beginning, and from there again when it comes to the end of a partition."""

    def __init__(self, cluster: Cluster, zone: str) -> None:
        super().__init__(daemon=True)
        self._consumer = _consumer(cluster, "rescan", zone, **{"enable.partition.eof": True})
        self._stopping = threading.Event()
        self.read_bytes = 0

    def run(self) -> None:
        while not self._stopping.is_set():
            self._consumer.assign([TopicPartition(TOPIC, index, 0) for index in range(PARTITIONS)])
            ended = 0
            while ended < PARTITIONS and not self._stopping.is_set():
                for message in self._consumer.consume(1000, 0.1):
                    if message.error() is None:
                        self.read_bytes += len(message.value())
                    else:
                        ended += 1
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


def told(name: str, ages_s: list[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(ages_s, n=100)
    p50, p99 = cuts[49] * 1000, cuts[98] * 1000
    print(f"{name:<44} p50 {p50:7.1f} ms   p99 {p99:7.1f} ms   of {len(ages_s)} records", flush=True)
    return p50, p99


def tail(cluster: Cluster, name: str, groups: int, seconds: float, zone: str) -> tuple[float, float]:
    """Age of records, and bytes read from the store by the zone's broker for each byte produced."""
    readers = [TailReader(cluster, f"{name}-{number}", zone) for number in range(groups)]
    for reader in readers:
        reader.start()
    time.sleep(SETTLE_S)  # until they read where they shall
    for reader in readers:
        reader.ages_s.clear()
    before, came = cluster.nodes[ZONE_BROKER].metric("bytemq_store_read_bytes_total"), produced_bytes(cluster)
    time.sleep(seconds)
    read, came = (
        cluster.nodes[ZONE_BROKER].metric("bytemq_store_read_bytes_total") - before,
        produced_bytes(cluster) - came,
    )
    for reader in readers:
        reader.stop()
    _, p99 = told(name, [age for reader in readers for age in reader.ages_s])
    return p99, read / came


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--mb-per-s", type=float, default=3.0)
    parser.add_argument("--groups", type=int, default=5)
    parser.add_argument("--kind", default="seaweedfs", choices=("seaweedfs", "minio"))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bytemq-readers-"))
    etcd = EtcdProcess(folder / "etcd").start()
    try:
        with running_s3(folder / "s3", options.kind) as s3:
            patient = ("--set", "broker.session.timeout.ms=20000")  # a machine that is busy is no reason to move
            cluster = Cluster(folder, etcd, 3, patient, storage="s3://records/readers", environment=s3.environment)
            try:
                run(cluster.start(), options)
            finally:
                cluster.close()
    finally:
        etcd.close()
        shutil.rmtree(folder, ignore_errors=True)


def run(cluster: Cluster, options: argparse.Namespace) -> None:
    cluster.create_topic(TOPIC, PARTITIONS)
    load = Load(cluster, options.mb_per_s * 1e6)
    load.start()
    time.sleep(5)
    groups, seconds = options.groups, options.seconds
    tail(cluster, "owners' readers", groups, seconds, "")
    near_p99, ratio = tail(cluster, f"readers in zone {ZONE}", groups, seconds, ZONE)
    print(f"{groups} groups: the zone read {ratio:.2f} bytes from the store for each byte produced", flush=True)
    rescan = Rescan(cluster, ZONE)
    rescan.start()
    rescan_p99, _ = tail(cluster, f"readers in zone {ZONE}, beside a rescan", groups, seconds, ZONE)
    rescan.stop()
    print(f"the rescan read {rescan.read_bytes / 1e6 / (seconds + SETTLE_S):.0f} MB/s", flush=True)
    print(f"p99 beside the rescan to p99 without: {rescan_p99 / near_p99:.2f}; load average {os.getloadavg()[0]:.0f}")
    load.stop()
    lost = cluster.logs().count("session lost")
    if lost:
        print(f"{lost} sessions were lost meanwhile: these figures are not what they should be")


if __name__ == "__main__":
    main()
