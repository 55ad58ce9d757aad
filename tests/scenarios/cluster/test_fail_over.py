"""Brokers that die, pause and come back under unmodified clients: nothing acknowledged is lost, nothing comes twice."""

from __future__ import annotations

import signal
import time

from confluent_kafka import Consumer, KafkaException, Producer

from tests.scenarios.cluster.cluster import (
    PATIENCE_S,
    Cluster,
    CountingProducer,
    check_nothing_lost,
    read_all,
    until,
)
from tests.support import probe


def test_cluster__goes_on_without_loss_when_a_broker_is_killed_and_when_it_is_back(cluster: Cluster) -> None:
    cluster.create_topic("killed", 12)
    until(lambda: sorted(set(cluster.leaders("killed"))) == [0, 1, 2], "every broker has some")
    producer = CountingProducer(cluster, "killed")
    producer.wait_for_more(500)
    cluster.nodes[1].kill9()
    killed_at = time.monotonic()
    until(lambda: {0, 2} == set(cluster.leaders("killed")), "all partitions have new owners")
    print(f"new owners after {time.monotonic() - killed_at:.2f} s")
    producer.wait_for_more(500)
    cluster.nodes[1].restart()
    producer.wait_for_more(200)
    producer.stop()
    print(f"longest pause of a partition {producer.longest_pause_of_a_partition_s():.2f} s")
    check_nothing_lost(producer, read_all(cluster, "killed"))


def test_cluster__lets_a_paused_broker_acknowledge_nothing(cluster: Cluster) -> None:
    cluster.create_topic("paused", 12)
    producer = CountingProducer(cluster, "paused")
    producer.wait_for_more()
    for broker_id in (0, 2):
        node = cluster.nodes[broker_id]
        ready = node.log().count(" is ready on ")
        node.signal(signal.SIGSTOP)
        until(lambda stopped=broker_id: stopped not in cluster_leaders_without(cluster, stopped), "others took over")
        producer.wait_for_more(100)
        node.signal(signal.SIGCONT)
        until(lambda node=node, before=ready: node.log().count(" is ready on ") > before, "it has joined anew")
    producer.wait_for_more(100)
    producer.stop()
    check_nothing_lost(producer, read_all(cluster, "paused"))


def cluster_leaders_without(cluster: Cluster, broker_id: int) -> list[int]:
    """Leaders of "paused" as another broker than this one says."""
    other = cluster.nodes[(broker_id + 1) % 3]
    with probe.connect(other.address) as wire:
        return probe.leaders(wire, "paused")


def test_cluster__keeps_groups_and_transactions_over_the_death_of_their_coordinators(cluster: Cluster) -> None:
    cluster.create_topic("in", 6)
    cluster.create_topic("out", 6)
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "log_level": 0})
    for number in range(120):
        producer.produce("in", f"v{number}".encode(), partition=number % 6)
    assert producer.flush(PATIENCE_S) == 0
    copied = copy_some(cluster, "copier", 60)
    with probe.connect(cluster.nodes[0].address) as wire:
        coordinator = probe.coordinator(wire, "copiers")
    cluster.nodes[coordinator].kill9()
    copied += copy_some(cluster, "copier", 60)
    cluster.nodes[coordinator].restart()
    copied += copy_some(cluster, "copier", 120 - copied)
    assert copied == 120
    read = read_all(cluster, "out", isolation="read_committed")
    assert sorted(value for value, _, _ in read) == sorted(f"v{number}" for number in range(120))


def copy_some(cluster: Cluster, transactional_id: str, count: int) -> int:
    """Copies that many records from "in" to "out" in transactions with their offsets, and then goes away."""
    consumer = Consumer(
        {
            "bootstrap.servers": cluster.bootstrap,
            "group.id": "copiers",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "session.timeout.ms": 6000,
            "log_level": 0,
        }
    )
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "transactional.id": transactional_id, "log_level": 0})
    patiently(lambda: producer.init_transactions(PATIENCE_S))
    consumer.subscribe(["in"])
    copied = 0
    give_up_at = time.monotonic() + PATIENCE_S
    while copied < count:
        assert time.monotonic() < give_up_at, f"{copied} of {count}"
        messages = [message for message in consumer.consume(min(10, count - copied), 1.0) if not message.error()]
        if not messages:
            continue
        producer.begin_transaction()
        for message in messages:
            producer.produce("out", message.value(), partition=message.partition())
        metadata = consumer.consumer_group_metadata()
        offsets = consumer.position(consumer.assignment())
        patiently(lambda given=offsets, of=metadata: producer.send_offsets_to_transaction(given, of, PATIENCE_S))
        patiently(lambda: producer.commit_transaction(PATIENCE_S))
        copied += len(messages)
    consumer.close()
    return copied


def patiently(call: object) -> None:
    """Again while librdkafka says that it may be tried again."""
    assert callable(call)
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            call()
            return
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > give_up_at:
                raise


def test_cluster__gives_a_broker_that_is_added_its_share_under_load(cluster: Cluster) -> None:
    """Metadata move, nothing else: what the topic has in the shared store is not written again."""
    cluster.create_topic("grown", 12)
    producer = CountingProducer(cluster, "grown")
    producer.wait_for_more(200)
    started_at = time.monotonic()
    cluster.add()
    until(lambda: cluster.leaders("grown").count(3) >= 2, "the new broker owns something")
    print(f"a share {time.monotonic() - started_at:.1f} s after its start")
    producer.wait_for_more(200)
    producer.stop()
    print(f"longest pause of a partition {producer.longest_pause_of_a_partition_s():.2f} s")
    check_nothing_lost(producer, read_all(cluster, "grown"))
