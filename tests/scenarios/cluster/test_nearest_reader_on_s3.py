"""What each broker answers to readers of its zone while brokers are killed, on a real S3 server: watermarks, last
stable offsets and aborted transactions, as they come over the wire (KIP-392).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException
from kafka.protocol.consumer import FetchRequest

from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.records.batch import parse_header
from bytemq.protocol.records.reader import iter_records
from bytemq.storage.segments.batch_walk import walk
from tests.interop.differential import build
from tests.scenarios.cluster.cluster import Cluster, CountingProducer, read_all, until
from tests.scenarios.cluster.test_nearest_reader import run_transaction, transactional_producer
from tests.support import probe
from tests.support.etcd_process import EtcdProcess
from tests.support.s3_server import minio_program, running_s3

TOPIC, PARTITIONS = "decided", 5
"""The topic that `run_transaction` writes to."""
PASSING = {
    ErrorCode.NOT_LEADER_OR_FOLLOWER,
    ErrorCode.OFFSET_NOT_AVAILABLE,
    ErrorCode.KAFKA_STORAGE_ERROR,
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
}
"""Errors after which a client tries again. OFFSET_OUT_OF_RANGE is none: it would go back to the beginning."""


class View:
    """One partition as one broker shows it, read_committed; a client's part of the work, by Kafka's rules."""

    def __init__(self) -> None:
        self.next_offset = self.high_watermark = self.last_stable_offset = 0
        self.values: dict[str, int] = {}
        self.problems: list[str] = []
        self._aborted: set[int] = set()

    def take(self, answer: Any) -> None:
        if answer.error_code != ErrorCode.NONE:
            if answer.error_code not in PASSING:
                self.problems.append(f"{ErrorCode(answer.error_code).name} at offset {self.next_offset}")
            return
        high, stable = answer.high_watermark, answer.last_stable_offset
        if high < 0 and not answer.records:  # it is being opened there; clients take no watermark from this either
            return
        if not self.last_stable_offset <= stable <= high or high < self.high_watermark:
            before = self.last_stable_offset, self.high_watermark
            self.problems.append(f"stable offset and watermark are {stable} and {high} after {before}")
        self.high_watermark, self.last_stable_offset = high, stable
        starts = sorted((one.first_offset, one.producer_id) for one in answer.aborted_transactions or ())
        view = memoryview(bytes(answer.records or b""))
        for stored in walk(view, verify=True):
            batch = parse_header(view, stored.position)
            while starts and starts[0][0] <= stored.last_offset:
                self._aborted.add(starts.pop(0)[1])
            if batch.is_control:
                self._aborted.discard(batch.producer_id)
            elif not batch.is_transactional or batch.producer_id not in self._aborted:
                self.values.update((str(one.value, "utf-8"), one.offset) for one in iter_records(batch) if one.value)
            self.next_offset = max(self.next_offset, stored.last_offset + 1)
        if view and self.next_offset > stable:
            self.problems.append(f"offset {self.next_offset - 1} was given, the last stable offset is {stable}")


class Watcher(threading.Thread):
    """Asks one broker, as a consumer of its zone, for all partitions, over and over, also while it is away."""

    def __init__(self, address: tuple[str, int], zone: str) -> None:
        super().__init__(daemon=True)
        self.zone = zone
        self.views = [View() for _ in range(PARTITIONS)]
        self.answers = 0
        self._address = address
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                with probe.connect(self._address) as wire:
                    while not self._stopping.is_set():
                        [topic] = wire.call(self._request()).responses
                        for partition in topic.partitions:
                            self.views[partition.partition_index].take(partition)
                        self.answers += 1
                        time.sleep(0.1)
            except (OSError, EOFError):
                time.sleep(0.05)

    def stop(self) -> None:
        self._stopping.set()
        self.join(60)

    @property
    def values(self) -> dict[str, tuple[int, int]]:
        return {
            value: (index, offset)
            for index, view in enumerate(self.views)
            for value, offset in view.values.copy().items()
        }

    @property
    def problems(self) -> list[str]:
        return [
            f"zone {self.zone}, partition {at}: {one}" for at, view in enumerate(self.views) for one in view.problems
        ]

    def _request(self) -> Any:
        rows = [
            {
                "partition": index,
                "current_leader_epoch": -1,
                "fetch_offset": view.next_offset,
                "last_fetched_epoch": -1,
                "log_start_offset": -1,
                "partition_max_bytes": 1 << 20,
            }
            for index, view in enumerate(self.views)
        ]
        fields: dict[str, Any] = {"replica_id": -1, "max_wait_ms": 50, "min_bytes": 1, "max_bytes": 10 << 20}
        fields |= {"isolation_level": 1, "session_id": 0, "session_epoch": -1, "forgotten_topics_data": []}
        fields |= {"rack_id": self.zone, "topics": [{"topic": TOPIC, "partitions": rows}]}
        return build(FetchRequest, 12, fields)


class Transactions(threading.Thread):
    """Transactions of which every third is aborted, beside each other and through whatever happens to brokers."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(daemon=True)
        self.committed: set[str] = set()
        self.undecided: set[str] = set()
        self._cluster = cluster
        self._stopping = threading.Event()

    def run(self) -> None:
        producer = transactional_producer(self._cluster)
        for number in count():
            if self._stopping.is_set():
                return
            is_aborted = number % 3 == 0
            values = [f"{'aborted' if is_aborted else 'committed'}-{number}-{one}" for one in range(5)]
            try:
                run_transaction(producer, values, is_aborted)
            except KafkaException:  # its coordinator died, and nobody knows how it ended
                self.undecided.update(values)
                producer = transactional_producer(self._cluster)
            else:
                self.committed.update(() if is_aborted else values)

    def stop(self) -> None:
        self._stopping.set()
        self.join(90)
        assert not self.is_alive()


