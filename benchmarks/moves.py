"""What moves cost clients, and how fast they are: planned restarts, a thousand partitions at once, an added broker, a
death; over a real etcd and a real S3 server, or a folder that all brokers share.

    python -m benchmarks.moves [restart thousand grow kill many] [--storage s3|file] [--kind seaweedfs|minio]

An unmodified producer (librdkafka, acks=all) sends small records at a steady rate, round over the partitions, and notes
how long each took to be acknowledged; a group of one consumer notes how old each was when it came. Told are these
before and while something moves: what a move costs is the difference. Errors are what a program would see: failed
deliveries, errors of the consumer, and the clients' error callbacks. Clients, brokers, etcd and the store share the
machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, Producer
from kafka.protocol.producer import ProduceRequest

from bytemq.metadata import keys, values
from bytemq.metadata.opening import open_metadata
from bytemq.metadata.store import MetadataStore
from bytemq.runtime.clock import SystemClock
from bytemq.storage.stores.by_url import open_store
from tests.interop.batches import batch
from tests.interop.differential import build
from tests.interop.wire import decode_response
from tests.scenarios.cluster.cluster import Cluster, until
from tests.support import probe
from tests.support.etcd_process import EtcdProcess
from tests.support.node_process import NodeProcess
from tests.support.s3_server import running_s3

SETTLE_S = 5.0
QUIET_S = 6.0
FILL_BYTES = 1_000_000_000
GROW_BYTES = 200_000_000
THOUSAND = 1_000
MANY_TOPICS = 100
MANY_PATIENCE_S = 600.0
_STAMP = struct.Struct("<d")


class Arrival(NamedTuple):
    sent_at: float
    partition: int
    took_s: float


class Load(threading.Thread):
    """Produces at a steady rate until `stop`."""

    def __init__(self, cluster: Cluster, topic: str, partitions: int, records_per_s: float) -> None:
        super().__init__(daemon=True)
        self._producer = Producer(
            {"bootstrap.servers": cluster.bootstrap, "acks": "all", "log_level": 0, "error_cb": self._error}
        )
        self._topic, self._partitions, self._interval_s = topic, partitions, 1 / records_per_s
        self._stopping = threading.Event()
        self.acknowledged: list[Arrival] = []
        self.first_since = float("inf")
        self.first: dict[int, float] = {}
        """Of each partition: when a record that was sent after `first_since` was first acknowledged."""
        self.errors: Counter[str] = Counter()

    def _error(self, error: KafkaError) -> None:
        self.errors[str(error)] += 1

    def run(self) -> None:
        due, number = time.monotonic(), 0
        while not self._stopping.is_set():
            while due <= time.monotonic():
                number, due = number + 1, due + self._interval_s
                sent_at = time.time()
                self._producer.produce(
                    self._topic,
                    _STAMP.pack(sent_at) + bytes(92),
                    partition=number % self._partitions,
                    on_delivery=lambda error, message, sent_at=sent_at: self._delivered(error, message, sent_at),
                )
            self._producer.poll(min(0.002, max(0.0, due - time.monotonic())))
        self._producer.flush(60)

    def _delivered(self, error: KafkaError | None, message: Any, sent_at: float) -> None:
        if error is not None:
            self.errors[f"delivery failed: {error}"] += 1
        else:
            self.acknowledged.append(Arrival(sent_at, message.partition(), time.time() - sent_at))
            if sent_at >= self.first_since:
                self.first.setdefault(message.partition(), time.time())

    def stop(self) -> None:
        self._stopping.set()
        self.join(90)


class Group(threading.Thread):
    """One consumer of a group, as a program would have it."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        super().__init__(daemon=True)
        self._consumer = Consumer(
            {
                "bootstrap.servers": cluster.bootstrap,
                "group.id": f"{topic}-readers",
                "auto.offset.reset": "latest",
                "log_level": 0,
                "error_cb": self._error,
            }
        )
        self._consumer.subscribe([topic])
        self._stopping = threading.Event()
        self.received: list[Arrival] = []
        self.errors: Counter[str] = Counter()

    def _error(self, error: KafkaError) -> None:
        self.errors[str(error)] += 1

    def run(self) -> None:
        while not self._stopping.is_set():
            for message in self._consumer.consume(500, 0.02):
                if message.error() is not None:
                    self.errors[str(message.error())] += 1
                    continue
                sent_at = _STAMP.unpack_from(message.value())[0]
                self.received.append(Arrival(sent_at, message.partition(), time.time() - sent_at))
        self._consumer.close()

    def stop(self) -> None:
        self._stopping.set()
        self.join(60)


