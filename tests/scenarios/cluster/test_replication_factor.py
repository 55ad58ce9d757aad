"""What clients are told of replicas where there are several brokers: min(factor, brokers) of them, the owner first."""

from __future__ import annotations

import re
from collections.abc import Callable

from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.node_process import NodeProcess

TIMEOUT_S = 60.0
READY_S = 60.0


def test_replication_factor__is_shown_as_far_as_there_are_brokers(make_node: Callable[..., NodeProcess]) -> None:
    node = make_node(listen=["127.0.0.1:0"], options=["--brokers", "3"])
    node.launch()
    [first, *_] = re.findall(r"127\.0\.0\.1:\d+", node.wait_ready(READY_S))
    admin = AdminClient({"bootstrap.servers": first})
    factors = {f"factor-{factor}": factor for factor in (1, 2, 3, 50)}
    for created in admin.create_topics([NewTopic(name, 6, factor) for name, factor in factors.items()]).values():
        created.result(TIMEOUT_S)
    topics = admin.list_topics(timeout=TIMEOUT_S).topics
    for name, factor in factors.items():
        partitions = topics[name].partitions.values()
        for partition in partitions:
            assert partition.replicas[0] == partition.leader
            assert len(set(partition.replicas)) == len(partition.replicas) == min(factor, 3)
            assert sorted(partition.isrs) == sorted(partition.replicas)
        assert {partition.leader for partition in partitions} == {0, 1, 2}
