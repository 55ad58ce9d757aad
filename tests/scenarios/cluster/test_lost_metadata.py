"""An hour has passed since the last good copy of etcd, or of the storage, in which topics came and went, partitions
moved, sessions ended, segments were written and garbage was collected. The copy is put back under running producers; no
broker starts on it; the repair that it names is run as it stands, and everything that was acknowledged is read again.

The hour is as short as the time for which the storage keeps what was superseded.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition

from tests.scenarios.cluster.cluster import (
    PATIENCE_S,
    Cluster,
    CountingProducer,
    bytemq,
    check_nothing_lost,
    read_all,
    until,
)
from tests.support.etcd_process import EtcdProcess
from tests.support.living_files import files_under

GRACE_S = 4
OPTIONS = (
    *("--set", "broker.session.timeout.ms=10000"),  # a busy machine is no trouble of this test
    *("--set", f"storage.garbage.grace.ms={GRACE_S * 1000}", "--set", "storage.upkeep.interval.ms=300"),
    *("--set", "wal.retained.flushes=64", "--set", "wal.flush.interval.ms=20"),
)
GROUP = "readers"
T = TypeVar("T")


@pytest.fixture
def cluster(tmp_path: Path, etcd: EtcdProcess) -> Iterator[Cluster]:
    made = Cluster(tmp_path, etcd, brokers=2, options=OPTIONS)
    try:
        yield made.start()
    finally:
        made.close()


def with_consumer(cluster: Cluster, work: Callable[[Consumer], T]) -> T:
    """Repeated while coordinators come and go: on a busy machine sessions end."""
    done: list[T] = []

    def succeeds() -> bool:
        consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": GROUP, "log_level": 0})
        try:
            done.append(work(consumer))
        except KafkaException:
            return False
        finally:
            consumer.close()
        return True

    until(succeeds, "the group's coordinator answers")
    return done[0]


def commit_offsets(cluster: Cluster, topic: str, offset: int) -> None:
    offsets = [TopicPartition(topic, index, offset) for index in range(3)]
    with_consumer(cluster, lambda consumer: consumer.commit(offsets=offsets, asynchronous=False))


def committed_offsets(cluster: Cluster, topic: str) -> list[int]:
    wanted = [TopicPartition(topic, index) for index in range(3)]
    found = with_consumer(cluster, lambda consumer: consumer.committed(wanted, timeout=PATIENCE_S))
    return [one.offset for one in found]


def objects(cluster: Cluster, folder: str) -> set[Path]:
    return set(files_under(cluster.folder / "shared" / folder))


def await_export(cluster: Cluster) -> None:
    """Returns when the storage has one of all topics that there are now: the second to come."""
    before = objects(cluster, "metadata")
    until(lambda: len(objects(cluster, "metadata") - before) >= 2, "the metadata are exported")


def pass_an_hour(cluster: Cluster, producer: CountingProducer) -> None:
    """What was there before is garbage, and collected, when this returns."""
    metadata = ("--metadata", cluster.etcd.url("cluster"))
    before = objects(cluster, "wal")
    cluster.create_topic("new", 2)
    admin = cluster.admin()  # it must live until it has answered
    admin.delete_topics(["gone"], operation_timeout=30)["gone"].result(60)
    bytemq("cluster", "drain", "1", *metadata)
    producer.wait_for_more(200)
    cluster.nodes[1].terminate()
    cluster.nodes[1].start(PATIENCE_S)
    bytemq("cluster", "undrain", "1", *metadata)
    producer.wait_for_more(200)
    until(lambda: not before & objects(cluster, "wal"), "what there was before is collected")
    assert objects(cluster, "topics"), "segments were written"


def stop_all(cluster: Cluster) -> None:
    for node in cluster.nodes:
        node.kill9()
    cluster.etcd.kill9()


def named_repair(cluster: Cluster, seen: str) -> list[str]:
    """What a broker that is started now says is to be run."""
    node = cluster.nodes[0]
    node.launch()
    assert node.wait_exit(PATIENCE_S) != 0
    assert seen in node.log() and "Nothing was changed" in node.log() and "Traceback" not in node.log()
    command = re.search(r"`bytemq (metadata restore [^`]*)`", node.log())
    assert command is not None, node.log()
    return command[1].split()


def start_all(cluster: Cluster) -> None:
    cluster.start()
    assert "everything is as it was written" in bytemq(
        "verify", cluster.storage, "--metadata", cluster.etcd.url("cluster")
    )


def test_cluster__whose_etcd_is_an_hour_old_gets_everything_back_from_its_storage(
    cluster: Cluster, etcd: EtcdProcess, tmp_path: Path
) -> None:
    for topic in ("kept", "gone"):
        cluster.create_topic(topic, 3)
    producer = CountingProducer(cluster, "kept")
    try:
        producer.wait_for_more(100)
        commit_offsets(cluster, "kept", 1)
        etcd.save(tmp_path / "snapshot")
        pass_an_hour(cluster, producer)
        late = CountingProducer(cluster, "new")
        late.wait_for_more(100)
        await_export(cluster)
        commit_offsets(cluster, "kept", 7)
        producer.wait_for_more(100)
        stop_all(cluster)
        etcd.put_back(tmp_path / "snapshot")
        etcd.start()
        metadata = ("--metadata", etcd.url("cluster"))
        repair = named_repair(cluster, "is ahead of the metadata")
        assert "Restored" in bytemq(*repair, *metadata)
        start_all(cluster)
        for each in (producer, late):
            each.wait_for_more(50)
    finally:
        producer.stop()
    late.stop()
    check_nothing_lost(producer, read_all(cluster, "kept"))
    check_nothing_lost(late, read_all(cluster, "new"))
    assert committed_offsets(cluster, "kept") == [7, 7, 7]
    assert "gone" not in cluster.admin().list_topics(timeout=PATIENCE_S).topics


def test_cluster__whose_storage_is_an_hour_old_goes_back_to_what_that_holds(cluster: Cluster, tmp_path: Path) -> None:
    for topic in ("kept", "gone"):
        cluster.create_topic(topic, 3)
    producer = CountingProducer(cluster, "kept")
    try:
        producer.wait_for_more(100)
        commit_offsets(cluster, "kept", 5)
    finally:
        producer.stop()
    await_export(cluster)
    shared = cluster.folder / "shared"
    shutil.copytree(shared, tmp_path / "copy")
    later = CountingProducer(cluster, "kept")
    try:
        pass_an_hour(cluster, later)
        for node in cluster.nodes:
            node.kill9()
    finally:
        later.abandon()
    shutil.rmtree(shared)
    shutil.copytree(tmp_path / "copy", shared)
    repair = named_repair(cluster, "is an older copy of the storage")
    assert "Restored" in bytemq(*repair, "--metadata", cluster.etcd.url("cluster"))
    start_all(cluster)
    check_nothing_lost(producer, read_all(cluster, "kept"))
    assert committed_offsets(cluster, "kept") == [5, 5, 5]
    assert "gone" in cluster.admin().list_topics(timeout=PATIENCE_S).topics
    again = CountingProducer(cluster, "kept")
    again.wait_for_more(50)
    again.stop()
