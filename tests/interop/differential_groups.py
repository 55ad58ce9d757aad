"""Cases of the classic group protocol and of committed offsets."""

from __future__ import annotations

import time
from typing import Any

from kafka.protocol.admin import DeleteGroupsRequest, DescribeGroupsRequest, ListGroupsRequest
from kafka.protocol.consumer import (
    HeartbeatRequest,
    JoinGroupRequest,
    LeaveGroupRequest,
    OffsetCommitRequest,
    OffsetDeleteRequest,
    OffsetFetchRequest,
    SyncGroupRequest,
)
from kafka.protocol.metadata import FindCoordinatorRequest

from tests.interop.differential import Subject, case, wait_for_coordinator

PROTOCOLS = [{"name": "range", "metadata": b"\x00\x01"}]


@case
def find_coordinator(subject: Subject) -> None:
    """The coordinator is there at last: the first look-up may only create the internal topic."""
    group = subject.new_name("group")
    wait_for_coordinator(subject, group)
    for version in range(7):
        one: dict[str, Any] = {"key": group} if version < 4 else {"coordinator_keys": [group, "other", ""]}
        if version >= 1:
            one["key_type"] = 0
        subject.call(f"v{version}", FindCoordinatorRequest, version, **one)
    for key_type in (2, 3, -1):
        subject.call(f"key type {key_type}", FindCoordinatorRequest, 3, key=group, key_type=key_type)


def join(subject: Subject, label: str, group: str, member_id: str = "", version: int = 9, **fields: Any) -> Any:
    full: dict[str, Any] = {"group_id": group, "session_timeout_ms": 10_000, "member_id": member_id}
    full |= {"protocol_type": "consumer", "protocols": PROTOCOLS}
    if version >= 1:
        full["rebalance_timeout_ms"] = 10_000
    if version >= 5:
        full["group_instance_id"] = None
    return subject.call(label, JoinGroupRequest, version, **full | fields)


def joined(subject: Subject, label: str, group: str) -> tuple[str, int]:
    """Joins and syncs as the only member; returns member id and generation."""
    asked = join(subject, f"{label}: asked for a member id", group)
    answer = join(subject, f"{label}: joined", group, asked.member_id)
    sync(subject, f"{label}: synced", group, asked.member_id, answer.generation_id, [(asked.member_id, b"\x07")])
    return asked.member_id, answer.generation_id


def sync(
    subject: Subject,
    label: str,
    group: str,
    member_id: str,
    generation: int,
    assignments: list[tuple[str, bytes]],
    version: int = 5,
    **fields: Any,
) -> Any:
    rows = [{"member_id": member, "assignment": assignment} for member, assignment in assignments]
    full: dict[str, Any] = {"group_id": group, "generation_id": generation, "member_id": member_id}
    full["assignments"] = rows
    if version >= 5:
        full |= {"protocol_type": "consumer", "protocol_name": "range"}
    return subject.call(label, SyncGroupRequest, version, **full | fields)


def heartbeat(subject: Subject, label: str, group: str, member_id: str, generation: int, version: int = 4) -> None:
    fields = {"group_id": group, "generation_id": generation, "member_id": member_id}
    subject.call(label, HeartbeatRequest, version, **fields)


@case
def group_life(subject: Subject) -> None:
    group = subject.new_name("group")
    wait_for_coordinator(subject, group)
    member, generation = joined(subject, "first", group)
    heartbeat(subject, "heartbeat", group, member, generation)
    heartbeat(subject, "wrong generation", group, member, generation + 1)
    heartbeat(subject, "unknown member", group, "nobody", generation)
    heartbeat(subject, "unknown group", f"{group}-none", member, generation)
    heartbeat(subject, "empty group id", "", member, generation)
    describe(subject, "stable", group)
    sync(subject, "sync again", group, member, generation, [])
    sync(subject, "sync wrong generation", group, member, generation + 1, [])
    sync(subject, "sync unknown member", group, "nobody", generation, [])
    sync(subject, "sync other protocol", group, member, generation, [], protocol_name="sticky")
    sync(subject, "sync other type", group, member, generation, [], protocol_type="connect")
    commit(subject, "commit as member", group, "t", 5, member=member, generation=generation)
    commit(subject, "commit wrong generation", group, "t", 6, member=member, generation=generation + 1)
    commit(subject, "commit unknown member", group, "t", 6, member="nobody", generation=generation)
    commit(subject, "commit without membership", group, "t", 6)
    subject.call("delete while stable", DeleteGroupsRequest, 2, groups_names=[group])
    leave(subject, "leave", group, member)
    leave(subject, "leave again", group, member)
    describe(subject, "empty", group)
    commit(subject, "simple commit when empty", group, "t", 9)
    subject.call("delete", DeleteGroupsRequest, 2, groups_names=[group, f"{group}-none", ""])
    describe(subject, "deleted", group)


