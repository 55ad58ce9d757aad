"""kafka-python 3, unmodified: content, order, committed offsets, admin."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.admin import NewTopic

from tests.interop.conftest import Server
from tests.interop.sample import PARTITIONS, Sample, by_partition, samples

NAME = Callable[[str], str]
TIMEOUT_S = 60.0


@pytest.fixture
def admin(server: Server) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=server.bootstrap)
    yield client
    client.close()


def create_topic(admin: KafkaAdminClient, topic: str, partitions: int = PARTITIONS) -> None:
    admin.create_topics([NewTopic(topic, partitions, 1)])


def produce(server: Server, topic: str, records: Sequence[Sample], **settings: Any) -> dict[int, list[int]]:
    producer = KafkaProducer(bootstrap_servers=server.bootstrap, linger_ms=2, **settings)
    futures = [
        producer.send(
            topic,
            value=record.value,
            key=record.key,
            headers=list(record.headers),
            partition=record.partition,
            timestamp_ms=record.timestamp_ms,
        )
        for record in records
    ]
    producer.flush(TIMEOUT_S)
    offsets: dict[int, list[int]] = {}
    for future in futures:
        metadata = future.get(TIMEOUT_S)
        offsets.setdefault(metadata.partition, []).append(metadata.offset)
    producer.close()
    return offsets


def consume(consumer: KafkaConsumer, count: int) -> dict[int, list[Any]]:
    """Polls with all the time that is left: kafka-python 3.0.12 loses its assignment, for good, when a poll ends while
    the answer to its SyncGroup is on the way (`join_group_async` asks `need_rejoin()`, which the join has just
    cleared, before it looks at the join's outcome). Polls of 200 ms lost 11 of 180 groups with Apache Kafka 4.4.0.
    """
    found: dict[int, list[Any]] = {partition: [] for partition in range(PARTITIONS)}
    deadline = time.monotonic() + TIMEOUT_S
    while sum(map(len, found.values())) < count and (left_s := deadline - time.monotonic()) > 0:
        for partition, messages in consumer.poll(timeout_ms=int(left_s * 1000)).items():
            found[partition.partition].extend(messages)
    return found


def as_sample(message: Any) -> Sample:
    return Sample(message.partition, message.key, message.value, tuple(message.headers or ()), message.timestamp)


def group_consumer(server: Server, topic: str, group: str) -> KafkaConsumer:
    return KafkaConsumer(
        topic,
        bootstrap_servers=server.bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        check_crcs=True,
    )


@pytest.mark.parametrize("compression", [None, "gzip", "snappy", "lz4", "zstd"])
def test_kafka_python__round_trip_resumes_at_committed_offsets(
    server: Server, admin: KafkaAdminClient, unique_name: NAME, compression: str | None
) -> None:
    topic, group = unique_name(f"python-{compression}"), unique_name("group")
    create_topic(admin, topic)
    first, second = samples(600), samples(90)
    settings = {"compression_type": compression, "enable_idempotence": True}
    offsets = produce(server, topic, first, **settings)
    assert offsets == {partition: list(range(200)) for partition in range(PARTITIONS)}

    consumer = group_consumer(server, topic, group)
    found = consume(consumer, len(first))
    consumer.commit()
    consumer.close()
    assert {p: [as_sample(message) for message in messages] for p, messages in found.items()} == by_partition(first)

    committed = admin.list_group_offsets(group)[group]
    assert {p.partition: offset.offset for p, offset in committed.items()} == dict.fromkeys(range(PARTITIONS), 200)
    produce(server, topic, second, **settings)
    consumer = group_consumer(server, topic, group)
    found = consume(consumer, len(second))
    consumer.close()
    assert {p: [as_sample(message) for message in messages] for p, messages in found.items()} == by_partition(second)


def test_kafka_python__positions_and_times(server: Server, admin: KafkaAdminClient, unique_name: NAME) -> None:
    topic = unique_name("python-times")
    create_topic(admin, topic)
    produce(server, topic, samples(300, 1_600_000_000_000))
    consumer = KafkaConsumer(
        bootstrap_servers=server.bootstrap, group_id=unique_name("group"), enable_auto_commit=False
    )
    partition = TopicPartition(topic, 1)
    consumer.assign([partition])
    assert consumer.beginning_offsets([partition]) == {partition: 0}
    assert consumer.end_offsets([partition]) == {partition: 100}
    # Partition 1 holds the samples 1, 4, 7, ...: the first one at or after 50 is 52, at offset 17.
    assert consumer.offsets_for_times({partition: 1_600_000_000_050})[partition].offset == 17
    consumer.seek(partition, 90)
    found = consume(consumer, 10)
    assert [message.offset for message in found[1]] == list(range(90, 100))
    consumer.commit({partition: OffsetAndMetadata(42, "note", -1)})
    assert consumer.committed(partition) == 42
    consumer.close()


def test_kafka_python__without_acknowledgement(server: Server, admin: KafkaAdminClient, unique_name: NAME) -> None:
    topic = unique_name("python-acks0")
    create_topic(admin, topic)
    records = samples(200)
    produce(server, topic, records, acks=0, enable_idempotence=False)
    consumer = group_consumer(server, topic, unique_name("group"))
    found = consume(consumer, len(records))
    consumer.close()
    assert {p: [as_sample(message) for message in messages] for p, messages in found.items()} == by_partition(records)


def test_kafka_python__admin_sees_what_it_made(server: Server, admin: KafkaAdminClient, unique_name: NAME) -> None:
    topic = unique_name("python-admin")
    create_topic(admin, topic, 2)
    [described] = admin.describe_topics([topic])
    assert (described["name"], len(described["partitions"])) == (topic, 2)
    assert topic in admin.list_topics()
    admin.delete_topics([topic])
    deadline = time.monotonic() + TIMEOUT_S
    while topic in admin.list_topics() and time.monotonic() < deadline:
        pass
    assert topic not in admin.list_topics()


def test_kafka_python__transactions(server: Server, admin: KafkaAdminClient, unique_name: NAME) -> None:
    topic, group = unique_name("kp-txn"), unique_name("kp-txn-group")
    create_topic(admin, topic, 1)
    producer = KafkaProducer(bootstrap_servers=server.bootstrap, transactional_id=unique_name("kp-id"))
    producer.init_transactions()
    for number in range(4):
        producer.begin_transaction()
        producer.send(topic, b"%d" % number)
        offsets = {TopicPartition(topic, 0): OffsetAndMetadata(number + 1, "", -1)}
        producer.send_offsets_to_transaction(offsets, group)
        if number % 2:
            producer.abort_transaction()
        else:
            producer.commit_transaction()
    producer.close()
    settings = {"isolation_level": "read_committed", "auto_offset_reset": "earliest", "group_id": group}
    consumer = KafkaConsumer(bootstrap_servers=server.bootstrap, enable_auto_commit=False, **settings)
    consumer.assign([TopicPartition(topic, 0)])
    assert consumer.committed(TopicPartition(topic, 0)) == 3
    consumer.seek_to_beginning()
    values = [record.value for record in consume(consumer, 2)[0]]
    consumer.close()
    assert values == [b"0", b"2"]
