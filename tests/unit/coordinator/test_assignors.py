"""The server-side assignors: everybody's share, who keeps what, and what they cost."""

from __future__ import annotations

import time
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


# -- racks


def in_racks(
    members: Mapping[str, tuple[str | None, set[bytes]]],
    racks: Mapping[bytes, list[str]],
    before: Mapping[str, Target] | None = None,
) -> AssignmentRequest:
    """`racks` of each partition: "ab" for two. Members with their rack and what they are subscribed to."""
    plain = request(
        {name: topics for name, (_, topics) in members.items()},
        {topic: len(of_topic) for topic, of_topic in racks.items()},
        before,
    )
    return plain._replace(
        members={name: member._replace(rack=members[name][0]) for name, member in plain.members.items()},
        racks={topic: [frozenset(each) for each in of_topic] for topic, of_topic in racks.items()},
    )


def near(asked: AssignmentRequest, assigned: Mapping[str, Target]) -> int:
    """Partitions whose reader is in a rack of theirs."""
    return sum(
        asked.members[member_id].rack in asked.racks[topic][index]
        for member_id, target in assigned.items()
        for topic, indexes in target.items()
        for index in indexes
    )


@pytest.mark.parametrize("racks", [list("aaabbbccc"), list("abcabcabc"), list("cbacabbac"), ["ab", "bc", "ca"] * 3])
def test_uniform__of_a_new_group_everything_is_near(racks: list[str]) -> None:
    asked = in_racks({"x": ("a", {T}), "y": ("b", {T}), "z": ("c", {T})}, {T: racks})
    assigned = ASSIGNORS["uniform"](asked)
    assert loads(assigned) == {"x": 3, "y": 3, "z": 3}
    assert near(asked, assigned) == 9


@pytest.mark.parametrize("order", ["xyz", "zxy", "yzx"])
def test_uniform__members_that_come_one_by_one_find_what_is_near(order: str) -> None:
    rack = {"x": "a", "y": "b", "z": "c"}
    assigned: Mapping[str, Target] = {}
    for count in (1, 2, 3):
        asked = in_racks({each: (rack[each], {T}) for each in order[:count]}, {T: list("abccbacab")}, assigned)
        assigned = ASSIGNORS["uniform"](asked)
    assert near(asked, assigned) == 9


def test_uniform__balance_comes_before_racks() -> None:
    asked = in_racks({"x": ("a", {T}), "y": ("b", {T})}, {T: list("aaaaab")})
    assigned = ASSIGNORS["uniform"](asked)
    assert loads(assigned) == {"x": 3, "y": 3}
    assert near(asked, assigned) == 4


def test_uniform__nothing_is_taken_from_a_member_because_of_racks() -> None:
    before = {"x": {T: frozenset({0, 1})}, "y": {T: frozenset({2, 3})}}
    asked = in_racks({"x": ("a", {T}), "y": ("b", {T})}, {T: list("bbaa")}, before)
    assert ASSIGNORS["uniform"](asked) == before


def test_uniform__who_has_no_rack_takes_what_is_left() -> None:
    asked = in_racks({"x": (None, {T}), "y": ("b", {T})}, {T: list("bbaabb")})
    assigned = ASSIGNORS["uniform"](asked)
    assert loads(assigned) == {"x": 3, "y": 3}
    assert near(asked, assigned) == 3


def test_uniform__racks_of_nobody_change_nothing() -> None:
    members: dict[str, tuple[str | None, set[bytes]]] = {"x": ("n", {T}), "y": (None, {T})}
    asked = in_racks(members, {T: list("abab")})
    assert ASSIGNORS["uniform"](asked) == ASSIGNORS["uniform"](asked._replace(racks={}))


def test_range__lines_up_whatever_the_racks() -> None:
    asked = in_racks({"x": ("a", {T, U}), "y": ("b", {T, U})}, {T: list("ba"), U: list("ab")})
    assert ASSIGNORS["range"](asked) == {
        "x": {T: frozenset({0}), U: frozenset({0})},
        "y": {T: frozenset({1}), U: frozenset({1})},
    }


def test_uniform__racks_cost_neither_balance_nor_stickiness() -> None:
    """Groups that change, with and without racks: as even, as few moves of what could have stayed, and nearer."""
    random = Random(881)
    before: dict[str, Target] = {}
    got_nearer = 0
    for _ in range(400):
        names = random.sample("abcdefg", random.randint(1, 7))
        everybody = set(random.sample((T, U, V), 2)) if random.random() < 0.5 else None
        members = {
            each: (
                random.choice("rst") if random.random() < 0.9 else None,
                everybody or set(random.sample((T, U, V), 2)),
            )
            for each in names
        }
        wanted = set().union(*(topics for _, topics in members.values()))
        racks = {
            topic: ["".join(random.sample("rst", random.randint(0, 3))) for _ in range(random.randint(0, 9))]
            for topic in sorted(wanted)
        }
        asked = in_racks(members, racks, before)
        assigned, without = ASSIGNORS["uniform"](asked), ASSIGNORS["uniform"](asked._replace(racks={}))
        given = [(topic, index) for target in assigned.values() for topic in target for index in target[topic]]
        assert sorted(given) == [(topic, index) for topic in sorted(wanted) for index in range(len(racks[topic]))]
        assert all(assigned[each].keys() <= members[each][1] for each in names)
        check_even(assigned, {each: topics for each, (_, topics) in members.items()})
        if everybody:
            assert moved(before, assigned) <= moved(before, without)
            assert near(asked, assigned) >= near(asked, without)
            got_nearer += near(asked, assigned) > near(asked, without)
        before = assigned
    assert got_nearer > 50


def test_uniform__with_racks_1000_members_over_10000_partitions_take_little() -> None:
    racks = {bytes([topic]): ["abc"[(topic + index) % 3] for index in range(100)] for topic in range(100)}
    topics = set(racks)
    asked = in_racks({f"{at:04}": ("abc"[at // 334], topics) for at in range(1000)}, racks)
    started = time.process_time()
    assigned = ASSIGNORS["uniform"](asked)
    took_s = time.process_time() - started
    assert set(loads(assigned).values()) == {10}
    assert near(asked, assigned) > 9900
    assert took_s < 2