def describe(subject: Subject, label: str, group: str, version: int = 5) -> None:
    fields: dict[str, Any] = {"groups": [group]}
    if version >= 3:
        fields["include_authorized_operations"] = True
    subject.call(f"described, {label}", DescribeGroupsRequest, version, **fields)


def leave(subject: Subject, label: str, group: str, member: str, instance: str | None = None, version: int = 5) -> None:
    if version < 3:
        subject.call(label, LeaveGroupRequest, version, group_id=group, member_id=member)
    else:
        members = [{"member_id": member, "group_instance_id": instance}]
        subject.call(label, LeaveGroupRequest, version, group_id=group, members=members)


@case
def join_group_refusals(subject: Subject) -> None:
    group = subject.new_name("group")
    wait_for_coordinator(subject, group)
    join(subject, "empty group id", "")
    join(subject, "unknown member", group, "nobody")
    join(subject, "session timeout 1", group, session_timeout_ms=1)
    join(subject, "session timeout an hour", group, session_timeout_ms=3_600_000)
    join(subject, "session timeout negative", group, session_timeout_ms=-1)
    join(subject, "no protocols", group, protocols=[])
    join(subject, "empty protocol type", group, protocol_type="")
    joined(subject, "first", group)
    join(subject, "other protocol type", group, protocol_type="connect")
    other = [{"name": "sticky", "metadata": b""}]
    join(subject, "no common protocol", group, protocols=other)


@case
def join_group_every_version(subject: Subject) -> None:
    for version in range(10):
        group = subject.new_name("group")
        wait_for_coordinator(subject, group)
        answer = join(subject, f"v{version}", group, version=version)
        if answer.error_code == 79:
            answer = join(subject, f"v{version} again", group, answer.member_id, version=version)
        member, generation = answer.member_id, answer.generation_id
        sync(subject, f"v{version} sync", group, member, generation, [(member, b"\x05")], min(version, 5))
        heartbeat(subject, f"v{version} heartbeat", group, member, generation, min(version, 4))
        describe(subject, f"v{version}", group, min(version, 6))
        leave(subject, f"v{version} leave", group, member, version=min(version, 5))


@case
def join_group_static(subject: Subject) -> None:
    group = subject.new_name("group")
    wait_for_coordinator(subject, group)
    first = join(subject, "first", group, group_instance_id="one")
    sync(subject, "sync", group, first.member_id, first.generation_id, [(first.member_id, b"\x01")])
    again = join(subject, "comes back", group, group_instance_id="one")
    heartbeat(subject, "old member id", group, first.member_id, first.generation_id)
    fields = {"group_id": group, "generation_id": first.generation_id, "group_instance_id": "one"}
    subject.call("fenced heartbeat", HeartbeatRequest, 4, **fields, member_id=first.member_id)
    subject.call("new heartbeat", HeartbeatRequest, 4, **fields, member_id=again.member_id)
    subject.call("unknown instance", HeartbeatRequest, 4, **{**fields, "group_instance_id": "x"}, member_id="y")
    join(subject, "fenced join", group, first.member_id, group_instance_id="one")
    describe(subject, "static", group)
    leave(subject, "leave by a fenced id", group, first.member_id, "one")
    leave(subject, "leave by unknown instance", group, "", "nobody")
    leave(subject, "leave by instance", group, "", "one")
    describe(subject, "after leaving", group)


def commit(
    subject: Subject,
    label: str,
    group: str,
    topic: str,
    offset: int,
    *,
    version: int = 8,
    member: str = "",
    generation: int = -1,
    partition: int = 0,
    note: str | None = "",
    **fields: Any,
) -> Any:
    row: dict[str, Any] = {"partition_index": partition, "committed_offset": offset, "committed_metadata": note}
    row |= fields
    topics = [{"name": topic, "partitions": [row]}]
    full = {"group_id": group, "generation_id_or_member_epoch": generation, "member_id": member, "topics": topics}
    return subject.call(label, OffsetCommitRequest, version, **full)


