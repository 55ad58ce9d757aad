"""confluent-kafka (librdkafka), unmodified: content, order, committed offsets, admin."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from tests.interop.conftest import Server, broker_count
from tests.interop.sample import PARTITIONS, Sample, by_partition, samples

NAME = Callable[[str], str]
COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")
TIMEOUT_S = 60.0


@pytest.fixture
def admin(server: Server) -> AdminClient:
    return AdminClient({"bootstrap.servers": server.bootstrap})


def create_topic(admin: AdminClient, topic: str, partitions: int = PARTITIONS, **config: str) -> None:
    new = NewTopic(topic, partitions, 1, config={key.replace("_", "."): value for key, value in config.items()})
    admin.create_topics([new], request_timeout=TIMEOUT_S)[topic].result(TIMEOUT_S)


def produce(server: Server, topic: str, records: Sequence[Sample], **settings: Any) -> dict[int, list[int]]:
    """Sends all; returns the acknowledged offsets of each partition in the order of sending."""
    offsets: dict[int, list[int]] = {}
    failures: list[object] = []

    def delivered(error: object, message: Any) -> None:
        if error is not None:
            failures.append(error)
        else:
            offsets.setdefault(message.partition(), []).append(message.offset())

    producer = Producer({"bootstrap.servers": server.bootstrap, "linger.ms": 2, **settings})
    for record in records:
        producer.produce(
            topic,
            key=record.key,
            value=record.value,
            partition=record.partition,
            headers=list(record.headers),
            timestamp=record.timestamp_ms,
            on_delivery=delivered,
        )
        producer.poll(0)
    assert producer.flush(TIMEOUT_S) == 0
    assert not failures
    return offsets


def consume(consumer: Consumer, count: int) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {partition: [] for partition in range(PARTITIONS)}
    deadline = time.monotonic() + TIMEOUT_S
    while sum(map(len, found.values())) < count and time.monotonic() < deadline:
        for message in consumer.consume(500, timeout=0.2):
            assert message.error() is None, message.error()
            found[message.partition()].append(message)
    return found


def as_sample(message: Any) -> Sample:
    headers = tuple((name, value) for name, value in message.headers() or ())
    return Sample(message.partition(), message.key(), message.value(), headers, message.timestamp()[1])


def group_consumer(server: Server, group: str, **settings: Any) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": server.bootstrap,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            **settings,
        }
    )


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_confluent_kafka__round_trip_keeps_content_and_order(
    server: Server, admin: AdminClient, unique_name: NAME, compression: str
) -> None:
    topic = unique_name(f"confluent-{compression}")
    create_topic(admin, topic)
    records = samples(1_000)
    settings = {"enable.idempotence": True, "compression.type": compression}
    offsets = produce(server, topic, records, **settings)
    expected = by_partition(records)
    assert offsets == {partition: list(range(len(sent))) for partition, sent in expected.items()}

    consumer = group_consumer(server, unique_name("group"), **{"check.crcs": True})
    consumer.subscribe([topic])
    found = consume(consumer, len(records))
    consumer.close()
    assert {p: [as_sample(message) for message in messages] for p, messages in found.items()} == expected
    assert {p: [message.offset() for message in messages] for p, messages in found.items()} == offsets


def test_confluent_kafka__group_resumes_at_committed_offsets(
    server: Server, admin: AdminClient, unique_name: NAME
) -> None:
    topic, group = unique_name("resume"), unique_name("group")
    create_topic(admin, topic)
    first, second = samples(300), samples(150)
    produce(server, topic, first)
    consumer = group_consumer(server, group)
    consumer.subscribe([topic])
    consume(consumer, len(first))
    consumer.commit(asynchronous=False)
    consumer.close()

    wanted = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
    listed = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, wanted)])[group].result(TIMEOUT_S)
    assert {p.partition: p.offset for p in listed.topic_partitions} == dict.fromkeys(range(PARTITIONS), 100)

    produce(server, topic, second)
    consumer = group_consumer(server, group)
    consumer.subscribe([topic])
    found = consume(consumer, len(second))
    consumer.close()
    assert {p: [as_sample(message) for message in messages] for p, messages in found.items()} == by_partition(second)
    assert {p: messages[0].offset() for p, messages in found.items()} == dict.fromkeys(range(PARTITIONS), 100)


@pytest.mark.parametrize("strategy", ["range", "roundrobin", "cooperative-sticky"])
def test_confluent_kafka__two_members_share_the_partitions(
    server: Server, admin: AdminClient, unique_name: NAME, strategy: str
) -> None:
    topic, group = unique_name("shared"), unique_name("group")
    create_topic(admin, topic, 4)
    members = [group_consumer(server, group, **{"partition.assignment.strategy": strategy}) for _ in range(2)]
    for member in members:
        member.subscribe([topic])
    deadline = time.monotonic() + TIMEOUT_S
    held: list[set[int]] = []
    while time.monotonic() < deadline:
        for member in members:
            member.poll(0.1)
        held = [{partition.partition for partition in member.assignment()} for member in members]
        if [len(partitions) for partitions in held] == [2, 2]:
            break
    assert held[0] | held[1] == {0, 1, 2, 3} and not held[0] & held[1], held
    members[0].close()
    deadline = time.monotonic() + TIMEOUT_S
    while len(members[1].assignment()) < 4 and time.monotonic() < deadline:
        members[1].poll(0.1)
    assert len(members[1].assignment()) == 4
    members[1].close()


def test_confluent_kafka__static_member_comes_back_without_rebalance(
    server: Server, admin: AdminClient, unique_name: NAME
) -> None:
    topic, group = unique_name("static"), unique_name("group")
    create_topic(admin, topic)
    produce(server, topic, samples(30))
    members = []
    for _ in range(2):
        consumer = group_consumer(server, group, **{"group.instance.id": "instance-1"})
        consumer.subscribe([topic])
        consume(consumer, 30)
        description = admin.describe_consumer_groups([group])[group].result(TIMEOUT_S)
        members.append([member.group_instance_id for member in description.members])
        consumer.close()
    assert members == [["instance-1"], ["instance-1"]]


def test_confluent_kafka__offsets_for_times_and_watermarks(
    server: Server, admin: AdminClient, unique_name: NAME
) -> None:
    topic = unique_name("times")
    create_topic(admin, topic, 1)
    start = int(time.time() * 1000) - 3_600_000
    records = [record._replace(partition=0) for record in samples(500, start)]
    produce(server, topic, records)
    consumer = group_consumer(server, unique_name("group"))
    assert consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=TIMEOUT_S) == (0, 500)
    for number in (0, 1, 250, 499):
        [found] = consumer.offsets_for_times([TopicPartition(topic, 0, start + number)], timeout=TIMEOUT_S)
        assert found.offset == number
    [beyond] = consumer.offsets_for_times([TopicPartition(topic, 0, start + 500)], timeout=TIMEOUT_S)
    assert beyond.offset == -1  # OFFSET_END
    consumer.close()
    spec = {TopicPartition(topic, 0): OffsetSpec.max_timestamp()}
    [result] = admin.list_offsets(spec, request_timeout=TIMEOUT_S).values()
    assert (result.result(TIMEOUT_S).offset, result.result(TIMEOUT_S).timestamp) == (499, start + 499)


def test_confluent_kafka__admin_walks_the_life_of_a_topic(
    server: Server, admin: AdminClient, unique_name: NAME
) -> None:
    topic = unique_name("admin")
    create_topic(admin, topic, 1, retention_ms="3600000")
    with pytest.raises(KafkaException, match="TOPIC_ALREADY_EXISTS"):
        create_topic(admin, topic, 1)
    admin.create_partitions([NewPartitions(topic, PARTITIONS)])[topic].result(TIMEOUT_S)
    assert len(admin.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions) == PARTITIONS

    resource = ConfigResource(ResourceType.TOPIC, topic)
    described = next(iter(admin.describe_configs([resource]).values())).result(TIMEOUT_S)
    assert described["retention.ms"].value == "3600000" and not described["retention.ms"].is_default
    change = ConfigEntry("max.message.bytes", "2000", incremental_operation=AlterConfigOpType.SET)
    altered = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[change])
    next(iter(admin.incremental_alter_configs([altered]).values())).result(TIMEOUT_S)
    described = next(iter(admin.describe_configs([resource]).values())).result(TIMEOUT_S)
    assert described["max.message.bytes"].value == "2000"

    small = [record for record in samples(60) if record.value is None or len(record.value) < 1_000]
    produce(server, topic, small, **{"batch.size": 1_000})
    deleted = admin.delete_records([TopicPartition(topic, 0, 5)])
    assert next(iter(deleted.values())).result(TIMEOUT_S).low_watermark == 5
    spec = {TopicPartition(topic, 0): OffsetSpec.earliest()}
    assert next(iter(admin.list_offsets(spec).values())).result(TIMEOUT_S).offset == 5

    admin.delete_topics([topic])[topic].result(TIMEOUT_S)
    deadline = time.monotonic() + TIMEOUT_S
    while topic in admin.list_topics(timeout=TIMEOUT_S).topics and time.monotonic() < deadline:
        pass
    assert topic not in admin.list_topics(timeout=TIMEOUT_S).topics


def test_confluent_kafka__admin_describes_cluster_and_groups(
    server: Server, admin: AdminClient, unique_name: NAME
) -> None:
    cluster = admin.describe_cluster().result(TIMEOUT_S)
    nodes = [(node.host, node.port) for node in cluster.nodes]
    assert server.address in nodes and len(nodes) == broker_count(server)
    topic, group = unique_name("groups"), unique_name("group")
    create_topic(admin, topic)
    consumer = group_consumer(server, group)
    consumer.subscribe([topic])
    produce(server, topic, samples(30))
    consume(consumer, 30)
    consumer.commit(asynchronous=False)
    listed = admin.list_consumer_groups().result(TIMEOUT_S).valid
    assert [entry.state.name for entry in listed if entry.group_id == group] == ["STABLE"]
    with pytest.raises(KafkaException, match="NON_EMPTY_GROUP"):
        admin.delete_consumer_groups([group])[group].result(TIMEOUT_S)
    consumer.close()
    target = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 3)])
    admin.alter_consumer_group_offsets([target])[group].result(TIMEOUT_S)
    listed_offsets = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(TIMEOUT_S)
    assert {p.partition: p.offset for p in listed_offsets.topic_partitions} == {0: 3, 1: 10, 2: 10}
    admin.delete_consumer_groups([group])[group].result(TIMEOUT_S)
    left = admin.list_consumer_groups().result(TIMEOUT_S).valid
    assert group not in [entry.group_id for entry in left]


def test_confluent_kafka__auto_creates_on_first_produce(server: Server, admin: AdminClient, unique_name: NAME) -> None:
    topic = unique_name("auto")
    records = [record._replace(partition=0) for record in samples(10)]
    assert produce(server, topic, records) == {0: list(range(10))}


def test_confluent_kafka__message_too_large_is_refused_and_the_rest_goes_on(
    server: Server, admin: AdminClient, unique_name: NAME
) -> None:
    topic = unique_name("large")
    create_topic(admin, topic, 1, max_message_bytes="10000")
    outcomes: list[str | None] = []
    producer = Producer({"bootstrap.servers": server.bootstrap, "linger.ms": 0})
    for size in (10, 50_000, 10):
        producer.produce(
            topic, b"x" * size, on_delivery=lambda error, _: outcomes.append(error.name() if error else None)
        )
        producer.flush(TIMEOUT_S)
    assert outcomes == [None, "MSG_SIZE_TOO_LARGE", None]
