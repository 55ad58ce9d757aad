"""kill -9 at the worst moments: what was acknowledged is there, dense, once, in order, and coordinators remember."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import ConfigResource

from tests.interop.batches import batch
from tests.support import probe
from tests.support.killed_nodes import (
    FIRST_MS,
    PARTITIONS,
    TIMEOUT_S,
    create_topic,
    numbers_by_offset,
    produce,
    read_all,
)
from tests.support.node_process import NodeProcess

MAKE = Callable[..., NodeProcess]
PRODUCER_ID = 5_000_000


@pytest.mark.parametrize("durability", ["fsync", "page-cache"])
def test_node__killed_during_idempotent_produce_loses_and_repeats_nothing(make_node: MAKE, durability: str) -> None:
    node = make_node(options=["--durability", durability]).start()
    create_topic(node, "topic")
    count = 12_000
    acknowledged = produce(node, count, {1_500, 4_000, 4_050, 9_000})
    found = read_all(node, "topic", count)
    for partition, records in found.items():
        sent = [str(number).encode() for number in range(partition, count, PARTITIONS)]
        assert records == list(enumerate(sent))
    assert acknowledged == {(p, offset): value for p, records in found.items() for offset, value in records}


def test_node__killed_recognises_duplicates_afterwards(make_node: MAKE) -> None:
    node = make_node().start()

    def idempotent(sequence: int, value: bytes) -> bytes:
        return batch([value], producer_id=PRODUCER_ID, producer_epoch=0, base_sequence=sequence)

    with probe.connect(node.address) as wire:
        assert probe.create_topic(wire, "topic") == 0
        answers = [probe.produce(wire, "topic", idempotent(n, b"%d" % n)) for n in range(7)]
        assert answers == [(0, n) for n in range(7)]
    for stop in (node.kill9, node.terminate):
        stop()
        node.restart()
        with probe.connect(node.address) as wire:
            assert [probe.produce(wire, "topic", idempotent(n, b"%d" % n)) for n in range(2, 7)] == [
                (0, n) for n in range(2, 7)
            ]
            assert probe.produce(wire, "topic", idempotent(6, b"other content"))[0] == 45
            assert probe.produce(wire, "topic", idempotent(9, b"gap"))[0] == 45
            assert probe.end_offset(wire, "topic") == 7
    with probe.connect(node.address) as wire:
        assert probe.produce(wire, "topic", idempotent(7, b"7")) == (0, 7)


@pytest.mark.parametrize("durability", ["fsync", "page-cache"])
def test_node__killed_recognises_duplicates_of_what_delete_records_took(make_node: MAKE, durability: str) -> None:
    node = make_node(options=["--durability", durability]).start()
    admin = create_topic(node, "topic")
    sent = [batch([b"%d" % n], producer_id=PRODUCER_ID, producer_epoch=0, base_sequence=n) for n in range(7)]
    with probe.connect(node.address) as wire:
        assert [probe.produce(wire, "topic", each) for each in sent] == [(0, n) for n in range(7)]
    everything = TopicPartition("topic", 0, -1)
    admin.delete_records([everything])[everything].result(TIMEOUT_S)
    for stop in (node.kill9, node.terminate):
        stop()
        node.restart()
        with probe.connect(node.address) as wire:
            assert [probe.produce(wire, "topic", each) for each in sent[2:]] == [(0, n) for n in range(2, 7)]
            assert probe.end_offset(wire, "topic") == 7


def test_node__killed_remembers_groups_topics_and_configs(make_node: MAKE) -> None:
    node = make_node(options=["--set", "group.initial.rebalance.delay.ms=0"]).start()
    admin = create_topic(node, "topic", **{"retention.ms": "7654321"})
    producer = Producer({"bootstrap.servers": node.bootstrap})
    for number in range(90):
        producer.produce("topic", b"x", partition=number % PARTITIONS)
    assert producer.flush(TIMEOUT_S) == 0
    settings = {"group.id": "group", "auto.offset.reset": "earliest", "enable.auto.commit": False}
    consumer = Consumer({"bootstrap.servers": node.bootstrap, **settings})
    consumer.subscribe(["topic"])
    seen = 0
    while seen < 90:
        seen += len(consumer.consume(100, timeout=1.0))
    consumer.commit(asynchronous=False)

    node.kill9()
    node.restart()
    wanted = ConsumerGroupTopicPartitions("group")
    offsets = admin.list_consumer_group_offsets([wanted])["group"].result(TIMEOUT_S).topic_partitions
    assert {p.partition: p.offset for p in offsets} == dict.fromkeys(range(PARTITIONS), 30)
    resource = ConfigResource("topic", "topic")
    described = next(iter(admin.describe_configs([resource]).values())).result(TIMEOUT_S)
    assert described["retention.ms"].value == "7654321"
    # The member that lived through it goes on with the same group, from where it was.
    for number in range(30):
        producer.produce("topic", b"later", partition=number % PARTITIONS)
    assert producer.flush(TIMEOUT_S) == 0
    values: list[bytes] = []
    deadline = time.monotonic() + TIMEOUT_S
    while len(values) < 30 and time.monotonic() < deadline:
        values += [message.value() for message in consumer.consume(100, timeout=0.5) if not message.error()]
    assert values == [b"later"] * 30
    consumer.commit(asynchronous=False)
    consumer.close()


def test_node__deleted_topics_stay_deleted_and_a_new_one_of_that_name_is_empty(make_node: MAKE) -> None:
    node = make_node().start()
    admin = create_topic(node, "topic")
    with probe.connect(node.address) as wire:
        assert probe.produce(wire, "topic") == (0, 0)
    admin.delete_topics(["topic"])["topic"].result(TIMEOUT_S)
    node.kill9()
    node.restart()
    assert "topic" not in admin.list_topics(timeout=TIMEOUT_S).topics
    create_topic(node, "topic")
    with probe.connect(node.address) as wire:
        assert probe.end_offset(wire, "topic") == 0
        assert probe.produce(wire, "topic") == (0, 0)


def test_node__killed_many_times_at_random_moments_keeps_every_acknowledged_batch(make_node: MAKE) -> None:
    """A raw producer without retries: what was acknowledged is there at its offset; what was not, is there once or
    not.
    """
    node = make_node().start()
    moments = random.Random(1)
    acknowledged: dict[int, int] = {}
    sent = 0
    with probe.connect(node.address) as wire:
        assert probe.create_topic(wire, "topic") == 0
    for _ in range(6):
        with probe.connect(node.address) as wire:
            ends = time.monotonic() + moments.uniform(0.05, 0.4)
            while time.monotonic() < ends:
                records = batch([b"%d" % sent], base_timestamp=FIRST_MS + sent)
                error, offset = probe.produce(wire, "topic", records)
                assert error == 0
                acknowledged[offset] = sent
                sent += 1
            for _ in range(moments.randrange(1, 20)):
                records = batch([b"%d" % sent], base_timestamp=FIRST_MS + sent)
                wire.send(probe.produce_request("topic", records))
                sent += 1
            node.kill9()
        node.restart()
    with probe.connect(node.address) as wire:
        found = numbers_by_offset(wire, "topic")
    assert acknowledged.items() <= found.items()
    assert sorted(set(found.values())) == list(found.values()), "repeated or out of order"
    assert set(found.values()) <= set(range(sent))