@case
def offsets_of_a_simple_group(subject: Subject) -> None:
    topic, group = subject.topic(2), subject.new_name("group")
    wait_for_coordinator(subject, group)
    for offset in (0, 7, 10**12, -1, -5):
        commit(subject, f"offset {offset}", group, topic, offset)
    commit(subject, "note of 4096", group, topic, 1, note="x" * 4_096)
    commit(subject, "note of 4097", group, topic, 1, note="x" * 4_097)
    commit(subject, "null note", group, topic, 2, note=None)
    commit(subject, "unknown partition", group, topic, 3, partition=9)
    commit(subject, "negative partition", group, topic, 3, partition=-1)
    commit(subject, "unknown topic", group, f"{topic}-none", 3)
    commit(subject, "leader epoch 5", group, topic, 4, partition=1, committed_leader_epoch=5)
    commit(subject, "group with empty id", "", topic, 4)
    commit(subject, "unknown group with generation", f"{group}-none", topic, 4, generation=3, member="m")
    commit(subject, "unknown group with generation, v9", f"{group}-none", topic, 4, generation=3, member="m", version=9)
    for version in range(2, 10):
        commit(subject, f"v{version}", group, topic, version, version=version)
    fields = {"group_id": group, "topics": [{"name": topic, "partition_indexes": [0, 1, 9]}]}
    for version in range(1, 8):
        subject.call(f"fetch v{version}", OffsetFetchRequest, version, **fields)
        if version >= 2:
            subject.call(f"fetch all v{version}", OffsetFetchRequest, version, group_id=group, topics=None)
    for version in (8, 9):
        groups = [{"group_id": group, "topics": [{"name": topic, "partition_indexes": [0, 9]}]}]
        groups += [{"group_id": f"{group}-none", "topics": None}, {"group_id": group, "topics": None}]
        subject.call(f"fetch v{version}", OffsetFetchRequest, version, groups=groups, require_stable=True)
    subject.call("described", DescribeGroupsRequest, 5, groups=[group, f"{group}-none"])
    subject.call("described v6", DescribeGroupsRequest, 6, groups=[group, f"{group}-none"])


@case
def offsets_by_topic_id(subject: Subject) -> None:
    import uuid

    topic, group = subject.topic(), subject.new_name("group")
    wait_for_coordinator(subject, group)
    ids = {"known": subject.topic_id(topic), "unknown": uuid.UUID(int=54)}
    for label, topic_id in ids.items():
        row = {"partition_index": 0, "committed_offset": 8, "committed_metadata": ""}
        fields: dict[str, Any] = {"group_id": group, "generation_id_or_member_epoch": -1, "member_id": ""}
        topics = [{"topic_id": topic_id, "partitions": [row]}]
        subject.call(f"commit {label}", OffsetCommitRequest, 10, **fields, topics=topics)
        groups = [{"group_id": group, "topics": [{"topic_id": topic_id, "partition_indexes": [0]}]}]
        subject.call(f"fetch {label}", OffsetFetchRequest, 10, groups=groups, require_stable=False)
    groups = [{"group_id": group, "topics": None}]
    subject.call("fetch all", OffsetFetchRequest, 10, groups=groups, require_stable=False)


@case
def offset_delete(subject: Subject) -> None:
    topic, group = subject.topic(), subject.new_name("group")
    wait_for_coordinator(subject, group)
    commit(subject, "commit", group, topic, 3)
    rows = [{"name": topic, "partitions": [{"partition_index": 0}, {"partition_index": 7}]}]
    rows += [{"name": f"{topic}-none", "partitions": [{"partition_index": 0}]}]
    subject.call("delete", OffsetDeleteRequest, 0, group_id=group, topics=rows)
    subject.call("unknown group", OffsetDeleteRequest, 0, group_id=f"{group}-none", topics=rows)
    fields = {"group_id": group, "topics": [{"name": topic, "partition_indexes": [0]}]}
    subject.call("fetch", OffsetFetchRequest, 7, **fields)


