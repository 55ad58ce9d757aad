"""Consumers that read from a broker of their own zone (KIP-392), with unmodified clients."""

from __future__ import annotations

from confluent_kafka import KafkaException, Producer

from tests.scenarios.cluster.cluster import LONG_SESSIONS, PATIENCE_S, Cluster, CountingProducer, until
from tests.scenarios.cluster.zone_reader import ZoneReader

PARTITIONS = 6
OPTIONS = LONG_SESSIONS


def test_reader__gets_everything_from_the_broker_of_its_zone(cluster: Cluster) -> None:
    cluster.create_topic("near", PARTITIONS)
    producer = CountingProducer(cluster, "near", **{"linger.ms": 20})
    producer.wait_for_more(100)
    readers = [ZoneReader(cluster, "near", PARTITIONS, zone) for zone in "abc"]
    producer.wait_for_more(3000)
    producer.stop()
    assert producer.failed == []
    for reader in readers:
        reader.wait_for(set(producer.acknowledged))
        assert reader.found == producer.acknowledged
        reader.stop()
    for own, reader in enumerate(readers):
        received = reader.received_by_broker
        assert received[own] > 0.8 * sum(received.values()), f"zone {'abc'[own]} received {received}"


def test_reader__in_the_middle_of_kills_of_owner_and_reader(cluster: Cluster) -> None:
    cluster.create_topic("killed-readers", PARTITIONS)
    producer = CountingProducer(cluster, "killed-readers")
    reader = ZoneReader(cluster, "killed-readers", PARTITIONS, "c")
    producer.wait_for_more(300)
    until(lambda: len(reader.found) > 100)
    for victim in (0, 2):  # an owner that it does not read from; then where it reads, an owner as well
        cluster.nodes[victim].kill9()
        until(lambda gone=victim: gone not in cluster.leaders("killed-readers"), "all partitions have new owners")
        producer.wait_for_more(300)
        reader.wait_for(set(producer.acknowledged))
        cluster.nodes[victim].restart()
        producer.wait_for_more(300)
    producer.stop()
    assert producer.failed == []
    reader.wait_for(set(producer.acknowledged))
    assert reader.found == producer.acknowledged
    reader.stop()


def test_reader__sees_committed_transactions_only(cluster: Cluster) -> None:
    cluster.create_topic("decided", PARTITIONS)
    reader = ZoneReader(cluster, "decided", PARTITIONS, "b", **{"isolation.level": "read_committed"})
    committed, undecided = set[str](), set[str]()
    producer = transactional_producer(cluster)
    for number in range(40):
        is_aborted = number % 3 == 0
        values = [f"{'aborted' if is_aborted else 'committed'}-{number}-{one}" for one in range(5)]
        try:
            run_transaction(producer, values, is_aborted)
        except KafkaException:  # a busy machine: the coordinator lost its session, and nobody knows how that ended
            undecided.update(values)
            producer = transactional_producer(cluster)
        else:
            committed.update(() if is_aborted else values)
    reader.wait_for(committed)
    assert len(committed) > 50
    assert committed <= reader.found.keys() <= committed | undecided
    reader.stop()


def transactional_producer(cluster: Cluster) -> Producer:
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "transactional.id": "decider", "log_level": 0})
    producer.init_transactions(PATIENCE_S)
    return producer


def run_transaction(producer: Producer, values: list[str], is_aborted: bool) -> None:
    producer.begin_transaction()
    for index, value in enumerate(values):
        producer.produce("decided", value.encode(), partition=index)
    if is_aborted:
        producer.flush(PATIENCE_S)
        producer.abort_transaction(PATIENCE_S)
    else:
        producer.commit_transaction(PATIENCE_S)
