"""Cases of the consumer protocol (KIP-848): joining, epochs, static members, regular expressions, its offsets, and
groups of the other type.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from kafka.protocol.admin import DeleteGroupsRequest, DescribeGroupsRequest
from kafka.protocol.consumer import OffsetDeleteRequest, OffsetFetchRequest

from tests.interop.differential import OWN, Subject, case, wait_for_coordinator
from tests.interop.differential_groups import commit, describe, heartbeat, join, joined, leave, sync
from tests.interop.newer_messages import ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest

SETTLE_S = 30.0
POLL_S = 0.05
LEAVE, LEAVE_FOR_A_WHILE = -1, -2
NOBODY = f"{OWN}nobody"


def beat(subject: Subject, label: str, group: str, member: str, epoch: int, version: int = 1, **fields: Any) -> Any:
    """One heartbeat, written down. Fields that are not given say "as before"."""
    return subject.call(label, ConsumerGroupHeartbeatRequest, version, **_heartbeat(group, member, epoch, fields))


def _heartbeat(group: str, member: str, epoch: int, fields: dict[str, Any]) -> dict[str, Any]:
    return {"group_id": group, "member_id": member, "member_epoch": epoch, "rebalance_timeout_ms": -1, **fields}


def subscription(*topics: str, **fields: Any) -> dict[str, Any]:
    """What a member says when it joins."""
    return {
        "subscribed_topic_names": list(topics),
        "rebalance_timeout_ms": 10_000,
        "topic_partitions": [],
        **fields,
    }


class Member:
    """One member that says what a client says, until it has what it is meant to have."""

    def __init__(self, subject: Subject, group: str, name: str, *, epoch: int = 0, **joining: Any) -> None:
        self.group = group
        self.id = name
        self.epoch = epoch
        self.owned: dict[uuid.UUID, list[int]] = {}
        self._subject = subject
        self._joining = joining

    def beat(self) -> int:
        """One heartbeat; takes over what the answer says and gives up at once what it takes away."""
        fields = self._joining if self.epoch == 0 else {}
        rows = [{"topic_id": topic, "partitions": indexes} for topic, indexes in self.owned.items()]
        request = _heartbeat(self.group, self.id, self.epoch, {**fields, "topic_partitions": rows})
        answer = self._subject.quiet(ConsumerGroupHeartbeatRequest, 1, request)
        if answer.error_code == 0:
            self.epoch = answer.member_epoch
            if answer.assignment is not None:
                self.owned = {row.topic_id: list(row.partitions) for row in answer.assignment.topic_partitions}
        return int(answer.error_code)

    def shown(self) -> dict[str, list[int]]:
        return {self._subject.shown(topic): sorted(indexes) for topic, indexes in self.owned.items()}

    @property
    def count(self) -> int:
        return sum(map(len, self.owned.values()))


def settle(*members: Member, shares: tuple[int, ...]) -> None:
    """Until each has its share and all are in one epoch."""
    deadline = time.monotonic() + SETTLE_S
    codes = [0]
    while time.monotonic() < deadline:
        codes = [member.beat() for member in members]
        epochs = {member.epoch for member in members}
        if not any(codes) and tuple(member.count for member in members) == shares and len(epochs) == 1:
            return
        time.sleep(POLL_S)
    raise AssertionError([codes, [(member.epoch, member.count) for member in members]])


def describe_new(subject: Subject, label: str, *groups: str, version: int = 1, operations: bool = False) -> None:
    fields = {"group_ids": list(groups), "include_authorized_operations": operations}
    subject.call(f"described, {label}", ConsumerGroupDescribeRequest, version, **fields)


def wait_until_coordinated(subject: Subject, topic: str, partitions: int) -> None:
    """Kafka's group coordinator may learn of a topic after the leaders serve it: a group that joins before gets nothing
    and is an epoch ahead once it knows.
    """
    group = f"{topic}-known"
    wait_for_coordinator(subject, group)
    member = Member(subject, group, f"{OWN}known", **subscription(topic))
    settle(member, shares=(partitions,))
    subject.quiet(ConsumerGroupHeartbeatRequest, 1, _heartbeat(group, member.id, LEAVE, {}))
    subject.quiet(DeleteGroupsRequest, 2, {"groups_names": [group]})


def consumer_group(subject: Subject, topic: str, partitions: int, name: str = f"{OWN}1", **joining: Any) -> Member:
    """A new group of one member that has all partitions of the topic."""
    group = subject.new_name("group")
    wait_for_coordinator(subject, group)
    subject.topic_id(topic)
    wait_until_coordinated(subject, topic, partitions)
    member = Member(subject, group, name, **subscription(topic, **joining))
    settle(member, shares=(partitions,))
    return member


@case
def consumer_group_refusals(subject: Subject) -> None:
    topic = subject.topic()
    subject.topic_id(topic)
    for version in (0, 1):
        right = {**subscription(topic), "version": version}
        ways: dict[str, dict[str, Any]] = {
            "no topics": {"subscribed_topic_names": None},
            "empty topics": {"subscribed_topic_names": []},
            "an empty topic name": {"subscribed_topic_names": [""]},
            "an illegal topic name": {"subscribed_topic_names": ["a b"]},
            "a topic twice": {"subscribed_topic_names": [topic, topic]},
            "an unknown topic": {"subscribed_topic_names": [f"{topic}-none"]},
            "no partitions": {"topic_partitions": None},
            "partitions owned already": {"topic_partitions": [{"topic_id": uuid.UUID(int=9), "partitions": [0]}]},
            "timeout -1": {"rebalance_timeout_ms": -1},
            "timeout 0": {"rebalance_timeout_ms": 0},
            "timeout negative": {"rebalance_timeout_ms": -(2**31)},
            "timeout 1": {"rebalance_timeout_ms": 1},
            "timeout of weeks": {"rebalance_timeout_ms": 2**31 - 1},
            "unknown assignor": {"server_assignor": "nobody"},
            "empty assignor": {"server_assignor": ""},
            "range assignor": {"server_assignor": "range"},
            "assignor in capitals": {"server_assignor": "UNIFORM"},
            "empty instance": {"instance_id": ""},
            "empty rack": {"rack_id": ""},
            "a long rack": {"rack_id": "r" * 10_000},
        }
        for label, fields in ways.items():
            group = subject.new_name("group")
            wait_for_coordinator(subject, group)
            answer = beat(subject, f"v{version} {label}", group, f"{OWN}m", 0, **{**right, **fields})
            if answer is not None and answer.error_code == 0:
                beat(subject, f"v{version} {label}: gone", group, f"{OWN}m", LEAVE, version)
        group = subject.new_name("group")
        wait_for_coordinator(subject, group)
        beat(subject, f"v{version} empty group", "", "m", 0, **right)
        beat(subject, f"v{version} blank group", " ", "m", 0, **right)
        beat(subject, f"v{version} a long member id", group, OWN + "m" * 10_000, 0, **right)
        if version == 1:  # version 0 may leave it to the server, which makes up an id
            beat(subject, "v1 empty member id", group, "", 0, **right)
            beat(subject, "v1 blank member id", group, " ", 0, **right)
        for epoch in (1, -1, -2, -3, -(2**31), 2**31 - 1):
            beat(subject, f"v{version} epoch {epoch} of nobody", group, NOBODY, epoch, version)
            instance = {"instance_id": "i"}
            beat(subject, f"v{version} epoch {epoch} of no instance", group, NOBODY, epoch, version, **instance)
            beat(subject, f"v{version} epoch {epoch}, no group", f"{group}-none", NOBODY, epoch, version)
        beat(subject, f"v{version} epoch 3 and a subscription", group, NOBODY, 3, **right)


@case
def consumer_group_epochs(subject: Subject) -> None:
    topic = subject.topic(2)
    member = consumer_group(subject, topic, 2)
    group, epoch = member.group, member.epoch
    owned = [{"topic_id": topic_id, "partitions": indexes} for topic_id, indexes in member.owned.items()]
    beat(subject, "as before", group, member.id, epoch)
    beat(subject, "as before, in full", group, member.id, epoch, topic_partitions=owned)
    beat(subject, "owns nothing", group, member.id, epoch, topic_partitions=[])
    beat(subject, "the epoch before", group, member.id, epoch - 1)
    beat(subject, "the epoch before, in full", group, member.id, epoch - 1, topic_partitions=owned)
    beat(subject, "an epoch beyond", group, member.id, epoch + 1)
    beat(subject, "a negative epoch", group, member.id, -7)
    beat(subject, "leaves for a while without an instance", group, member.id, LEAVE_FOR_A_WHILE)
    describe_new(subject, "stable", group)
    beat(subject, "unknown assignor", group, member.id, epoch, server_assignor="nobody")
    beat(subject, "an instance now", group, member.id, epoch, instance_id="late")
    beat(subject, "unsubscribes", group, member.id, epoch, subscribed_topic_names=[])
    beat(subject, "leaves", group, member.id, LEAVE)
    beat(subject, "leaves again", group, member.id, LEAVE)
    beat(subject, "after it left", group, member.id, epoch)
    describe_new(subject, "empty", group)
    subject.call("deleted", DeleteGroupsRequest, 2, groups_names=[group])
    describe_new(subject, "deleted", group)


@case
def consumer_group_of_two(subject: Subject) -> None:
    topic = subject.topic(4)
    first = consumer_group(subject, topic, 4, f"{OWN}1")
    second = Member(subject, first.group, f"{OWN}2", **subscription(topic))
    settle(first, second, shares=(2, 2))
    subject.note("epochs", [first.epoch, second.epoch])
    describe_new(subject, "of two", first.group)
    subject.call("deleted while they are there", DeleteGroupsRequest, 2, groups_names=[first.group])
    beat(subject, "the first leaves", first.group, first.id, LEAVE)
    settle(second, shares=(4,))
    subject.note("epoch of the last", second.epoch)
    describe_new(subject, "of the last", first.group)
    beat(subject, "the last leaves", first.group, second.id, LEAVE)
    describe_new(subject, "empty", first.group, operations=True)
    describe_new(subject, "empty, v0", first.group, version=0)


@case
def consumer_group_static(subject: Subject) -> None:
    topic = subject.topic(2)
    instance = {"instance_id": "one"}
    old = consumer_group(subject, topic, 2, f"{OWN}1", **instance)
    group = old.group
    joining = subscription(topic, **instance)
    beat(subject, "another of the same instance", group, f"{OWN}2", 0, **joining)
    beat(subject, "another instance's beat", group, f"{OWN}1", old.epoch, instance_id="two")
    beat(subject, "another member's beat", group, f"{OWN}2", old.epoch, **instance)
    beat(subject, "another member goes for a while", group, f"{OWN}2", LEAVE_FOR_A_WHILE, **instance)
    beat(subject, "another member goes", group, f"{OWN}2", LEAVE, **instance)
    beat(subject, "goes for a while", group, f"{OWN}1", LEAVE_FOR_A_WHILE, **instance)
    beat(subject, "goes for a while again", group, f"{OWN}1", LEAVE_FOR_A_WHILE, **instance)
    beat(subject, "beats while away", group, f"{OWN}1", old.epoch, **instance)
    describe_new(subject, "away", group)
    new = Member(subject, group, f"{OWN}2", **joining)
    settle(new, shares=(2,))
    subject.note("epoch of the new", new.epoch)
    beat(subject, "the old one beats", group, f"{OWN}1", old.epoch, **instance)
    beat(subject, "the old one goes", group, f"{OWN}1", LEAVE, **instance)
    describe_new(subject, "the new", group)
    leave(subject, "removed by an administrator, as nobody", group, "", "nobody")
    leave(subject, "removed by an administrator", group, "", "one")
    beat(subject, "after it was removed", group, f"{OWN}2", new.epoch, **instance)
    describe_new(subject, "empty", group)


@case
def consumer_group_static_takes_over_the_subscription(subject: Subject) -> None:
    """Who comes back may want something else."""
    one, other = subject.topic(2), subject.topic(3)
    subject.topic_id(other)
    wait_until_coordinated(subject, other, 3)
    instance = {"instance_id": "one"}
    old = consumer_group(subject, one, 2, f"{OWN}1", **instance)
    beat(subject, "goes for a while", old.group, f"{OWN}1", LEAVE_FOR_A_WHILE, **instance)
    new = Member(subject, old.group, f"{OWN}2", **subscription(other, **instance, server_assignor="range"))
    settle(new, shares=(3,))
    subject.note("epochs", [old.epoch, new.epoch])
    describe_new(subject, "of the other topic", old.group)


EXPRESSIONS = {
    "plain": ("{}-a", 1),
    "a prefix": ("{}.*", 3),
    "anchors": ("^{}-a$", 1),
    "alternatives": ("{0}-a|{0}-b", 2),
    "a class": ("{}-[ab]", 2),
    "counted": ("{}-a{{1,2}}", 1),
    "any case": ("(?i){}-A", 1),
    "named group": ("(?P<x>{}-a)", 1),
    "lazy": ("{}-.*?", 2),
    "Unicode class": ("{}-\\pL", 2),
    "nothing": ("", 0),
    "matches nothing": ("{}-nothing", 0),
}
"""With the number of topics that match: expressions are looked at in the background."""
REFUSED = {
    "unclosed": "(",
    "unopened": ")",
    "unclosed class": "[a",
    "nothing to repeat": "*a",
    "a look ahead": "(?=a)b",
    "a look behind": "(?<=a)b",
    "a back reference": "(a)\\1",
    "possessive": "a++",
    "atomic": "(?>a)",
    "counted a thousand times": "a{1001}",
    "counted backwards": "a{2,1}",
    "a lone backslash": "a\\",
    "an unknown escape": "\\q",
    "an unknown Unicode class": "\\p{Strange}",
    "a range backwards": "[z-a]",
}
# Kafka takes seconds over the nested counts of "((a{100}){100}){100}", and has no stack for ten thousand nested groups:
# what it answers then depends on the machine.
BLOWN_UP = {
    "nested stars": "(a+)+$",
    "stars of alternatives": "(a|aa)+$",
    "many optionals": "a?" * 200 + "a" * 200,
    "a thousand groups": "(" * 900 + "a" + ")" * 900,
    "ten thousand alternatives": "|".join(f"x{number}" for number in range(10_000)),
    "100 kB": "a" * 100_000,
}


@case
def consumer_group_expressions(subject: Subject) -> None:
    prefix = subject.topic()
    for letter in "ab":
        subject.topic_named(f"{prefix}-{letter}")
        subject.topic_id(f"{prefix}-{letter}")
    subject.topic_id(prefix)
    for label, (pattern, count) in EXPRESSIONS.items():
        group = subject.new_name("group")
        wait_for_coordinator(subject, group)
        answer = beat(subject, label, group, f"{OWN}1", 0, **regular(pattern.format(prefix)))
        if answer is not None and answer.error_code == 0:
            found = Member(subject, group, f"{OWN}1", epoch=answer.member_epoch)
            settle(found, shares=(count,))
            subject.note(f"{label}: found", found.shown())
    group = subject.new_name("group")
    wait_for_coordinator(subject, group)
    both = {**subscription(f"{prefix}-a"), "subscribed_topic_regex": f"{prefix}-b"}
    answer = beat(subject, "names and an expression", group, f"{OWN}1", 0, **both)
    found = Member(subject, group, f"{OWN}1", epoch=answer.member_epoch)
    settle(found, shares=(2,))
    subject.note("names and an expression: found", found.shown())
    beat(subject, "a bad one later", group, found.id, found.epoch, subscribed_topic_regex="(")


def regular(expression: str) -> dict[str, Any]:
    return {**subscription(), "subscribed_topic_names": None, "subscribed_topic_regex": expression}


@case
def consumer_group_expressions_refused(subject: Subject) -> None:
    for label, expression in {**REFUSED, **BLOWN_UP}.items():
        group = subject.new_name("group")
        wait_for_coordinator(subject, group)
        answer = beat(subject, label, group, f"{OWN}1", 0, **regular(expression))
        if answer is not None and answer.error_code == 0:
            beat(subject, f"{label}: gone", group, f"{OWN}1", LEAVE)


@case
def consumer_group_offsets(subject: Subject) -> None:
    topic = subject.topic(2)
    member = consumer_group(subject, topic, 2)
    group, epoch = member.group, member.epoch
    who: dict[str, dict[str, Any]] = {
        "as member": {"member": member.id, "generation": epoch},
        "the epoch before": {"member": member.id, "generation": epoch - 1},
        "an epoch beyond": {"member": member.id, "generation": epoch + 1},
        "epoch 0": {"member": member.id, "generation": 0},
        "a negative epoch": {"member": member.id, "generation": -1},
        "an unknown member": {"member": NOBODY, "generation": epoch},
        "an epoch alone": {"generation": epoch},
        "without membership": {},
    }
    for version in (2, 7, 8, 9):
        for label, fields in who.items():
            commit(subject, f"v{version} {label}", group, topic, version, version=version, **fields)
    rows = [{"name": topic, "partition_indexes": [0, 1, 9]}]
    for label, fields in who.items():
        asked = {"group_id": group, "topics": rows, "member_id": None, "member_epoch": -1}
        if "member" in fields:
            asked["member_id"] = fields["member"]
        asked["member_epoch"] = fields.get("generation", -1)
        subject.call(f"fetched, {label}", OffsetFetchRequest, 9, groups=[asked], require_stable=True)
    subject.call("fetched by v8", OffsetFetchRequest, 8, groups=[{"group_id": group, "topics": rows}])
    partitions = [{"partition_index": 0}]
    deleted = [{"name": topic, "partitions": partitions}]
    subject.call("deleted while subscribed", OffsetDeleteRequest, 0, group_id=group, topics=deleted)
    beat(subject, "leaves", group, member.id, LEAVE)
    commit(subject, "without membership when empty", group, topic, 5)
    subject.call("deleted when empty", OffsetDeleteRequest, 0, group_id=group, topics=deleted)


@case
def consumer_group_described(subject: Subject) -> None:
    topic = subject.topic(2)
    one = consumer_group(subject, topic, 2)
    classic = subject.new_name("group")
    wait_for_coordinator(subject, classic)
    joined(subject, "classic", classic)
    for version in (0, 1):
        more = {"version": version}
        describe_new(subject, f"v{version} several", one.group, "nobody", classic, one.group, **more)
        describe_new(subject, f"v{version} with operations", one.group, operations=True, **more)
        describe_new(subject, f"v{version} none", **more)
        describe_new(subject, f"v{version} empty", "", **more)


@case
def groups_of_the_other_type(subject: Subject) -> None:
    """Each protocol's requests to a group of the other, where no migration is meant."""
    topic = subject.topic(2)
    member = consumer_group(subject, topic, 2)
    group = member.group
    answer = join(subject, "JoinGroup with what cannot be read", group)
    if answer.error_code == 79:
        join(subject, "JoinGroup with what cannot be read, again", group, answer.member_id)
    join(subject, "JoinGroup of Connect", group, protocol_type="connect")
    join(subject, "JoinGroup by the member's id", group, member.id)
    sync(subject, "SyncGroup", group, member.id, member.epoch, [])
    sync(subject, "SyncGroup of nobody", group, NOBODY, member.epoch, [])
    heartbeat(subject, "Heartbeat", group, member.id, member.epoch)
    heartbeat(subject, "Heartbeat of nobody", group, NOBODY, member.epoch)
    leave(subject, "LeaveGroup of nobody", group, NOBODY)
    for version in (0, 5, 6):
        subject.call(f"DescribeGroups v{version}", DescribeGroupsRequest, version, groups=[group])
    describe_new(subject, "nothing happened", group)
    leave(subject, "LeaveGroup", group, member.id)

    classic = subject.new_name("group")
    wait_for_coordinator(subject, classic)
    first, generation = joined(subject, "classic", classic)
    beat(subject, "joins members that cannot be read", classic, f"{OWN}1", 0, **subscription(topic))
    beat(subject, "beats", classic, first, generation)
    beat(subject, "leaves", classic, first, LEAVE)
    describe_new(subject, "classic", classic)
    connect = subject.new_name("group")
    wait_for_coordinator(subject, connect)
    asked = join(subject, "connect: asked", connect, protocol_type="connect")
    worker = join(subject, "connect: joined", connect, asked.member_id, protocol_type="connect")
    sync(subject, "connect: synced", connect, asked.member_id, worker.generation_id, [], protocol_type="connect")
    beat(subject, "joins Connect", connect, f"{OWN}1", 0, **subscription(topic))
    beat(subject, "beats in Connect", connect, f"{OWN}1", 1)
    describe(subject, "connect", connect)
