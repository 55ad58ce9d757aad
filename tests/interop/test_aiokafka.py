"""aiokafka, unmodified: content, order, committed offsets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.interop.conftest import Server
from tests.interop.sample import PARTITIONS, Sample, by_partition, samples

NAME = Callable[[str], str]
TIMEOUT_S = 60.0


async def create_topic(server: Server, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=server.bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    finally:
        await admin.close()


async def produce(server: Server, topic: str, records: list[Sample], compression: str | None) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=server.bootstrap, compression_type=compression, enable_idempotence=True, linger_ms=2
    )
    await producer.start()
    try:
        sends = [
            await producer.send(
                topic,
                value=record.value,
                key=record.key,
                partition=record.partition,
                timestamp_ms=record.timestamp_ms,
                headers=list(record.headers),
            )
            for record in records
        ]
        await asyncio.gather(*sends)
    finally:
        await producer.stop()


async def consume_and_commit(server: Server, topic: str, group: str, count: int) -> dict[int, list[Any]]:
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=server.bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    found: dict[int, list[Any]] = {partition: [] for partition in range(PARTITIONS)}
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while sum(map(len, found.values())) < count and time.monotonic() < deadline:
            for partition, messages in (await consumer.getmany(timeout_ms=200)).items():
                found[partition.partition].extend(messages)
        await consumer.commit()
        for partition in range(PARTITIONS):
            last = found[partition][-1].offset
            assert await consumer.committed(TopicPartition(topic, partition)) == last + 1
    finally:
        await consumer.stop()
    return found


def as_sample(message: Any) -> Sample:
    return Sample(message.partition, message.key, message.value, tuple(message.headers), message.timestamp)


@pytest.mark.parametrize("compression", [None, "gzip", "snappy", "lz4", "zstd"])
async def test_aiokafka__round_trip_resumes_at_committed_offsets(
    server: Server, unique_name: NAME, compression: str | None
) -> None:
    topic, group = unique_name(f"aio-{compression}"), unique_name("group")
    await create_topic(server, topic)
    for start, records in ((0, samples(600)), (200, samples(90))):
        await produce(server, topic, records, compression)
        found = await consume_and_commit(server, topic, group, len(records))
        got = {p: [as_sample(message) for message in messages] for p, messages in found.items()}
        assert got == by_partition(records)
        assert {messages[0].offset for messages in found.values()} == {start}


async def test_aiokafka__two_members_read_each_record_once(server: Server, unique_name: NAME) -> None:
    topic, group = unique_name("aio-two"), unique_name("group")
    await create_topic(server, topic)
    consumers = [
        AIOKafkaConsumer(
            topic, bootstrap_servers=server.bootstrap, group_id=group, auto_offset_reset="earliest", client_id=f"c{n}"
        )
        for n in range(2)
    ]
    for consumer in consumers:
        await consumer.start()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while not all(consumer.assignment() for consumer in consumers):
                await asyncio.gather(*(consumer.getmany(timeout_ms=50) for consumer in consumers))
        held = [{partition.partition for partition in consumer.assignment()} for consumer in consumers]
        assert held[0] | held[1] == set(range(PARTITIONS)) and not held[0] & held[1]
        records = samples(300)
        await produce(server, topic, records, "lz4")
        found: dict[int, list[Sample]] = {partition: [] for partition in range(PARTITIONS)}
        deadline = time.monotonic() + TIMEOUT_S
        while sum(map(len, found.values())) < len(records) and time.monotonic() < deadline:
            for batch in await asyncio.gather(*(consumer.getmany(timeout_ms=200) for consumer in consumers)):
                for partition, messages in batch.items():
                    found[partition.partition].extend(map(as_sample, messages))
        assert found == by_partition(records)
    finally:
        await asyncio.gather(*(consumer.stop() for consumer in consumers))
