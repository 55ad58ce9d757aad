"""What is done to nodes that are killed, and what is read of them afterwards."""

from __future__ import annotations

import time
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.interop.wire import Wire
from tests.support import probe
from tests.support.node_process import NodeProcess

TIMEOUT_S = 60.0
PARTITIONS = 3
FIRST_MS = 1_700_000_000_000


def create_topic(node: NodeProcess, topic: str, **config: str) -> AdminClient:
    admin = AdminClient({"bootstrap.servers": node.bootstrap})
    admin.create_topics([NewTopic(topic, PARTITIONS, 1, config=config)])[topic].result(TIMEOUT_S)
    return admin


def read_all(node: NodeProcess, topic: str, count: int) -> dict[int, list[tuple[int, bytes]]]:
    """(offset, value) of each partition, until `count` were read and then whatever else comes at once."""
    consumer = Consumer({"bootstrap.servers": node.bootstrap, "group.id": "reader", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    found: dict[int, list[tuple[int, bytes]]] = {partition: [] for partition in range(PARTITIONS)}
    deadline = time.monotonic() + TIMEOUT_S
    quiet = False
    while time.monotonic() < deadline and not (quiet and sum(map(len, found.values())) >= count):
        messages = consumer.consume(1_000, timeout=0.3)
        quiet = not messages
        for message in messages:
            assert message.error() is None, message.error()
            found[message.partition()].append((message.offset(), message.value()))
    consumer.close()
    return found


def produce(node: NodeProcess, count: int, kills: set[int]) -> dict[tuple[int, int], bytes]:
    """Values by partition and offset as acknowledged; the node is killed and started again after some of them."""
    settings = {"enable.idempotence": True, "linger.ms": 1, "message.timeout.ms": 120_000, "retry.backoff.ms": 20}
    settings |= {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100}
    producer = Producer({"bootstrap.servers": node.bootstrap, **settings})
    acknowledged: dict[tuple[int, int], bytes] = {}
    failures: list[Any] = []

    def delivered(error: Any, message: Any) -> None:
        if error is not None:
            failures.append(error)
        else:
            acknowledged[message.partition(), message.offset()] = message.value()

    for number in range(count):
        producer.produce("topic", str(number).encode(), partition=number % PARTITIONS, on_delivery=delivered)
        producer.poll(0)
        if number in kills:
            node.kill9()
            node.restart()
    assert producer.flush(TIMEOUT_S) == 0
    assert not failures
    return acknowledged


def numbers_by_offset(wire: Wire, topic: str) -> dict[int, int]:
    """Of batches that have their number in their timestamp (FIRST_MS and on): all that is there, whole and dense."""
    found: dict[int, int] = {}
    end = probe.end_offset(wire, topic)
    while len(found) < end:
        error, batches = probe.fetch(wire, topic, len(found))
        assert error == 0 and batches
        for one in batches:
            assert one["crc_right"] and one["base_offset"] == len(found)
            found[one["base_offset"]] = one["base_timestamp"] - FIRST_MS
    return found
