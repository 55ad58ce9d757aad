"""Cases of groups that change between the classic and the consumer protocol while members are in them, both ways."""

from __future__ import annotations

import struct
import time
from typing import Any

from kafka.protocol.admin import DescribeGroupsRequest
from kafka.protocol.consumer import HeartbeatRequest, JoinGroupRequest, OffsetFetchRequest, SyncGroupRequest

from tests.interop.differential import OWN, Subject, case, wait_for_coordinator
from tests.interop.differential_consumer_groups import (
    LEAVE,
    LEAVE_FOR_A_WHILE,
    Member,
    beat,
    consumer_group,
    describe_new,
    settle,
    subscription,
)
from tests.interop.differential_groups import commit, describe, heartbeat, join, leave, sync
from tests.interop.newer_messages import ConsumerGroupDescribeRequest

ILLEGAL_GENERATION = 22
REBALANCE_IN_PROGRESS = 27
MEMBER_ID_REQUIRED = 79
WAIT_S = 60.0
POLL_S = 0.05


def text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


def embedded(*topics: str, version: int = 0) -> bytes:
    """A consumer's subscription as clients of the classic protocol write it."""
    names = b"".join(map(text, topics))
    return struct.pack(">hi", version, len(topics)) + names + struct.pack(">i", -1)


def assignment(topic: str, *partitions: int) -> bytes:
    rows = text(topic) + struct.pack(f">i{len(partitions)}i", len(partitions), *partitions)
    return struct.pack(">hi", 0, 1) + rows + struct.pack(">i", -1)


def range_of(*topics: str) -> list[dict[str, Any]]:
    return [{"name": "range", "metadata": embedded(*topics)}]


class ClassicMember:
    """A client of the classic protocol in either type of group: joins again whenever it is told to."""

    def __init__(self, subject: Subject, group: str, topic: str, instance: str | None = None) -> None:
        self.group, self.topic, self.instance = group, topic, instance
        self.id = ""
        self.generation = -1
        self.assigned = b""
        self._subject = subject

    def join(self) -> None:
        """Joins and syncs as often as it takes. As the leader it takes all partitions of two for itself."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            answer = self._subject.quiet(JoinGroupRequest, 9, self.joining())
            self.id = answer.member_id or self.id
            if answer.error_code == 0 and self._sync(answer):
                return
            time.sleep(POLL_S if answer.error_code != MEMBER_ID_REQUIRED else 0)
        raise AssertionError("the classic member does not get in")

    def settle(self) -> None:
        """Until a heartbeat finds nothing to do."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            code = self.beat()
            if code == 0:
                return
            assert code in (REBALANCE_IN_PROGRESS, ILLEGAL_GENERATION), code
            self.join()
        raise AssertionError("the classic member does not settle")

    def beat(self) -> int:
        who = {"group_id": self.group, "member_id": self.id, "generation_id": self.generation}
        return int(self._subject.quiet(HeartbeatRequest, 4, {**who, "group_instance_id": self.instance}).error_code)

    def joining(self) -> dict[str, Any]:
        return {
            "group_id": self.group,
            "member_id": self.id,
            "group_instance_id": self.instance,
            "session_timeout_ms": 10_000,
            "rebalance_timeout_ms": 10_000,
            "protocol_type": "consumer",
            "protocols": range_of(self.topic),
        }

    def _sync(self, joined: Any) -> bool:
        rows = []
        if joined.leader == self.id:
            rows = [{"member_id": self.id, "assignment": assignment(self.topic, 0, 1)}]
        fields = {"group_id": self.group, "generation_id": joined.generation_id, "member_id": self.id}
        fields |= {"group_instance_id": self.instance, "protocol_type": "consumer", "protocol_name": "range"}
        answer = self._subject.quiet(SyncGroupRequest, 5, {**fields, "assignments": rows})
        if answer.error_code == 0:
            self.generation, self.assigned = joined.generation_id, bytes(answer.assignment)
        return bool(answer.error_code == 0)


