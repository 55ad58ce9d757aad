"""What one node does, three brokers do, whichever of them is asked, owns, or comes to own: limits and configs of
groups, damage in internal topics, compression.type, and the answers of coordinators that have moved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka import Producer
from kafka.protocol.admin import DescribeConfigsRequest, IncrementalAlterConfigsRequest

from bytemq.broker.coordinator.placement import partition_for
from tests.interop.differential import Subject, build, run_case
from tests.interop.differential_admin import GROUP as GROUP_CONFIGS
from tests.interop.differential_consumer_groups import LEAVE, Member, settle, subscription
from tests.interop.differential_transactional_writes import transaction_markers_by_hand
from tests.interop.documented_differences import DIFFERENCES
from tests.interop.newer_messages import ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest
from tests.interop.recordings import judge
from tests.interop.wire import Wire
from tests.scenarios.cluster.cluster import LONG_SESSIONS, PATIENCE_S, Cluster, bytemq, read_all, until
from tests.scenarios.damage import commit, commit_of, committed, flip, initialise
from tests.support import probe
from tests.support.node_process import NodeProcess
from tests.support.probe import GROUP, TRANSACTION

LIMITS = {
    "group.initial.rebalance.delay.ms": "0",
    "group.consumer.assignors": "range",
    "group.consumer.max.size": "2",
    "group.consumer.heartbeat.interval.ms": "1000",
    "group.consumer.min.heartbeat.interval.ms": "500",
    "group.consumer.max.heartbeat.interval.ms": "30000",
    "group.consumer.min.session.timeout.ms": "1500",
    "group.consumer.max.session.timeout.ms": "50000",
}
OPTIONS = (*LONG_SESSIONS, *(part for item in LIMITS.items() for part in ("--set", "=".join(item))))
NONE, NOT_COORDINATOR, INVALID_CONFIG, GROUP_MAX_SIZE_REACHED, UNSUPPORTED_ASSIGNOR = 0, 16, 40, 81, 112
SET, DELETE = 0, 1
OF_A_GROUP = 8
"""DescribeConfigs: the source of a config that a group has itself."""
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
COMPRESSION_TYPES = {"uncompressed": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4, "producer": None}
OF_EACH_CODEC = 6
"""Records, of which each of three partitions gets a third."""
NAMES = 1000
"""Among so many there is one of each partition."""
INTERNAL = {GROUP: "__consumer_offsets", TRANSACTION: "__transaction_state"}


def name_of(cluster: Cluster, broker: int, kind: int, prefix: str, apart_from: str = "") -> str:
    """A name that this broker coordinates, by another partition than the other name's."""

    def found() -> str | None:
        with probe.connect(living(cluster)[0].address) as wire:
            probe.coordinator(wire, prefix, kind)  # which makes the topic
        owners = cluster.leaders(INTERNAL[kind])
        taken = partition_for(apart_from, len(owners)) if apart_from and owners else -1
        indexes = {index for index, owner in enumerate(owners) if owner == broker and index != taken}
        names = (f"{prefix}-{number}" for number in range(NAMES))
        return next((name for name in names if indexes and partition_for(name, len(owners)) in indexes), None)

    name: str = until(found, f"broker {broker} coordinates {'another name' if apart_from else 'a name'}")
    return name


def asked(cluster: Cluster, name: str, kind: int, ask: Callable[[Wire], Any]) -> Any:
    """What the coordinator of the name answers, whoever that is by now; None: nobody."""
    with probe.connect(living(cluster)[0].address) as wire:
        broker = probe.coordinator(wire, name, kind)
    if broker < 0 or not cluster.nodes[broker].is_running():
        return None
    with probe.connect(cluster.nodes[broker].address) as wire:
        return ask(wire)


def eventually(ask: Callable[[], Any], expected: Any) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while (answer := ask()) != expected:
        assert time.monotonic() < give_up_at, f"{answer} where {expected} should be"
        time.sleep(0.05)


def living(cluster: Cluster) -> list[NodeProcess]:
    return [node for node in cluster.nodes if node.is_running()]


@contextmanager
def drained(cluster: Cluster, broker: int) -> Iterator[None]:
    """Others have what the broker had."""
    url = cluster.etcd.url("cluster")
    bytemq("cluster", "drain", str(broker), "--metadata", url)
    yield
    bytemq("cluster", "undrain", str(broker), "--metadata", url)


