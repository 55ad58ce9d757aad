"""MirrorMaker 2, unmodified, from a real Apache Kafka 4.4.0: records, configs and the offsets of groups arrive."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from tests.ecosystem.connect_worker import start, write_properties
from tests.ecosystem.topics import TIMEOUT_S, create_topics
from tests.interop.conftest import Server, replication_factor
from tests.interop.kafka_process import KafkaProcess
from tests.interop.sample import PARTITIONS, Sample, by_partition, samples
from tests.support.java import JavaProcess
from tests.support.node_process import free_port

pytestmark = pytest.mark.interop
COPY = "old.orders"
"""What MirrorMaker calls topic `orders` of the cluster `old`."""
WAVES = (600, 300)
"""Records sent before the first start of MirrorMaker and before the second, spread over the partitions."""
BEFORE, WITHIN, END = 200, 250, 300
"""Committed offsets of three groups in each partition of `orders`: where the second wave begins, within it, its end."""

COORDINATOR_IS_COMING = ("NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE", "COORDINATOR_LOAD_IN_PROGRESS")
"""What a Kafka that has just started says of it."""


def properties(source: str, target: Server) -> dict[str, Any]:
    flow = {"enabled": "true", "topics": "orders", "groups": ".*", "sync.group.offsets.enabled": "true"}
    at_once = {
        "refresh.topics": 1,
        "refresh.groups": 1,
        "sync.topic.configs": 1,
        "emit.checkpoints": 1,
        "sync.group.offsets": 1,
    }
    return {
        "clusters": "old,new",
        "old.bootstrap.servers": source,
        "new.bootstrap.servers": target.bootstrap,
        **{f"old->new.{key}": value for key, value in flow.items()},
        **{f"old->new.{key}.interval.seconds": value for key, value in at_once.items()},
        "old->new.offset.lag.max": 0,
        "new->old.enabled": "false",
        "new->old.emit.heartbeats.enabled": "false",  # or there would be a way back, for heartbeats only
        "old.offset-syncs.topic.replication.factor": 1,
        "replication.factor": replication_factor(target),
        **{
            f"new.{name}.replication.factor": replication_factor(target)
            for name in ("config.storage", "offset.storage", "status.storage", "checkpoints.topic", "heartbeats.topic")
        },
        # Exactly once: copies and what was copied are one transaction of the target.
        "new.exactly.once.source.support": "enabled",
        "dedicated.mode.enable.internal.rest": "true",
        "listeners": f"http://127.0.0.1:{free_port()}",
        "new.session.timeout.ms": 6_000,
        "new.heartbeat.interval.ms": 1_000,
        "new.scheduled.rebalance.max.delay.ms": 1_000,
    }


def send(bootstrap: str, records: list[Sample]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
    for record in records:
        producer.produce(
            "orders",
            record.value,
            record.key,
            record.partition,
            headers=[*record.headers],
            timestamp=record.timestamp_ms,
        )
        producer.poll(0)
    assert producer.flush(TIMEOUT_S) == 0


def commit(bootstrap: str, group: str, offset: int) -> None:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    wanted = [TopicPartition("orders", partition, offset) for partition in range(PARTITIONS)]

    def try_commit() -> bool:
        try:
            consumer.commit(offsets=wanted, asynchronous=False)
        except KafkaException as error:  # a fresh Kafka finds its coordinator a little later
            assert error.args[0].name() in COORDINATOR_IS_COMING, error
            return False
        return True

    wait_for(f"the commit of {group}", try_commit, bool)
    consumer.close()


def read(bootstrap: str, count: int, starts: Sequence[int] = (0,) * PARTITIONS) -> dict[int, list[Sample]]:
    """The copy from `starts` as a read_committed consumer sees it, until it has `count` records and no more come."""
    settings = {"isolation.level": "read_committed", "auto.offset.reset": "earliest", "group.id": "judge"}
    consumer = Consumer({"bootstrap.servers": bootstrap, **settings})
    consumer.assign([TopicPartition(COPY, partition, starts[partition]) for partition in range(PARTITIONS)])
    found: list[Sample] = []
    deadline = time.monotonic() + TIMEOUT_S
    quiet = False
    while len(found) < count or not quiet:
        assert time.monotonic() < deadline, f"{len(found)} of {count} records"
        messages = consumer.consume(1_000, timeout=1.0)
        quiet = not messages
        for message in messages:
            assert message.error() is None, message.error()
            headers: Any = tuple(message.headers() or ())
            found.append(Sample(message.partition(), message.key(), message.value(), headers, message.timestamp()[1]))
    consumer.close()
    return by_partition(found)


def wait_for(what: str, ask: Callable[[], Any], accept: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + TIMEOUT_S
    while not accept(got := ask()):
        assert time.monotonic() < deadline, f"{what}: {got}"
        time.sleep(0.2)
    return got


def test_mirror_maker__brings_records_configs_and_group_offsets(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    target = make_server()
    source = KafkaProcess(tmp_path / "old")
    try:
        source.start()
        first, second = samples(WAVES[0]), samples(WAVES[1], start_ms=1_700_000_100_000)
        create_topics(
            source.bootstrap, ["orders"], PARTITIONS, **{"retention.ms": "-1", "max.message.bytes": "2000000"}
        )
        send(source.bootstrap, first)
        commit(source.bootstrap, "before", BEFORE)
        mirror(source.bootstrap, target, first, second, tmp_path)
    finally:
        source.close()


def mirror(source: str, target: Server, first: list[Sample], second: list[Sample], folder: Path) -> None:
    admin = AdminClient({"bootstrap.servers": target.bootstrap})
    file = write_properties(folder / "mm2.properties", properties(source, target))

    def start_mirror() -> JavaProcess:
        return start("org.apache.kafka.connect.mirror.MirrorMaker", folder, file)

    def committed(group: str) -> list[int]:
        """In the copy's partitions, as the target tells; -1 for none."""
        wanted = [TopicPartition(COPY, partition) for partition in range(PARTITIONS)]
        listed = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, wanted)])[group]
        return [partition.offset for partition in listed.result(TIMEOUT_S).topic_partitions]

    with start_mirror() as running:
        wait_for("the copy", lambda: COPY in admin.list_topics(timeout=TIMEOUT_S).topics, bool)
        assert read(target.bootstrap, len(first)) == by_partition(first)
        running.kill9()
    with start_mirror() as running:
        send(source, second)
        commit(source, "within", WITHIN)
        commit(source, "end", END)
        assert read(target.bootstrap, len(first) + len(second)) == by_partition([*first, *second])
        target.kill9()
        target.restart()
        starts = {
            group: wait_for(group, lambda group=group: committed(group), lambda offsets: min(offsets) >= BEFORE)
            for group in ("before", "within", "end")
        }
        running.terminate()
    # Offsets differ by the markers of transactions in the copy, so what a group would read next is what counts.
    assert read(target.bootstrap, 0, starts["end"]) == by_partition([])
    assert read(target.bootstrap, len(second), starts["before"]) == by_partition(second)
    left = read(target.bootstrap, 0, starts["within"])
    for partition, sent in by_partition(second).items():
        # MirrorMaker translates exactly where it wrote an offset sync; elsewhere the group is early, never late.
        assert left[partition] == sent[-len(left[partition]) :] and END - WITHIN <= len(left[partition]) <= len(sent)
    described = next(iter(admin.describe_configs([ConfigResource(ResourceType.TOPIC, COPY)]).values())).result(
        TIMEOUT_S
    )
    assert [described[name].value for name in ("retention.ms", "max.message.bytes")] == ["-1", "2000000"]