@contextmanager
def running_cluster(folder: Path, kind: str) -> Iterator[Cluster]:
    etcd = EtcdProcess(folder / "etcd").start()
    with running_s3(folder / "s3", kind) as s3:
        options = ("--set", "storage.upkeep.interval.ms=500")
        cluster = Cluster(folder, etcd, 3, options, storage="s3://records/near", environment=s3.environment)
        try:
            yield cluster.start()
        finally:
            cluster.close()
            etcd.close()


@pytest.mark.parametrize("kind", ["minio" if minio_program() else "seaweedfs"])
def test_readers__of_every_zone_are_told_the_truth_while_brokers_are_killed(tmp_path: Path, kind: str) -> None:
    with running_cluster(tmp_path, kind) as cluster:
        cluster.create_topic(TOPIC, PARTITIONS)
        watchers = [Watcher(node.address, zone) for node, zone in zip(cluster.nodes, "abc", strict=True)]
        transactions, plain = Transactions(cluster), CountingProducer(cluster, TOPIC, **{"linger.ms": 20})
        for thread in (*watchers, transactions):
            thread.start()
        until(lambda: all(len(one.values) > 50 for one in watchers), "each zone reads")
        for victim in (0, 1):
            cluster.nodes[victim].kill9()
            until(lambda gone=victim: gone not in cluster.leaders(TOPIC), "others have what it had")
            plain.wait_for_more(100)
            cluster.nodes[victim].restart()
        transactions.stop()
        plain.stop()
        truth = {
            value: (partition, offset)
            for value, partition, offset in read_all(cluster, TOPIC, isolation="read_committed")
        }
        until(lambda: all(one.problems or one.values.keys() >= truth.keys() for one in watchers), "everything is read")
        for watcher in watchers:
            watcher.stop()
            assert watcher.problems == []
            assert watcher.values == truth, f"zone {watcher.zone}"
            assert watcher.answers > 20
        assert plain.failed == [] and len(transactions.committed) > 20
        decided = transactions.committed | plain.acknowledged.keys()
        assert decided <= truth.keys() <= decided | transactions.undecided