class Clients:
    """A producer and a group on one topic."""

    def __init__(self, cluster: Cluster, topic: str, partitions: int, records_per_s: float) -> None:
        self.load = Load(cluster, topic, partitions, records_per_s)
        self.group = Group(cluster, topic)
        self.group.start()
        self.load.start()
        until(lambda: self.group.received, "the group reads")
        time.sleep(SETTLE_S)

    def stop(self) -> None:
        self.load.stop()
        time.sleep(1)
        self.group.stop()

    def tell(self, name: str, since: float, to: float) -> None:
        """Of the records that were sent in that time. Call it when they have come."""
        for what, arrivals in (("acknowledged", self.load.acknowledged), ("consumed", self.group.received)):
            told(f"{name}: {what} after", [one for one in list(arrivals) if since <= one.sent_at < to])

    def tell_errors(self) -> None:
        for who, errors in (("producer", self.load.errors), ("consumer", self.group.errors)):
            print(f"errors that the {who} saw: {dict(errors) or 'none'}", flush=True)


def told(name: str, arrivals: Sequence[Arrival]) -> None:
    if len(arrivals) < 2:
        print(f"{name:<44} {len(arrivals)} records", flush=True)
        return
    cuts = statistics.quantiles([one.took_s * 1000 for one in arrivals], n=1000)
    worst: dict[int, float] = {}
    for one in arrivals:
        worst[one.partition] = max(worst.get(one.partition, 0.0), one.took_s * 1000)
    p50, p99, p999, most = cuts[499], cuts[989], cuts[998], max(worst.values())
    print(
        f"{name:<36} p50 {p50:5.0f}  p99 {p99:5.0f}  p99.9 {p999:5.0f}  max {most:5.0f} ms; "
        f"worst of the median partition {statistics.median(worst.values()):5.0f} ms; {len(arrivals)} records",
        flush=True,
    )