@case
def list_groups(subject: Subject) -> None:
    group = subject.new_name("group")
    wait_for_coordinator(subject, group)
    joined(subject, "first", group)
    filters: dict[str, dict[str, list[str]]] = {
        "stable": {"states_filter": ["Stable"]},
        "lower case": {"states_filter": ["stable"]},
        "empty state": {"states_filter": ["Empty"]},
        "unknown state": {"states_filter": ["Strange"]},
        "classic": {"types_filter": ["classic"]},
        "upper case type": {"types_filter": ["CLASSIC"]},
        "consumer": {"types_filter": ["consumer"]},
        "unknown type": {"types_filter": ["strange"]},
    }
    for version in range(6):
        response = subject.quiet(ListGroupsRequest, version, {})
        subject.answers[f"v{version}"] = _listed(response, group)
    for label, given in filters.items():
        response = subject.quiet(ListGroupsRequest, 5, {"states_filter": [], "types_filter": [], **given})
        subject.answers[label] = _listed(response, group)


def _listed(response: Any, group: str) -> Any:
    kept = ("protocol_type", "group_state", "group_type")
    rows = [[getattr(row, name) for name in kept] for row in response.groups if row.group_id == group]
    return [response.error_code, rows]


@case
def rebalance_of_two(subject: Subject) -> None:
    """Who leads, what is chosen and who is told what, while two members with different lists come and go."""
    group = subject.new_name("group")
    wait_for_coordinator(subject, group)
    first = _asked(subject, group, "range", "roundrobin")
    alone = join(subject, "the first alone", group, first, protocols=_lists("range", "roundrobin"))
    sync(subject, "the first synced", group, first, alone.generation_id, [(first, b"\x01")])
    second = _asked(subject, group, "roundrobin", "sticky")
    joining = subject.ask(JoinGroupRequest, 9, **_joining(group, second, "roundrobin", "sticky"))
    _wait_told(subject, group, first, alone.generation_id)
    describe(subject, "the second waits", group)
    join(subject, "with nothing in common", group, protocols=_lists("cooperative-sticky"))
    sync(subject, "SyncGroup meanwhile", group, first, alone.generation_id, [])
    commit(subject, "commit meanwhile", group, "t", 5, member=first, generation=alone.generation_id)
    both = join(subject, "the first again", group, first, protocols=_lists("range", "roundrobin"))
    joining.answer("the second")
    syncing = subject.ask(SyncGroupRequest, 5, **_syncing(group, second, both.generation_id))
    heartbeat(subject, "heartbeat before the assignment", group, first, both.generation_id)
    commit(subject, "commit before the assignment", group, "t", 6, member=first, generation=both.generation_id)
    assigned = [(first, b"\x01"), (second, b"\x02")]
    sync(subject, "the leader assigns", group, first, both.generation_id, assigned, protocol_name="roundrobin")
    syncing.answer("the second synced")
    join(subject, "a follower joins unchanged", group, second, protocols=_lists("roundrobin", "sticky"))
    describe(subject, "of two", group)
    leave(subject, "the leader leaves", group, first)
    heartbeat(subject, "the second hears of it", group, second, both.generation_id)
    join(subject, "the second alone", group, second, protocols=_lists("roundrobin", "sticky"))
    describe(subject, "the second alone", group)


@case
def rebalance_without_one(subject: Subject) -> None:
    """Who does not join again within the rebalance timeout is out."""
    group = subject.new_name("group")
    wait_for_coordinator(subject, group)
    short = {"rebalance_timeout_ms": 300}
    first = _asked(subject, group, "range")
    alone = join(subject, "the first alone", group, first, **short)
    sync(subject, "the first synced", group, first, alone.generation_id, [(first, b"\x01")])
    second = _asked(subject, group, "range")
    joining = subject.ask(JoinGroupRequest, 9, **_joining(group, second, "range") | short)
    joining.answer("the second, when the first has not come")
    heartbeat(subject, "the first is out", group, first, alone.generation_id)
    join(subject, "the first comes after all", group, first, **short)
    describe(subject, "the second alone", group)


OUT_BY_THEN_S = 0.3
"""Whoever has not synced within a rebalance time-out of a millisecond is no member any more then."""


@case
def rebalance_timeouts_out_of_reach(subject: Subject) -> None:
    for timeout_ms in (-(2**31), -1, 0, 1, 2**31 - 1):
        group = subject.new_name("group")
        wait_for_coordinator(subject, group)
        member = _asked(subject, group, "range")
        joined_at = join(subject, f"timeout {timeout_ms}", group, member, rebalance_timeout_ms=timeout_ms)
        if joined_at is not None and joined_at.error_code == 0:
            time.sleep(OUT_BY_THEN_S)
            leave(subject, f"timeout {timeout_ms}: leaves", group, member)


