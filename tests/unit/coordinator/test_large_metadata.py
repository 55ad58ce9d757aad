"""What clients say of themselves may be megabytes: it costs others nothing."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from bytemq.broker.context import ClientInfo, RequestContext
from bytemq.broker.coordinator.group.consumer.reconciliation import put_together
from bytemq.broker.coordinator.group.environment import ConsumerGroupSettings, GroupSettings
from bytemq.broker.coordinator.group.states import GroupState
from bytemq.broker.coordinator.group.subscription import all_subscribed_topics
from bytemq.broker.coordinator.outcome import Outcome
from bytemq.broker.handlers import consumer_group_describe
from bytemq.protocol.codec import decode, encode, encode_in_parts
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.consumer_group_describe import (
    ConsumerGroupDescribeRequest,
    ConsumerGroupDescribeResponse,
)
from bytemq.protocol.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest
from bytemq.protocol.messages.join_group import JoinGroupResponse, JoinGroupResponseMember
from bytemq.protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse
from tests.support.turns import CountedTurns
from tests.unit.coordinator.classic_consumer import ClassicConsumer
from tests.unit.coordinator.consumer_world import Consumer, ConsumerWorld, FakeTopics
from tests.unit.coordinator.group_world import GroupWorld, subscription

AT_ONCE = GroupSettings(initial_rebalance_delay_ms=0, consumer=ConsumerGroupSettings(assignment_interval_ms=0))
MB = 1_000_000


def names(first: int, count: int) -> list[str]:
    return [f"topic-{number}" for number in range(first, first + count)]


# -- the topics of a classic group


def test_subscribed_topics__are_those_of_all_members_whatever_follows_them() -> None:
    blobs = [subscription("t", "u") + b"owned", subscription("t", "u") + b"others", subscription("v")]
    assert all_subscribed_topics(blobs) == {"t", "u", "v"}
    assert all_subscribed_topics([]) == frozenset()


@pytest.mark.parametrize("blob", [b"", b"\0\0", b"\xff\xff\0\0\0\0", b"\0\0\xff\xff\xff\xff", b"\0\0\0\0\0\1\0\5t"])
def test_subscribed_topics__of_what_is_no_subscription_are_not_known(blob: bytes) -> None:
    assert all_subscribed_topics([subscription("t"), blob]) is None


def test_subscribed_topics__of_a_thousand_members_with_the_same_thousand_topics_are_known() -> None:
    alike = subscription(*names(0, 1_000))
    members = [alike + number.to_bytes(4, "big") for number in range(1_000)]
    assert all_subscribed_topics(members) == frozenset(names(0, 1_000))


def test_subscribed_topics__beyond_what_is_read_at_once_are_not_known() -> None:
    """A million names in two megabytes are not even begun with."""
    assert all_subscribed_topics([struct.pack(">hi", 0, MB) + bytes(2 * MB)]) is None
    assert all_subscribed_topics(subscription(*names(start, 5_000)) for start in range(0, 100_000, 5_000)) is None


# -- a classic group


def synced(world: GroupWorld, assignment: bytes, metadata: bytes) -> tuple[Outcome[None], list[SyncGroupResponse]]:
    world.join("g", protocols={"range": metadata}, version=3)
    world.advance(1)
    (member_id,) = world.shard.groups["g"].members
    request = SyncGroupRequest(
        group_id="g",
        generation_id=1,
        member_id=member_id,
        assignments=[SyncGroupRequestAssignment(member_id, assignment)],
    )
    answers: list[SyncGroupResponse] = []
    return world.shard.syncing.sync(request, answers.append), answers


@pytest.mark.parametrize(("assignment", "metadata"), [(2 * MB, 10), (10, 2 * MB), (MB, MB)])
def test_sync__of_more_than_the_log_takes_is_refused_before_it_is_put_together(assignment: int, metadata: int) -> None:
    world = GroupWorld(AT_ONCE)
    outcome, answers = synced(world, bytes(assignment), bytes(metadata))
    assert [answer.error_code for answer in answers] == [ErrorCode.UNKNOWN_SERVER_ERROR]
    assert not outcome.records
    assert world.shard.groups["g"].state is GroupState.PREPARING_REBALANCE


def test_sync__of_what_the_log_takes_is_written() -> None:
    world = GroupWorld(AT_ONCE)
    outcome, answers = synced(world, bytes(MB // 2), bytes(MB // 2))
    assert len(outcome.records) == 1
    assert not answers


def test_leaders_answer__does_not_copy_what_members_say_of_themselves() -> None:
    large, small = bytes(range(256)) * 100, b"small"
    members = [
        JoinGroupResponseMember(name, None, metadata)
        for name, metadata in zip("abc", (large, small, large), strict=True)
    ]
    for version in (3, 9):
        response = JoinGroupResponse(protocol_name="range", leader="a", member_id="a", members=members)
        parts = encode_in_parts(response, version)
        assert b"".join(parts) == encode(response, version)
        assert sum(part is large for part in parts) == 2
        assert sum(map(len, parts)) - 2 * len(large) < 100


# -- a consumer group


class CountingTopics(FakeTopics):
    looked_up = 0

    def by_name(self, name: str):  # type: ignore[no-untyped-def]
        self.looked_up += 1
        return super().by_name(name)


def heartbeat(world: ConsumerWorld, member_id: str, topics: Sequence[str]) -> object:
    request = ConsumerGroupHeartbeatRequest(
        group_id="g",
        member_id=member_id,
        rebalance_timeout_ms=60_000,
        subscribed_topic_names=list(topics),
        topic_partitions=[],
    )
    (answer,) = world.heartbeat(request)
    return answer


def test_heartbeat__looks_no_more_topics_up_than_there_are() -> None:
    world = ConsumerWorld(AT_ONCE)
    world.topics = world.shard.environment.topics = CountingTopics(t=4)
    for number in range(10):
        heartbeat(world, f"m{number}", ["t", *names(number * 1_000, 1_000)])
    counted, world.topics.looked_up = world.topics.looked_up, 0
    assert counted < 200
    heartbeat(world, "m0", ["t"])
    assert world.topics.looked_up < 40


def test_owned_partitions__of_one_topic_in_many_pieces_take_work_in_proportion() -> None:
    """A heartbeat of a megabyte may name it fifty thousand times."""
    began = time.process_time()
    assert put_together((b"t", [index]) for index in range(100_000)) == {b"t": frozenset(range(100_000))}
    assert time.process_time() - began < 15


def test_subscriptions__of_a_consumer_group_follow_members_and_expressions() -> None:
    world = ConsumerWorld(AT_ONCE, t=1, u=1, v=1)
    one, two = Consumer(world, "one"), Consumer(world, "two")

    def subscribed() -> set[str]:
        return {name for name in ("t", "u", "v", "none") if world.group.is_subscribed_to(name)}

    one.topics, two.topics = ["t", "u", "none"], ["t", "u"]
    one.heartbeat()
    two.heartbeat()
    assert subscribed() == {"t", "u", "none"}
    two.topics = ["v"]
    two.heartbeat(full=True)
    assert subscribed() == {"t", "u", "v", "none"}
    two.regex = "[uv]"
    two.heartbeat(full=True)
    world.advance(1)
    one.leave()
    assert subscribed() == {"u", "v"}
    two.leave()
    assert subscribed() == set()


async def described(world: ConsumerWorld, group_ids: list[str]) -> tuple[bytes, int]:
    """The answer's bytes, and how often others had their turn meanwhile."""
    turns = CountedTurns()
    shard = SimpleNamespace(serving_machine=lambda: world.shard)
    broker: Any = SimpleNamespace(groups=SimpleNamespace(shard_of=lambda group_id: shard), turns=turns)
    context = RequestContext(69, 1, 1, "test", ClientInfo("c", "PLAINTEXT", "127.0.0.1", 1))
    request = ConsumerGroupDescribeRequest(group_ids, include_authorized_operations=True)
    return await consumer_group_describe.handle(broker, context, request), turns.taken


