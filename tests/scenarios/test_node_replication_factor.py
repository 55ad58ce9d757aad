"""Replication factor and min.insync.replicas on one broker: accepted whatever they are, and shown as what there is."""

from __future__ import annotations

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from tests.support.node_process import NodeProcess

TIMEOUT_S = 60.0


@pytest.mark.parametrize("factor", [1, 3, 50])
def test_replication_factor__is_accepted_and_writes_are_acknowledged(node: NodeProcess, factor: int) -> None:
    admin = AdminClient({"bootstrap.servers": node.bootstrap})
    config = {"min.insync.replicas": "3"}
    admin.create_topics([NewTopic("topic", 2, factor, config=config)])["topic"].result(TIMEOUT_S)
    admin.create_partitions([NewPartitions("topic", 4)])["topic"].result(TIMEOUT_S)
    partitions = admin.list_topics("topic", TIMEOUT_S).topics["topic"].partitions
    assert {index: (p.leader, p.replicas, p.isrs) for index, p in partitions.items()} == dict.fromkeys(
        range(4), (0, [0], [0])
    )
    producer = Producer({"bootstrap.servers": node.bootstrap, "acks": "all"})
    failures: list[object] = []
    for partition in range(4):
        producer.produce("topic", b"x", partition=partition, on_delivery=lambda error, _: failures.append(error))
    assert producer.flush(TIMEOUT_S) == 0
    assert failures == [None] * 4