@case
def static_members_take_over(subject: Subject) -> None:
    """A leader and a follower come back, as they were and changed."""
    group = subject.new_name("group")
    wait_for_coordinator(subject, group)
    one = join(subject, "one", group, group_instance_id="one")
    joining = subject.ask(JoinGroupRequest, 9, **_joining(group, "", "range") | {"group_instance_id": "two"})
    _wait_told(subject, group, one.member_id, one.generation_id, "one")
    again = join(subject, "one again", group, one.member_id, group_instance_id="one")
    two = joining.answer("two")
    rows = [(one.member_id, b"\x01"), (two.member_id, b"\x02")]
    sync(subject, "one synced", group, one.member_id, again.generation_id, rows, group_instance_id="one")
    sync(subject, "two synced", group, two.member_id, two.generation_id, [], group_instance_id="two")
    for version in (5, 8, 9):
        back = join(subject, f"the follower is back by v{version}", group, version=version, group_instance_id="two")
        id_of_two = back.member_id
    fenced = {"group_id": group, "generation_id": two.generation_id, "group_instance_id": "two"}
    subject.call("its former self", HeartbeatRequest, 4, **fenced, member_id=two.member_id)
    for version in (5, 8, 9):
        back = join(subject, f"the leader is back by v{version}", group, version=version, group_instance_id="one")
        id_of_one = back.member_id
    sync(subject, "the leader syncs", group, id_of_one, two.generation_id, [], group_instance_id="one")
    sync(subject, "the follower syncs", group, id_of_two, two.generation_id, [], group_instance_id="two")
    describe(subject, "as before", group)
    changed = _lists("range", metadata=b"\x00\x02")
    join(subject, "the follower is back, changed", group, group_instance_id="two", protocols=changed)
    describe(subject, "changed", group)


@case
def huge_metadata(subject: Subject) -> None:
    """What does not fit into one record of the log of groups."""
    group = subject.new_name("group")
    wait_for_coordinator(subject, group)
    large = _lists("range", metadata=b"m" * 2_000_000)
    member = join(subject, "asked", group, protocols=large).member_id
    answer = join(subject, "2 MB of metadata", group, member, protocols=large)
    sync(subject, "2 MB of metadata: synced", group, member, answer.generation_id, [(member, b"\x01")])
    other = subject.new_name("group")
    wait_for_coordinator(subject, other)
    member = _asked(subject, other, "range")
    answer = join(subject, "small", other, member)
    sync(subject, "2 MB of assignment", other, member, answer.generation_id, [(member, b"a" * 2_000_000)])
    heartbeat(subject, "afterwards", other, member, answer.generation_id)


def _lists(*names: str, metadata: bytes = b"\x00\x01") -> list[dict[str, Any]]:
    return [{"name": name, "metadata": metadata} for name in names]


def _joining(group: str, member_id: str, *names: str, metadata: bytes = b"\x00\x01") -> dict[str, Any]:
    return {
        "group_id": group,
        "session_timeout_ms": 10_000,
        "rebalance_timeout_ms": 10_000,
        "member_id": member_id,
        "group_instance_id": None,
        "protocol_type": "consumer",
        "protocols": _lists(*names, metadata=metadata),
    }


def _syncing(group: str, member_id: str, generation: int) -> dict[str, Any]:
    who = {"group_id": group, "generation_id": generation, "member_id": member_id}
    return {**who, "protocol_type": "consumer", "protocol_name": "roundrobin", "assignments": []}


def _asked(subject: Subject, group: str, *names: str) -> str:
    """The member id that the server gives out."""
    answer = subject.quiet(JoinGroupRequest, 9, _joining(group, "", *names))
    assert answer.error_code == 79, answer
    return str(answer.member_id)


def _wait_told(subject: Subject, group: str, member_id: str, generation: int, instance: str | None = None) -> None:
    """Until a heartbeat says that there is a rebalance."""
    fields = {"group_id": group, "generation_id": generation, "member_id": member_id, "group_instance_id": instance}
    deadline = time.monotonic() + 60.0
    while subject.quiet(HeartbeatRequest, 4, fields).error_code != 27:
        assert time.monotonic() < deadline, "no rebalance"
        time.sleep(0.02)