def test_limits_of_consumer_groups__are_those_of_whichever_broker_coordinates(cluster: Cluster) -> None:
    for broker in range(3):
        subject = Subject(cluster.nodes[(broker + 1) % 3].address, f"limits-{broker}")
        topic, group = subject.topic(2), name_of(cluster, broker, GROUP, f"limits-{broker}")
        first, second, third = (Member(subject, group, f"m{number}", **subscription(topic)) for number in range(3))
        uniform = Member(subject, group, "u", **subscription(topic, server_assignor="uniform"))
        assert uniform.beat() == UNSUPPORTED_ASSIGNOR
        settle(first, second, shares=(1, 1))
        [described] = subject.quiet(
            ConsumerGroupDescribeRequest, 1, {"group_ids": [group], "include_authorized_operations": False}
        ).groups
        assert described.assignor_name == "range"
        assert third.beat() == GROUP_MAX_SIZE_REACHED
        assert [first.beat(), second.beat()] == [NONE, NONE], "who is in stays"
        with probe.connect(cluster.nodes[(broker + 1) % 3].address) as wire:
            fields = {"group_id": group, "member_id": "m0", "member_epoch": first.epoch, "rebalance_timeout_ms": -1}
            answer = wire.call(build(ConsumerGroupHeartbeatRequest, 1, fields))
            assert answer.error_code == NOT_COORDINATOR
        subject.close()


def test_configs_of_a_group__are_told_to_any_broker_and_heeded_by_its_coordinator(cluster: Cluster) -> None:
    session, heartbeat = "consumer.session.timeout.ms", "consumer.heartbeat.interval.ms"
    subject = Subject(cluster.nodes[0].address, "configured")
    topic, group = subject.topic(2), name_of(cluster, 2, GROUP, "configured")
    member = {"group_id": group, "member_id": "m", "rebalance_timeout_ms": -1}

    def alter(values: Mapping[str, str | None]) -> int:
        configs = [
            {"name": name, "config_operation": DELETE if value is None else SET, "value": value}
            for name, value in values.items()
        ]
        resources = [{"resource_type": GROUP_CONFIGS, "resource_name": group, "configs": configs}]
        fields = {"resources": resources, "validate_only": False}
        with probe.connect(cluster.nodes[0].address) as wire:
            return int(wire.call(build(IncrementalAlterConfigsRequest, 1, fields)).responses[0].error_code)

    def own_configs() -> dict[str, str]:
        resources = [{"resource_type": GROUP_CONFIGS, "resource_name": group, "configuration_keys": None}]
        with probe.connect(cluster.nodes[1].address) as wire:
            [found] = wire.call(build(DescribeConfigsRequest, 4, {"resources": resources})).results
        return {config.name: config.value for config in found.configs if config.config_source == OF_A_GROUP}

    def told_ms(epoch: int) -> int:
        answer = subject.quiet(ConsumerGroupHeartbeatRequest, 1, {**member, "member_epoch": epoch})
        assert answer.error_code == NONE, answer
        return int(answer.heartbeat_interval_ms)

    def members() -> int:
        fields = {"group_ids": [group], "include_authorized_operations": False}
        return len(subject.quiet(ConsumerGroupDescribeRequest, 1, fields).groups[0].members)

    def joined() -> int:
        comes = Member(subject, group, "m", **subscription(topic))
        settle(comes, shares=(2,))
        return comes.epoch

    epoch = joined()
    assert told_ms(epoch) <= 1_000
    for out_of_range in ("499", "30001"):
        assert alter({heartbeat: out_of_range}) == INVALID_CONFIG
    for out_of_range in ("1499", "50001"):
        assert alter({session: out_of_range}) == INVALID_CONFIG
    assert alter({heartbeat: "30000"}) == NONE
    until(lambda: told_ms(epoch) > 1_000, "a member is told of the longer interval")
    until(lambda: own_configs() == {heartbeat: "30000"}, "any broker shows it")
    assert alter({heartbeat: None, session: "1500"}) == NONE
    until(lambda: own_configs() == {session: "1500"}, "any broker shows it")
    until(lambda: told_ms(epoch) <= 1_000, "a member is told of the interval of before")
    until(lambda: members() == 0, "who says nothing for so long is out")
    assert alter({session: None}) == NONE
    until(lambda: own_configs() == {}, "nothing is left of it")
    assert told_ms(joined()) <= 1_000
    subject.quiet(ConsumerGroupHeartbeatRequest, 1, {**member, "member_epoch": LEAVE})
    subject.close()


def test_transactions__are_answered_as_ever_when_their_coordinator_has_moved(
    cluster: Cluster, request: pytest.FixtureRequest
) -> None:
    case, transactional_id = transaction_markers_by_hand.__name__, "d-transaction-markers-by-hand-txn2"
    name_of(cluster, 0, TRANSACTION, "any")
    with probe.connect(cluster.nodes[0].address) as wire:
        broker = probe.coordinator(wire, transactional_id, TRANSACTION)
        with drained(cluster, broker):
            until(lambda: probe.coordinator(wire, transactional_id, TRANSACTION) not in (-1, broker), "it has moved")
            judge(request.config, case, run_case(case, cluster.nodes[0].address), DIFFERENCES)