def bytemq(cluster: Cluster, *arguments: str) -> float:
    """Runs a command of ours; how long it took."""
    started_at = time.monotonic()
    command = [sys.executable, "-m", "bytemq", "cluster", *arguments, "--metadata", cluster.etcd.url("cluster")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return time.monotonic() - started_at


def restart(cluster: Cluster, options: argparse.Namespace) -> None:
    """Drain, stop, start, undrain."""
    partitions = 30
    cluster.create_topic("restart", partitions)
    clients = Clients(cluster, "restart", partitions, options.rate or 200)
    time.sleep(QUIET_S)
    steps: list[tuple[str, float]] = [("quiet", time.time() - QUIET_S)]

    def step(name: str, act: Callable[[], object]) -> None:
        steps.append((name, time.time()))
        act()
        time.sleep(SETTLE_S)

    step("drain", lambda: bytemq(cluster, "drain", "1"))
    step("stop", cluster.nodes[1].terminate)
    step("start", cluster.nodes[1].restart)
    step("undrain", lambda: bytemq(cluster, "undrain", "1"))
    until(lambda: cluster.leaders("restart").count(1) >= 8, "it has its share again")
    time.sleep(SETTLE_S)
    steps.append(("end", time.time()))
    clients.stop()
    for (name, since), (_, to) in pairwise(steps):
        clients.tell(f"restart, {name}", since, to)
    clients.tell_errors()


def thousand(cluster: Cluster, options: argparse.Namespace) -> None:
    """1,000 partitions of one broker are drained by one command."""
    partitions = options.partitions or THOUSAND
    cluster.create_topic("thousand", partitions, bytemq_zones="a")
    clients = Clients(cluster, "thousand", partitions, options.rate or 1000)
    time.sleep(QUIET_S)
    began = time.time()
    took_s = bytemq(cluster, "drain", "0")
    time.sleep(SETTLE_S)
    ended = time.time()
    clients.stop()
    clients.tell("1,000, quiet", began - QUIET_S, began)
    clients.tell("1,000, moved", began, ended)
    clients.tell_errors()
    print(f"the command returned after {took_s:.2f} s", flush=True)
    bytemq(cluster, "undrain", "0")


def grow(cluster: Cluster, options: argparse.Namespace) -> None:
    """A fourth broker is started under load."""
    partitions = 60
    cluster.create_topic("grow", partitions)
    fill(cluster, "grow", partitions, GROW_BYTES)
    clients = Clients(cluster, "grow", partitions, options.rate or 600)
    time.sleep(QUIET_S)
    quiet = Meter(cluster)
    time.sleep(QUIET_S)
    at_rest = quiet.read()
    moving = Meter(cluster)
    began = time.time()
    cluster.add()
    ready_s = time.time() - began
    share = partitions // 4
    until(lambda: cluster.leaders("grow").count(3) >= share - 2, "it has its share")
    balanced_s = time.time() - began
    meanwhile = moving.read()
    time.sleep(SETTLE_S)
    ended = time.time()
    clients.stop()
    clients.tell("grow, quiet", began - QUIET_S, began)
    clients.tell("grow, moving", began, ended)
    clients.tell_errors()
    print(f"ready {ready_s:.2f} s after its start, its share {balanced_s:.2f} s after it", flush=True)
    print(f"the topic had {GROW_BYTES / 1e6:.0f} MB; at the store meanwhile:", flush=True)
    for name, seen in (("quiet", at_rest), ("moving", meanwhile)):
        print(f"  {name}: {seen}", flush=True)


class Meter:
    """What all brokers have asked of the store since it was made, and what is in it that was not."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._since, self._before, self._objects = time.monotonic(), self._counted(), self._listed()

    def read(self) -> str:
        seconds = time.monotonic() - self._since
        counted, listed = self._counted(), self._listed()
        made = [(name, size) for name, size in listed.items() if name not in self._objects]
        parts = [f"{seconds:.1f} s"]
        parts += [f"{name} {(value - self._before.get(name, 0)) / 1e6:.2f} MB" for name, value in counted.items()]
        for what, prefix in (("write-ahead log", "wal/"), ("segments", "topics/")):
            sizes = [size for name, size in made if name.startswith(prefix)]
            parts.append(f"new objects of {what} {len(sizes)}, {sum(sizes) / 1e6:.2f} MB")
        return ", ".join(parts)

    def _counted(self) -> dict[str, float]:
        names = {
            "produced": "bytemq_topic_bytes_in_total",
            "written": "bytemq_store_written_bytes_total",
            "read": "bytemq_store_read_bytes_total",
        }
        return {what: sum(node.metric(name) for node in self._cluster.nodes) for what, name in names.items()}

    def _listed(self) -> dict[str, int]:
        os.environ.update(self._cluster.environment or {})

        async def listed() -> dict[str, int]:
            store = await open_store(self._cluster.storage, SystemClock(), Random())
            try:
                return {info.name: info.size_bytes for part in ("wal/", "topics/") for info in await store.list(part)}
            finally:
                await store.close()

        return asyncio.run(listed())


def kill(cluster: Cluster, options: argparse.Namespace) -> None:
    """kill -9 of a broker with 1,000 partitions and 1 GB that is in no segment."""
    partitions = options.partitions or THOUSAND
    cluster.create_topic("kill", partitions, bytemq_zones="a")
    fill(cluster, "kill", partitions)
    assert cluster.leaders("kill") == [0] * partitions
    load = Load(cluster, "kill", partitions, options.rate or 1000)
    load.start()
    time.sleep(SETTLE_S)
    print(f"in no segment: {cluster.nodes[0].metric('bytemq_wal_bytes') / 1e6:.0f} MB", flush=True)
    facts, asked = Facts(cluster, "kill"), Probe(cluster.nodes[1:], "kill", partitions)
    cluster.nodes[0].kill9()
    killed_at = load.first_since = time.time()
    facts.start()
    asked.start()
    until(lambda: len(load.first) == partitions, "all partitions are written to again")
    time.sleep(1)
    load.stop()
    print(f"after kill -9, load average {os.getloadavg()[0]:.1f}:", flush=True)
    print(f"  its session is gone          {facts.session_gone_at - killed_at:.2f} s", flush=True)
    print(f"  all have new owners          {facts.all_owned_at - killed_at:.2f} s", flush=True)
    spread("a raw client's first produce", killed_at, asked.served.values())
    spread("librdkafka's first produce  ", killed_at, load.first.values())
    print(f"errors that the producer saw: {dict(load.errors) or 'none'}", flush=True)
    cluster.nodes[0].restart()


def many(cluster: Cluster, options: argparse.Namespace) -> None:
    """A hundred thousand partitions, of which a drained broker gives away its third. Nobody uses them."""
    partitions, topics = options.partitions or 100_000, [f"many-{number}" for number in range(MANY_TOPICS)]
    began = time.monotonic()
    for topic in topics:
        cluster.create_topic(topic, partitions // MANY_TOPICS)
    print(f"{partitions:,} partitions were made in {time.monotonic() - began:.0f} s", flush=True)
    until(lambda: all(-1 not in cluster.leaders(topic) for topic in topics), "all have owners", MANY_PATIENCE_S)
    time.sleep(SETTLE_S)
    lost_before, owned = sessions_lost(cluster), sum(cluster.leaders(topic).count(0) for topic in topics)
    took_s = bytemq(cluster, "drain", "0", "--timeout", str(MANY_PATIENCE_S))
    left = sum(cluster.leaders(topic).count(0) for topic in topics)
    lost = sessions_lost(cluster) - lost_before
    print(
        f"{owned:,} were drained in {took_s:.1f} s, {left} are left; sessions lost: {lost_before} before, {lost} "
        f"meanwhile; load average {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def sessions_lost(cluster: Cluster) -> int:
    return cluster.logs().count("session lost")


def spread(name: str, since: float, at: Iterable[float]) -> None:
    after_s = sorted(one - since for one in at)
    print(
        f"  {name} median {statistics.median(after_s):.2f} s, 99 % {after_s[int(len(after_s) * 0.99)]:.2f} s, "
        f"last {after_s[-1]:.2f} s",
        flush=True,
    )


class Facts(threading.Thread):
    """Watches etcd until broker 0's session is gone and all partitions of a topic have other owners."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        super().__init__(daemon=True)
        self._url = cluster.etcd.url("cluster")
        self._topic = topic
        self.session_gone_at = self.all_owned_at = float("nan")

    def run(self) -> None:
        asyncio.run(self._watch())

    async def _watch(self) -> None:
        store = await open_metadata(self._url, os.environ)
        try:
            entry = await store.get(keys.topic(self._topic))
            assert entry is not None
            owners = keys.owners(values.decode_topic(entry.value).topic_id, 0)[:-5]
            while await store.get(keys.broker(0)) is not None:  # noqa: ASYNC110  (nobody tells us)
                await asyncio.sleep(0.02)
            self.session_gone_at = time.time()
            while await _owns_some(store, owners, 0):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            self.all_owned_at = time.time()
        finally:
            await store.close()


async def _owns_some(store: MetadataStore, owners: str, broker: int) -> bool:
    return any(broker in values.decode_owners(entry.value).brokers for entry in (await store.range(owners)).entries)


class Probe(threading.Thread):
    """Asks these brokers over and over to append to all partitions that have not done so yet: when each did first."""

    def __init__(self, nodes: Sequence[NodeProcess], topic: str, partitions: int) -> None:
        super().__init__(daemon=True)
        self._wires = [probe.connect(node.address) for node in nodes]
        self._topic = topic
        self._left = list(range(partitions))
        self.served: dict[int, float] = {}

    def run(self) -> None:
        records = batch()
        while self._left:
            rows = [{"index": index, "records": records} for index in self._left]
            topics = [{"name": self._topic, "partition_data": rows}]
            fields = {"transactional_id": None, "acks": -1, "timeout_ms": 20_000, "topic_data": topics}
            for wire in self._wires:
                wire.send(build(ProduceRequest, 9, fields))
            for wire in self._wires:
                [answer] = decode_response(ProduceRequest.API_KEY, 9, wire.receive_frame()).responses
                for row in answer.partition_responses:
                    if row.error_code == 0:
                        self.served.setdefault(row.index, time.time())
            self._left = [index for index in self._left if index not in self.served]
            time.sleep(0.05)


def fill(cluster: Cluster, topic: str, partitions: int, size_bytes: int = FILL_BYTES) -> None:
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "log_level": 0, "queue.buffering.max.kbytes": 8192})
    value = _STAMP.pack(time.time()) + os.urandom(50_000)
    for number in range(size_bytes // len(value)):
        while True:
            try:
                producer.produce(topic, value, partition=number % partitions)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    producer.flush(120)


SCENARIOS = {"restart": restart, "thousand": thousand, "grow": grow, "kill": kill, "many": many}


@contextmanager
def running_cluster(options: argparse.Namespace) -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="moves-"))
    etcd = EtcdProcess(folder / "etcd").start()
    settings = ("--set", f"wal.retained.bytes={4 * FILL_BYTES}")  # so that nothing is written behind before the death
    try:
        if options.storage == "file":
            cluster = Cluster(folder, etcd, 3, settings)
            try:
                yield cluster.start()
            finally:
                cluster.close()
        else:
            with running_s3(folder / "s3", options.kind) as s3:
                cluster = Cluster(folder, etcd, 3, settings, storage="s3://records/moves", environment=s3.environment)
                try:
                    yield cluster.start()
                finally:
                    cluster.close()
    finally:
        if options.logs:
            for path in folder.glob("broker-*.log"):
                shutil.copy(path, options.logs)
        etcd.close()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", default=["restart", "thousand", "grow", "kill"], metavar="SCENARIO")
    parser.add_argument("--storage", default="s3", choices=("s3", "file"))
    parser.add_argument("--kind", default="seaweedfs", choices=("seaweedfs", "minio"))
    parser.add_argument("--partitions", type=int, help="of `thousand`, `kill` (default: 1000), `many` (100000)")
    parser.add_argument("--rate", type=float, help="records a second")
    parser.add_argument("--logs", help="a folder for the brokers' logs")
    options = parser.parse_args()
    for name in options.scenarios:
        with running_cluster(options) as cluster:
            print(f"{name}, {options.storage}; load average {os.getloadavg()[0]:.1f}", flush=True)
            SCENARIOS[name](cluster, options)


if __name__ == "__main__":
    main()
