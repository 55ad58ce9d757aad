"""The server-side assignors: everybody's share, who keeps what, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import pytest

from bytemq.broker.coordinator.group.consumer.assignors.specification import AssignedMember, AssignmentRequest
from bytemq.broker.coordinator.group.consumer.member import NO_TARGET, Target
from bytemq.broker.coordinator.group.consumer.steps import ASSIGNORS

T, U, V = b"t", b"u", b"v"


def request(
    subscriptions: Mapping[str, set[bytes]], counts: Mapping[bytes, int], before: Mapping[str, Target] | None = None
) -> AssignmentRequest:
    members = {
        member_id: AssignedMember(None, frozenset(topics), (before or {}).get(member_id, NO_TARGET))
        for member_id, topics in subscriptions.items()
    }
    return AssignmentRequest(members, counts, len({frozenset(topics) for topics in subscriptions.values()}) <= 1)


def loads(assigned: Mapping[str, Target]) -> dict[str, int]:
    return {member_id: sum(map(len, target.values())) for member_id, target in assigned.items()}


def moved(before: Mapping[str, Target], after: Mapping[str, Target]) -> int:
    """Partitions that a member lost which is still there."""
    return sum(
        len(partitions - after[member_id].get(topic, frozenset()))
        for member_id, target in before.items()
        if member_id in after
        for topic, partitions in target.items()
    )


def test_uniform__who_comes_takes_no_more_than_its_share() -> None:
    counts = {T: 7, U: 5}
    before = ASSIGNORS["uniform"](request({"a": {T, U}, "b": {T, U}}, counts))
    assert loads(before) == {"a": 6, "b": 6}
    after = ASSIGNORS["uniform"](request({"a": {T, U}, "b": {T, U}, "c": {T, U}}, counts, before))
    assert loads(after) == {"a": 4, "b": 4, "c": 4}
    assert moved(before, after) == 4


def test_uniform__nobody_moves_when_one_leaves() -> None:
    counts = {T: 12}
    before = ASSIGNORS["uniform"](request({name: {T} for name in "abcd"}, counts))
    after = ASSIGNORS["uniform"](request({name: {T} for name in "abc"}, counts, before))
    assert loads(after) == {"a": 4, "b": 4, "c": 4}
    assert moved(before, after) == 0


def test_uniform__is_the_same_object_where_nothing_changed() -> None:
    counts = {T: 4}
    before = ASSIGNORS["uniform"](request({"a": {T}, "b": {T}}, counts))
    after = ASSIGNORS["uniform"](request({"a": {T}, "b": {T}}, counts, before))
    assert all(after[name] is before[name] for name in "ab")


def test_uniform__different_subscriptions_are_evened_out() -> None:
    assigned = ASSIGNORS["uniform"](request({"a": {T, U}, "b": {T}, "c": {U, V}}, {T: 4, U: 4, V: 1}))
    assert loads(assigned) == {"a": 3, "b": 3, "c": 3}


def test_uniform__a_partition_that_two_claim_stays_with_one() -> None:
    before = {"a": {T: frozenset({0, 1})}, "b": {T: frozenset({0, 1})}}
    assigned = ASSIGNORS["uniform"](request({"a": {T}, "b": {T}}, {T: 2}, before))
    assert loads(assigned) == {"a": 1, "b": 1}


def test_range__runs_of_different_topics_line_up() -> None:
    assigned = ASSIGNORS["range"](request({"b": {T, U}, "a": {T, U}}, {T: 3, U: 3}))
    assert assigned == {
        "a": {T: frozenset({0, 1}), U: frozenset({0, 1})},
        "b": {T: frozenset({2}), U: frozenset({2})},
    }


def test_range__static_members_come_first_in_the_order_of_their_instances() -> None:
    members = {
        "x": AssignedMember(None, frozenset({T}), NO_TARGET),
        "y": AssignedMember("2", frozenset({T}), NO_TARGET),
        "z": AssignedMember("1", frozenset({T}), NO_TARGET),
    }
    assigned = ASSIGNORS["range"](AssignmentRequest(members, {T: 3}, True))
    assert [assigned[name][T] for name in "zyx"] == [{0}, {1}, {2}]


@pytest.mark.parametrize("name", ["uniform", "range"])
def test_assignors__give_each_partition_to_one_subscriber(name: str) -> None:
    random = Random(848)
    before: dict[str, Target] = {}
    for _ in range(200):
        members = random.sample("abcdefg", random.randint(1, 7))
        everybody = set(random.sample((T, U, V), 2)) if random.random() < 0.3 else None
        subscriptions = {each: everybody or set(random.sample((T, U, V), random.randint(1, 3))) for each in members}
        wanted: set[bytes] = set().union(*subscriptions.values())
        counts = {topic: random.randint(0, 9) for topic in wanted}
        assigned = ASSIGNORS[name](request(subscriptions, counts, before))
        given = [(topic, index) for target in assigned.values() for topic in target for index in target[topic]]
        assert sorted(given) == [(topic, index) for topic in sorted(wanted) for index in range(counts[topic])]
        assert all(assigned[each].keys() <= subscriptions[each] for each in members)
        if name == "uniform":
            check_even(assigned, subscriptions)
        before = assigned


def check_even(assigned: dict[str, Target], subscriptions: dict[str, set[bytes]]) -> None:
    """No partition could go to a subscriber with at least two less."""
    load = loads(assigned)
    for giver, target in assigned.items():
        for topic in target:
            for taker in subscriptions:
                assert topic not in subscriptions[taker] or load[giver] < load[taker] + 2, (giver, taker)
