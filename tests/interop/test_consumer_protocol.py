"""The consumer protocol of KIP-848 by unmodified clients: librdkafka with group.protocol=consumer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.interop.conftest import Server
from tests.support.node_process import NodeProcess

NAME = Callable[[str], str]
TIMEOUT_S = 60.0
PARTITIONS = 6


class Member:
    """A consumer, what it has read, and what it commits."""

    def __init__(self, bootstrap: str, group: str, topics: list[str], **settings: Any) -> None:
        config = {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "group.protocol": "consumer",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            **settings,
        }
        self.consumer = Consumer(config)
        self.consumer.subscribe(topics)
        self.read: list[tuple[int, int]] = []

    def poll(self, timeout_s: float = 0.05) -> None:
        message = self.consumer.poll(timeout_s)
        if message is None:
            return
        error = message.error()
        if error is None:
            self.read.append((message.partition(), message.offset()))
        else:
            # Connections break when a node is killed; nothing else may go wrong.
            assert error.retriable() or error.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN), error

    def partitions(self) -> set[int]:
        return {partition.partition for partition in self.consumer.assignment()}


def create_topic(server: Server, topic: str, partitions: int = PARTITIONS) -> None:
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(TIMEOUT_S)


def produce(server: Server, topic: str, count: int) -> None:
    producer = Producer({"bootstrap.servers": server.bootstrap})
    for number in range(count):
        producer.produce(topic, b"%d" % number, partition=number % PARTITIONS)
    assert producer.flush(TIMEOUT_S) == 0


@contextmanager
def members(*started: Member) -> Iterator[list[Member]]:
    try:
        yield list(started)
    finally:
        for member in started:
            member.consumer.close()


def poll_until(group: list[Member], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, [sorted(member.partitions()) for member in group]
        for member in group:
            member.poll()


def is_shared(group: list[Member]) -> bool:
    """All partitions, each once, in equal shares."""
    shares = [member.partitions() for member in group]
    all_read = sorted(partition for share in shares for partition in share)
    return all_read == list(range(PARTITIONS)) and len({len(share) for share in shares}) == 1


def test_consumer_protocol__three_members_share_and_one_leaves(server: Server, unique_name: NAME) -> None:
    topic, group = unique_name("kip848"), unique_name("group")
    create_topic(server, topic)
    produce(server, topic, 600)
    with members(*(Member(server.bootstrap, group, [topic]) for _ in range(3))) as all_members:
        poll_until(all_members, lambda: is_shared(all_members))
        poll_until(all_members, lambda: len({each for member in all_members for each in member.read}) == 600)
        for member in all_members:
            own = [TopicPartition(topic, partition, 100) for partition in member.partitions()]
            assert all(each.error is None for each in member.consumer.commit(offsets=own, asynchronous=False))
        left, staying = all_members[0], all_members[1:]
        left.consumer.close()
        poll_until(staying, lambda: is_shared(staying))
        committed = staying[0].consumer.committed([TopicPartition(topic, index) for index in range(PARTITIONS)])
        assert [each.offset for each in committed] == [100] * PARTITIONS
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    described = admin.describe_consumer_groups([group])[group].result(TIMEOUT_S)
    assert described.state.name == "EMPTY" and described.type.name == "CONSUMER"
    admin.delete_consumer_groups([group])[group].result(TIMEOUT_S)


def test_consumer_protocol__a_regular_expression_follows_new_topics(server: Server, unique_name: NAME) -> None:
    prefix, group = unique_name("kip848-re"), unique_name("group")
    create_topic(server, f"{prefix}-a", 2)
    with members(Member(server.bootstrap, group, [f"^{prefix}-.*"])) as [member]:
        poll_until([member], lambda: len(member.consumer.assignment()) == 2)
        create_topic(server, f"{prefix}-b", 3)
        poll_until([member], lambda: len(member.consumer.assignment()) == 5)


def test_consumer_protocol__static_members_and_the_range_assignor(server: Server, unique_name: NAME) -> None:
    topic, group = unique_name("kip848-static"), unique_name("group")
    create_topic(server, topic)
    settings = {"group.remote.assignor": "range"}
    one, two = (
        Member(server.bootstrap, group, [topic], **{**settings, "group.instance.id": f"i{number}"}) for number in (1, 2)
    )
    with members(one, two):
        poll_until([one, two], lambda: [sorted(one.partitions()), sorted(two.partitions())] == [[0, 1, 2], [3, 4, 5]])


def test_consumer_protocol__offsets_of_a_transaction_count_when_it_commits(server: Server, unique_name: NAME) -> None:
    topic, group = unique_name("kip848-txn"), unique_name("group")
    create_topic(server, topic)
    producer = Producer({"bootstrap.servers": server.bootstrap, "transactional.id": group})
    producer.init_transactions(TIMEOUT_S)
    with members(Member(server.bootstrap, group, [topic])) as [member]:
        poll_until([member], lambda: is_shared([member]))
        for offset, commits, expected in ((3, True, 3), (5, False, 3)):
            producer.begin_transaction()
            metadata = member.consumer.consumer_group_metadata()
            producer.send_offsets_to_transaction([TopicPartition(topic, 0, offset)], metadata, TIMEOUT_S)
            (producer.commit_transaction if commits else producer.abort_transaction)(TIMEOUT_S)
            (committed,) = member.consumer.committed([TopicPartition(topic, 0)], TIMEOUT_S)
            assert committed.offset == expected


def test_consumer_protocol__goes_on_when_the_node_is_killed(server: Server, unique_name: NAME, tmp_path: Any) -> None:
    if not isinstance(server, NodeProcess):
        return
    topic, group = unique_name("kip848-kill"), unique_name("group")
    node = NodeProcess(tmp_path / "data").start()
    try:
        create_topic(node, topic)
        produce(node, topic, 300)
        with members(Member(node.bootstrap, group, [topic]), Member(node.bootstrap, group, [topic])) as both:
            poll_until(both, lambda: is_shared(both) and sum(len(member.read) for member in both) >= 300)
            shares = [member.partitions() for member in both]
            node.kill9()
            node.restart()
            produce(node, topic, 300)
            poll_until(both, lambda: len({each for member in both for each in member.read}) == 600)
            assert [member.partitions() for member in both] == shares, "nobody had to give up anything"
    finally:
        node.close()