def test_compression_type__is_what_is_stored_whoever_owns_it(cluster: Cluster) -> None:
    topics = {f"stored-{target}": codec for target, codec in COMPRESSION_TYPES.items()}
    for topic in topics:
        cluster.create_topic(topic, 3, compression_type=topic.removeprefix("stored-"))
    values = []
    for sent in CODECS:
        producer = Producer({"bootstrap.servers": cluster.bootstrap, "compression.type": sent, "linger.ms": 50})
        values += [(f"{sent} {number} " + "again " * 20, number % 3) for number in range(OF_EACH_CODEC)]
        for topic in topics:
            for value, partition in values[-OF_EACH_CODEC:]:
                producer.produce(topic, value.encode(), partition=partition)
        assert producer.flush(60) == 0
    check_stored(cluster, topics, values)
    before = {topic: cluster.leaders(topic) for topic in topics}
    with drained(cluster, 0):
        until(lambda: all(0 not in cluster.leaders(topic) for topic in topics), "others own all of them")
        assert any(0 in owners for owners in before.values())
        check_stored(cluster, topics, values)


def check_stored(cluster: Cluster, topics: Mapping[str, int | None], values: list[tuple[str, int]]) -> None:
    """Every topic has the values, and its codec or all of them."""
    for topic, codec in topics.items():
        found = [(value, partition) for value, partition, _ in read_all(cluster, topic)]
        assert sorted(found) == sorted(values), topic
        stored = {batch["attributes"] & 7 for index in range(3) for batch in batches(cluster, topic, index)}
        assert stored == (set(CODECS.values()) if codec is None else {codec}), topic


def batches(cluster: Cluster, topic: str, index: int) -> list[dict[str, Any]]:
    """What the partition's owner has of it."""
    found: list[dict[str, Any]] = []

    def has_all() -> bool:
        owner = cluster.leaders(topic)[index]
        with probe.connect(cluster.nodes[owner].address) as wire:
            found.extend(probe.fetch(wire, topic, sum(batch["count"] for batch in found), index=index)[1])
        return len(CODECS) * OF_EACH_CODEC // 3 == sum(batch["count"] for batch in found)

    until(has_all, f"{topic}-{index} is read")
    return found


def test_damage__is_found_by_the_broker_that_a_coordinator_moves_to(cluster: Cluster) -> None:
    dying = 1
    cluster.create_topic("t", 1)
    bad_group, bad_id = name_of(cluster, dying, GROUP, "bad"), name_of(cluster, dying, TRANSACTION, "bad")
    groups = [name_of(cluster, broker, GROUP, f"sound-{broker}", bad_group) for broker in range(3)]
    ids = [name_of(cluster, broker, TRANSACTION, f"sound-{broker}", bad_id) for broker in range(3)]

    def store(group: str, at: int) -> Any:
        return asked(cluster, group, GROUP, lambda wire: commit(wire, group, at))

    def offset(group: str) -> Any:
        return asked(cluster, group, GROUP, lambda wire: committed(wire, group))

    def producer(name: str) -> Any:
        return asked(cluster, name, TRANSACTION, lambda wire: initialise(wire, name))

    def begun(name: str) -> tuple[int, int]:
        found: tuple[int, int] = (-1, -1)

        def has_begun() -> bool:
            nonlocal found
            found = producer(name)
            return found is not None and found[0] == NONE

        until(has_begun, f"{name} begins")
        return found

    def damaged() -> float:
        return sum(node.metric("bytemq_coordinators_damaged") for node in living(cluster))

    def check_sound() -> None:
        eventually(lambda: [offset(group) for group in groups], [(NONE, 3)] * 3)
        assert {name: begun(name) for name in ids} == producers

    for at in (1, 2, 3):
        eventually(lambda: [store(group, at) for group in (bad_group, *groups)], [NONE] * 4)  # noqa: B023
    producers = {name: begun(name) for name in ids}
    begun(bad_id)
    flip(cluster.folder / "shared", commit_of(bad_group, 3))
    flip(cluster.folder / "shared", bad_id.encode())
    cluster.nodes[dying].kill9()

    check_sound()
    eventually(damaged, 2)
    refused = (NOT_COORDINATOR, -1)
    eventually(lambda: [offset(bad_group), producer(bad_id), store(bad_group, 4)], [refused, refused, NOT_COORDINATOR])
    for topic in INTERNAL.values():
        command = ("topic", "alter", topic, "--config", "bytemq.skip.damage=true")
        assert f"bytemq {' '.join(command)}" in cluster.logs()
        bytemq(*command, "--bootstrap-server", living(cluster)[0].bootstrap)
    eventually(lambda: offset(bad_group), (NONE, 2))
    begun(bad_id)
    eventually(lambda: store(bad_group, 9), NONE)
    eventually(damaged, 0)
    cluster.nodes[dying].restart()
    with probe.connect(cluster.nodes[dying].address) as wire:
        broker = probe.coordinator(wire, bad_group)
    with drained(cluster, broker):
        eventually(lambda: offset(bad_group), (NONE, 9))
        check_sound()
