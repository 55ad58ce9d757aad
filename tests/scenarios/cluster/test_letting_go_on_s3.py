"""Retention, DeleteRecords and deletion of topics on a real S3 server, under two brokers that die and leave: what goes,
what stays, what readers are told meanwhile, and that nothing is left in the bucket that nobody names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaException

from tests.scenarios import letting_go
from tests.scenarios.cluster.at_rest import CLEAN, await_clean, await_end_of_sessions, await_quiet, verdict
from tests.scenarios.cluster.cluster import PATIENCE_S, Cluster, until
from tests.support.etcd_process import EtcdProcess
from tests.support.s3_server import S3Server, minio_program, running_s3

pytestmark = pytest.mark.interop  # too long for every run
OPTIONS = (
    *("--set", "log.retention.check.interval.ms=200"),
    *("--set", "storage.upkeep.interval.ms=200"),
    *("--set", "storage.garbage.grace.ms=500"),
)
BUCKET = "records"
QUIET_S = 3.0


@pytest.fixture(params=["minio" if minio_program() else "seaweedfs"])
def s3(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[S3Server]:
    with running_s3(tmp_path / "s3", request.param) as server:
        yield server


@pytest.fixture
def cluster(tmp_path: Path, s3: S3Server) -> Iterator[Cluster]:
    etcd = EtcdProcess(tmp_path / "etcd").start()
    made = Cluster(tmp_path, etcd, 2, OPTIONS, storage=f"s3://{BUCKET}/cluster", environment=s3.environment)
    try:
        yield made.start()
    finally:
        made.close()
        etcd.close()


def test_store__holds_nothing_that_nobody_names_after_everything_was_let_go(cluster: Cluster, s3: S3Server) -> None:
    for topic, config in letting_go.TOPICS.items():
        cluster.create_topic(topic, 1, **letting_go.SEGMENT_BYTES, **config)
    letting_go.produce_all(cluster.bootstrap)
    readers = [letting_go.Reader(topic, cluster.nodes) for topic in letting_go.READ]
    until(lambda: all(reader.records for reader in readers), "everybody reads")
    admin = cluster.admin()
    for offset in range(500, letting_go.RECORDS + 1, 500):
        letting_go.delete_records(admin, "cut", offset)
    admin.delete_topics(["gone"], operation_timeout=60)["gone"].result(PATIENCE_S)
    until(lambda: low(cluster, "old") == letting_go.RECORDS and low(cluster, "sized") > 0, "retention")
    starts = {topic: low(cluster, topic) for topic in letting_go.TOPICS if topic != "gone"}
    assert starts["cut"] == letting_go.RECORDS
    assert starts["young"] == starts["stamped"] == 0, "time is record time, or when it was appended"

    cluster.nodes[0].kill9()
    cluster.nodes[0].restart()
    cluster.nodes[1].terminate()
    assert all(low(cluster, topic) >= start for topic, start in starts.items()), "the log start never goes back"
    cluster.nodes[1].restart()
    for reader in readers:
        reader.stop()
        assert reader.records and not reader.wrong
        # None, OFFSET_OUT_OF_RANGE, UNKNOWN_TOPIC_OR_PARTITION, LEADER_NOT_AVAILABLE, NOT_LEADER_OR_FOLLOWER
        assert reader.told <= {0, 1, 3, 5, 6}, reader.told

    await_clean(cluster)
    await_quiet(s3, BUCKET, QUIET_S)
    for node in cluster.nodes:  # what live sessions have made is no finding: they might be about to publish it
        node.kill9()
    await_end_of_sessions(cluster)
    assert verdict(cluster) == CLEAN
    left = sum(s3.objects(BUCKET).values())
    assert left < 2 * letting_go.RECORDS * letting_go.VALUE_BYTES + 4 * 1024 * 1024, "two topics, and one cut to 1 MiB"
    for node in cluster.nodes:
        node.restart()
    assert all(low(cluster, topic) >= start for topic, start in starts.items()), "the log start never goes back"


def low(cluster: Cluster, topic: str) -> int:
    def ask() -> tuple[int, int] | None:
        try:
            return letting_go.watermarks(cluster.bootstrap, topic)
        except KafkaException:  # between two owners
            return None

    found: tuple[int, int] = until(ask, f"{topic} has an owner")
    return found[0]
