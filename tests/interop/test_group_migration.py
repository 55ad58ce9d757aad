"""One group from the classic to the consumer protocol and back, member by member, with librdkafka's consumers.

While it goes on, every record is read, and none by two members: each commits what it has read when its partitions are
revoked, so that whoever reads a record twice, or misses one, shows.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer, ConsumerGroupState, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConsumerGroupListing, NewTopic

from tests.interop.conftest import Server, make_server

NAME = Callable[[str], str]
PARTITIONS = 6
TIMEOUT_S = 120.0
PAUSE_S = 0.02
SETTINGS = {
    "group.initial.rebalance.delay.ms": "0",
    "group.consumer.min.heartbeat.interval.ms": "100",
    "group.consumer.heartbeat.interval.ms": "300",
}


@pytest.fixture(scope="module")
def quick_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that lets members of the consumer protocol hear of changes soon."""
    started = make_server(request, tmp_path_factory, "migration", SETTINGS)
    try:
        yield started.start()
    finally:
        started.close()


class Member:
    """A consumer in a thread of its own, until it is closed. It commits what it has read before it gives it up."""

    def __init__(self, server: Server, topic: str, group: str, protocol: str, strategy: str) -> None:
        settings = {
            "bootstrap.servers": server.bootstrap,
            "group.id": group,
            "group.protocol": protocol,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "client.id": protocol,
        }
        if protocol == "classic":
            settings |= {
                "heartbeat.interval.ms": 300,
                "session.timeout.ms": 20_000,
                "partition.assignment.strategy": strategy,
            }
        self.read: list[tuple[int, int]] = []
        self.lost: list[str] = []
        self._held: set[int] = set()
        self._unsaved: dict[int, int] = {}
        self._has_closed = threading.Event()
        self._topic = topic
        self._consumer = Consumer(settings)
        self._consumer.subscribe([topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._gone)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._has_closed.set()
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()

    def has_partitions(self) -> bool:
        return bool(self._held)

    def _run(self) -> None:
        while not self._has_closed.is_set():
            message = self._consumer.poll(0.1)
            if message is None or message.error():
                continue
            partition, offset = message.partition(), message.offset()
            assert partition is not None and offset is not None
            self.read.append((partition, offset))
            self._unsaved[partition] = offset + 1
        self._consumer.close()

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._held |= {each.partition for each in partitions}

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._held -= {each.partition for each in partitions}
        offsets = [
            TopicPartition(self._topic, each.partition, self._unsaved.pop(each.partition))
            for each in partitions
            if each.partition in self._unsaved
        ]
        if offsets:
            consumer.commit(offsets=offsets, asynchronous=False)

    def _gone(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._held -= {each.partition for each in partitions}
        self.lost += [f"{each.partition}" for each in partitions]


class Feeder:
    """Records to every partition, all the time."""

    def __init__(self, server: Server, topic: str) -> None:
        self.sent = 0
        self._topic = topic
        self._producer = Producer({"bootstrap.servers": server.bootstrap, "linger.ms": 5})
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(TIMEOUT_S)
        assert self._producer.flush(TIMEOUT_S) == 0

    def _run(self) -> None:
        while not self._stopped.wait(PAUSE_S):
            for partition in range(PARTITIONS):
                self._producer.produce(self._topic, b"x", partition=partition)
            self._producer.poll(0)
            self.sent += 1


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.mark.parametrize("strategy", ["range", "cooperative-sticky"])
def test_group__rolls_to_the_new_protocol_and_back(quick_server: Server, unique_name: NAME, strategy: str) -> None:
    topic, group = unique_name("migration"), unique_name("migrating")
    admin = AdminClient({"bootstrap.servers": quick_server.bootstrap})
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(TIMEOUT_S)
    kinds: list[str] = []

    def settle() -> None:
        """As a careful operator does: who is in a rebalance when the protocol changes may lose its partitions."""
        wait_until(lambda: _listed(admin, group).state is ConsumerGroupState.STABLE, "the group does not settle")
        wait_until(lambda: all(each.has_partitions() for each in members), "somebody has nothing to read")

    def start(protocol: str) -> None:
        members.append(Member(quick_server, topic, group, protocol, strategy))
        everybody.append(members[-1])
        wait_until(members[-1].has_partitions, f"a {protocol} member has nothing to read")
        settle()
        kinds.append(_listed(admin, group).type.name)

    members: list[Member] = []
    everybody: list[Member] = []
    start("classic")
    start("classic")
    feeder = Feeder(quick_server, topic)
    for protocol in ("consumer", "consumer", "classic", "classic"):
        start(protocol)
        members.pop(0).close()
        settle()
    feeder.stop()
    total = feeder.sent * PARTITIONS
    wait_until(lambda: sum(len(each.read) for each in everybody) >= total, "records are missing")
    for each in members:
        each.close()

    read = Counter(record for each in everybody for record in each.read)
    assert [each.lost for each in everybody] == [[]] * len(everybody)
    assert read == Counter((p, offset) for p in range(PARTITIONS) for offset in range(feeder.sent))
    assert kinds == ["CLASSIC", "CLASSIC", "CONSUMER", "CONSUMER", "CONSUMER", "CONSUMER"]
    assert _listed(admin, group).type.name == "CLASSIC"


def _listed(admin: AdminClient, group: str) -> ConsumerGroupListing:
    listed = admin.list_consumer_groups().result(TIMEOUT_S).valid
    return next(each for each in listed if each.group_id == group)