async def test_describe__gives_others_their_turn_between_many_names() -> None:
    world = ConsumerWorld(AT_ONCE, t=4)
    for number in range(10):
        heartbeat(world, f"m{number}", ["t", *names(number * 3_000, 3_000)])
    answer, turns = await described(world, ["g", "g"])
    (group,) = decode(ConsumerGroupDescribeResponse, 1, answer).groups
    assert [len(member.subscribed_topic_names) for member in group.members] == [3_001] * 10
    assert turns >= 9


async def test_describe__says_all_there_is_to_say() -> None:
    world = ConsumerWorld(AT_ONCE, t=4)
    for name in ("a", "b"):
        Consumer(world, name).heartbeat()
    answer, turns = await described(world, ["nobody", "g", ""])
    response = decode(ConsumerGroupDescribeResponse, 1, answer)
    assert bytes(encode(response, 1)) == answer
    unknown, group, nameless = response.groups
    assert (unknown.error_code, nameless.error_code) == (ErrorCode.GROUP_ID_NOT_FOUND, ErrorCode.INVALID_GROUP_ID)
    assert [(member.member_id, member.subscribed_topic_names) for member in group.members] == [
        ("a", ["t"]),
        ("b", ["t"]),
    ]
    assert group.authorized_operations > 0 > unknown.authorized_operations
    assert turns == 0