def classic_group(subject: Subject, topic: str, instance: str | None = None) -> ClassicMember:
    """A new group of one consumer of the classic protocol that has both partitions of the topic."""
    group = subject.new_name("group")
    wait_for_coordinator(subject, group)
    subject.topic_id(topic)
    member = ClassicMember(subject, group, topic, instance)
    member.join()
    return member


def settle_both(subject: Subject, classic: ClassicMember, consumer: Member, count: int) -> None:
    """Until the consumer has its share, the classic member has nothing more to do, and the group is stable."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        assert consumer.beat() == 0
        classic.settle()
        asked = {"group_ids": [classic.group], "include_authorized_operations": False}
        [described] = subject.quiet(ConsumerGroupDescribeRequest, 1, asked).groups
        if consumer.count == count and consumer.epoch == classic.generation and described.group_state == "Stable":
            return
        time.sleep(POLL_S)
    raise AssertionError([consumer.epoch, consumer.count, classic.generation])


def describe_both(subject: Subject, label: str, group: str) -> None:
    """By the old API and by the new one."""
    subject.call(f"{label}: DescribeGroups", DescribeGroupsRequest, 6, groups=[group])
    describe_new(subject, label, group)


@case
def migration_to_the_consumer_protocol_and_back(subject: Subject) -> None:
    topic = subject.topic(2)
    classic = classic_group(subject, topic)
    group = classic.group
    commit(subject, "committed as a classic member", group, topic, 5, member=classic.id, generation=classic.generation)
    new = Member(subject, group, f"{OWN}1", **subscription(topic))
    assert new.beat() == 0
    subject.note("the consumer joined", [new.epoch, new.count])
    subject.note("the classic member hears of it", classic.beat())
    settle_both(subject, classic, new, 1)
    subject.note("both in", [new.epoch, classic.generation, classic.assigned.hex()])
    describe_both(subject, "both in", group)
    commit(subject, "by the classic member", group, topic, 6, member=classic.id, generation=classic.generation)
    commit(subject, "by a stale generation", group, topic, 7, member=classic.id, generation=classic.generation - 1)
    commit(subject, "by a generation beyond", group, topic, 7, member=classic.id, generation=classic.generation + 1)
    commit(subject, "by the consumer", group, topic, 8, member=new.id, generation=new.epoch, version=9, partition=1)
    heartbeat(subject, "the consumer by Heartbeat", group, new.id, new.epoch)
    sync(subject, "SyncGroup again", group, classic.id, classic.generation, [])
    sync(subject, "SyncGroup by another protocol", group, classic.id, classic.generation, [], protocol_name="other")
    heartbeat(subject, "a generation beyond", group, classic.id, classic.generation + 1)
    beat(subject, "the consumer leaves", group, new.id, LEAVE)
    describe_both(subject, "back", group)
    code = classic.beat()
    subject.note("the classic member hears of that", code)
    classic.settle()
    subject.note("the classic member alone", [classic.generation, classic.assigned.hex()])
    describe_both(subject, "alone", group)
    rows = [{"group_id": group, "topics": [{"name": topic, "partition_indexes": [0, 1]}]}]
    subject.call("offsets stay", OffsetFetchRequest, 9, groups=rows, require_stable=True)
    leave(subject, "the classic member leaves", group, classic.id)
    describe_both(subject, "empty", group)


@case
def migration_of_the_last_classic_member(subject: Subject) -> None:
    """The group is one of consumers for good when the last classic member goes."""
    topic = subject.topic(2)
    classic = classic_group(subject, topic)
    new = Member(subject, classic.group, f"{OWN}1", **subscription(topic))
    assert new.beat() == 0
    settle_both(subject, classic, new, 1)
    leave(subject, "the classic member leaves", classic.group, classic.id)
    settle(new, shares=(2,))
    subject.note("the consumer alone", [new.epoch, new.count])
    describe_both(subject, "alone", classic.group)
    heartbeat(subject, "the classic member beats", classic.group, classic.id, classic.generation)


@case
def migration_of_one_member_under_its_id(subject: Subject) -> None:
    """A classic member that speaks the other protocol from now on."""
    topic = subject.topic(2)
    classic = classic_group(subject, topic)
    new = Member(subject, classic.group, f"{OWN}1", **subscription(topic))
    assert new.beat() == 0
    settle_both(subject, classic, new, 1)
    beat(subject, "beats as a consumer", classic.group, classic.id, classic.generation)
    heartbeat(subject, "beats as a classic member", classic.group, classic.id, classic.generation)
    sync(subject, "syncs as a classic member", classic.group, classic.id, classic.generation, [])
    describe_both(subject, "of consumers", classic.group)


@case
def migration_to_the_classic_protocol(subject: Subject) -> None:
    topic = subject.topic(2)
    consumer = consumer_group(subject, topic, 2)
    group = consumer.group
    join(subject, "with another protocol type", group, protocol_type="connect")
    join(subject, "with nothing to read", group, protocols=[{"name": "range", "metadata": b""}])
    join(
        subject, "with a subscription cut short", group, protocols=[{"name": "range", "metadata": embedded(topic)[:9]}]
    )
    join(subject, "as nobody that is known", group, f"{OWN}nobody", protocols=range_of(topic))
    leave(subject, "as nobody that is known: leaves", group, f"{OWN}nobody")
    for version in (0, 1, 3):
        protocols = [{"name": "range", "metadata": embedded(topic)}]
        fields = {"group_id": group, "session_timeout_ms": 10_000, "member_id": "", "protocol_type": "consumer"}
        fields |= {"protocols": protocols} | ({"rebalance_timeout_ms": 10_000} if version else {})
        answer = subject.quiet(JoinGroupRequest, version, fields)
        subject.note(f"by v{version}", [answer.error_code, answer.protocol_name, answer.leader])
        leave(subject, f"by v{version}: leaves", group, answer.member_id)
    classic = ClassicMember(subject, group, topic)
    classic.join()
    settle_both(subject, classic, consumer, 1)
    describe_both(subject, "both in", group)
    beat(subject, "the last consumer leaves", group, consumer.id, LEAVE)
    classic.settle()
    describe_both(subject, "a classic group", group)
    beat(subject, "the consumer beats", group, consumer.id, consumer.epoch)
    sync(subject, "SyncGroup by nobody", group, consumer.id, classic.generation, [])
    again = Member(subject, group, f"{OWN}2", **subscription(topic))
    assert again.beat() == 0
    settle_both(subject, classic, again, 1)
    describe_both(subject, "a consumer group again", group)


@case
def migration_of_an_empty_group(subject: Subject) -> None:
    topic = subject.topic(2)
    subject.topic_id(topic)
    classic = classic_group(subject, topic)
    group = classic.group
    commit(subject, "committed", group, topic, 5, member=classic.id, generation=classic.generation)
    leave(subject, "the classic member leaves", group, classic.id)
    consumer = Member(subject, group, f"{OWN}1", **subscription(topic))
    settle(consumer, shares=(2,))
    subject.note("the consumer", consumer.epoch)
    describe_both(subject, "of consumers", group)
    beat(subject, "the consumer leaves", group, consumer.id, LEAVE)
    describe_both(subject, "of nobody", group)
    join(subject, "as nobody that is known", group, "nobody", protocols=range_of(topic))
    classic = ClassicMember(subject, group, topic)
    classic.join()
    subject.note("the classic member", classic.generation)
    describe_both(subject, "classic again", group)
    rows = [{"group_id": group, "topics": [{"name": topic, "partition_indexes": [0, 1]}]}]
    subject.call("offsets stay", OffsetFetchRequest, 9, groups=rows, require_stable=True)


@case
def migration_of_an_offsets_only_group(subject: Subject) -> None:
    """Offsets alone make a classic group, which may become either type."""
    topic = subject.topic(2)
    subject.topic_id(topic)
    group = subject.new_name("group")
    wait_for_coordinator(subject, group)
    commit(subject, "committed", group, topic, 5)
    describe_both(subject, "offsets alone", group)
    beat(subject, "beats of nobody", group, f"{OWN}1", 4)
    consumer = Member(subject, group, f"{OWN}1", **subscription(topic))
    settle(consumer, shares=(2,))
    describe_both(subject, "of consumers", group)
    commit(subject, "without membership", group, topic, 6)


@case
def migration_of_static_members(subject: Subject) -> None:
    topic = subject.topic(2)
    classic = classic_group(subject, topic, "one")
    group = classic.group
    taking_over = subscription(topic, instance_id="one")
    consumer = Member(subject, group, f"{OWN}1", **taking_over)
    settle(consumer, shares=(2,))
    subject.note("took over", [consumer.epoch, consumer.count])
    describe_both(subject, "of consumers", group)
    fields = {"group_id": group, "generation_id": classic.generation, "group_instance_id": "one"}
    subject.call("the old self beats", HeartbeatRequest, 4, **fields, member_id=classic.id)
    join(subject, "the old self joins", group, classic.id, group_instance_id="one", protocols=range_of(topic))
    beat(subject, "goes for a while", group, consumer.id, LEAVE_FOR_A_WHILE, instance_id="one")
    back = ClassicMember(subject, group, topic, "one")
    back.join()
    back.settle()
    describe_both(subject, "classic again", group)
    beat(subject, "the consumer beats", group, consumer.id, consumer.epoch, instance_id="one")


@case
def migration_while_a_classic_group_rebalances(subject: Subject) -> None:
    topic = subject.topic(2)
    classic = classic_group(subject, topic)
    group = classic.group
    other = ClassicMember(subject, group, topic)
    asked = subject.quiet(JoinGroupRequest, 9, other.joining())
    waiting = subject.ask(JoinGroupRequest, 9, **{**other.joining(), "member_id": asked.member_id})
    # Their names are known before a description has them in any order.
    subject.note("who is in", {"member_id": classic.id})
    subject.note("who waits", {"member_id": asked.member_id})
    deadline = time.monotonic() + WAIT_S
    while classic.beat() == 0 and time.monotonic() < deadline:
        time.sleep(POLL_S)
    describe(subject, "rebalancing", group)
    new = Member(subject, group, f"{OWN}1", **subscription(topic))
    subject.note("the consumer joins", new.beat())
    answer = waiting.answer("who waited is told")
    subject.note("it is told to join again", answer.error_code)
    asked = {"group_ids": [group], "include_authorized_operations": False}
    [upgraded] = subject.quiet(ConsumerGroupDescribeRequest, 1, asked).groups
    epochs = sorted(each.member_epoch for each in upgraded.members)  # who gets what depends on their ids
    subject.note("upgraded", [upgraded.group_state, upgraded.group_epoch, upgraded.assignment_epoch, epochs])


@case
def migration_there_and_back(subject: Subject) -> None:
    """A cooperative member reads both partitions while a consumer comes, goes, and another one comes. It joins then,
    with what it still reads, and commits what the other one has.
    """
    topic = subject.topic(2)
    classic = classic_group(subject, topic)
    group = classic.group
    first = Member(subject, group, f"{OWN}1", **subscription(topic))
    subject.note("a consumer comes", [first.beat(), first.epoch, first.count])
    beat(subject, "it goes", group, first.id, LEAVE)
    second = Member(subject, group, f"{OWN}2", **subscription(topic))
    subject.note("another one comes", [second.beat(), second.epoch, second.count])
    owned = struct.pack(">i", 1) + text(topic) + struct.pack(">iii", 2, 0, 1)
    reads_both = [{"name": "range", "metadata": embedded(topic, version=1) + owned}]
    joined = join(subject, "the first member says what it reads", group, classic.id, protocols=reads_both)
    (partition,) = next(iter(second.owned.values()))
    generation = joined.generation_id
    fields = {"member": classic.id, "generation": generation, "partition": partition}
    commit(subject, "and commits what the other one has", group, topic, 9, **fields)