# -- when there is no memory left for members


def test_join__that_is_refused_for_memory_founds_no_group() -> None:
    world = GroupWorld(GroupSettings(membership_max_bytes=4_000, initial_rebalance_delay_ms=0))
    world.join("g", version=3)
    world.advance(1)
    used_bytes, records = world.shard.environment.memory.used_bytes, len(world.log)
    for number in range(10):
        for version in (3, 9):
            [refused] = world.join(f"other-{number}", version=version)
            assert refused.error_code == ErrorCode.GROUP_MAX_SIZE_REACHED
    assert list(world.shard.groups) == ["g"]
    assert world.shard.environment.memory.used_bytes == used_bytes
    assert len(world.log) == records


def test_join__of_the_last_member_that_is_refused_for_memory_leaves_an_empty_group() -> None:
    world = GroupWorld(GroupSettings(membership_max_bytes=4_000, initial_rebalance_delay_ms=0))
    joined = world.join("g", version=3)
    world.advance(1)
    member_id = joined[0].member_id
    world.sync("g", member_id, 1, {member_id: b"all"})
    assert world.shard.groups["g"].state is GroupState.STABLE
    [refused] = world.join("g", member_id, protocols={"range": subscription("t") + bytes(4_000)})
    assert refused.error_code == ErrorCode.GROUP_MAX_SIZE_REACHED
    group = world.shard.groups["g"]
    assert (group.members, group.state) == ({}, GroupState.EMPTY)
    assert world.shard.removal.delete_groups(["g"]).response[0].error_code == ErrorCode.NONE


# -- from one to the other


def test_upgrade__of_a_group_with_too_much_to_read_at_once_is_refused() -> None:
    world = ConsumerWorld(AT_ONCE, t=1)
    for number in range(3):
        world.join("g", protocols={"range": subscription("t") + bytes(MB)}, version=3, client=f"c{number}")
    world.advance(1)
    assert len(world.shard.groups["g"].members) == 3
    refused = heartbeat(world, "new", ["t"])
    assert isinstance(refused, KafkaError)
    assert refused.code is ErrorCode.GROUP_ID_NOT_FOUND
    assert "too large" in str(refused.message)
    assert len(world.shard.groups["g"].members) == 3


def test_classic_member__of_a_consumer_group_with_more_metadata_than_the_log_takes_is_refused() -> None:
    world = ConsumerWorld(AT_ONCE, t=1)
    heartbeat(world, "m", ["t"])
    told: list[int] = []
    world.join(
        "g", "x", protocols={"range": subscription("t") + bytes(2 * MB)}, reply=lambda a: told.append(a.error_code)
    )
    assert told == [ErrorCode.UNKNOWN_SERVER_ERROR]
    small = ClassicConsumer(world, "small")
    small.join()
    assert small.told == [("join", ErrorCode.NONE)]


# -- regular expressions


def resolved_after_ms(regex: str, topics: Sequence[str]) -> int:
    world = ConsumerWorld(AT_ONCE, **dict.fromkeys(topics, 1))
    member = Consumer(world, "m")
    member.regex = regex
    member.heartbeat()
    started_ms = world.now_ms
    while regex not in world.group.regexes:
        world.advance(1)
    return world.now_ms - started_ms


def test_regex__that_is_made_to_be_slow_is_matched_with_a_name_or_two_at_a_time() -> None:
    slow = "|".join(f"[ab]*a[ab]{{{count}}}" for count in range(100, 240, 3))
    long_names = [f"{number:08b}".replace("0", "a").replace("1", "b") * 31 for number in range(50)]
    assert resolved_after_ms(slow, long_names) >= 50 * 5 * 3


def test_regex__of_the_usual_kind_is_matched_with_a_thousand_topics_at_once() -> None:
    assert resolved_after_ms("topic-1.*", names(0, 1_000)) <= 10
