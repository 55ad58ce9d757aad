"""Writes of a group coordinator that fail: what was told or done ahead of them is taken back, and everybody hears."""

from __future__ import annotations

from bytemq.broker.coordinator.group.consumer.member import MemberState
from bytemq.broker.coordinator.group.environment import ConsumerGroupSettings, GroupSettings
from bytemq.protocol.error_codes import ErrorCode
from tests.unit.coordinator.consumer_world import Consumer, ConsumerWorld
from tests.unit.coordinator.group_world import GroupWorld

AT_ONCE = GroupSettings(consumer=ConsumerGroupSettings(assignment_interval_ms=0))


def joined(world: GroupWorld, **who: str) -> tuple[str, int]:
    """Member id and generation of one that joins a new group and waits until that has its members."""
    answers = world.join(version=3, **who)  # type: ignore[arg-type]
    world.advance(3_000)
    assert not answers[0].error_code
    return answers[0].member_id, answers[0].generation_id


def test_new_group__that_cannot_be_written_answers_who_waits_for_an_assignment() -> None:
    world = GroupWorld()
    world.hold = True
    answers = [world.join(version=3, client=name) for name in ("a", "b")]
    world.advance(6_000)
    follower = next(each[0] for each in answers if each[0].member_id != each[0].leader)
    syncs = world.sync("g", follower.member_id, follower.generation_id)
    assert syncs == []
    world.fail()
    assert [each.error_code for each in syncs] == [ErrorCode.NOT_COORDINATOR]


def test_take_over__twice_with_neither_written_leaves_the_member_that_the_log_knows() -> None:
    world = GroupWorld()
    member_id, generation = joined(world, instance="i")
    world.sync("g", member_id, generation, {member_id: b"all"})
    world.hold = True
    answers = [world.join(instance="i", version=9) for _ in range(2)]
    world.fail()
    assert world.shard.groups["g"].static_members == {"i": member_id}
    assert [each[0].error_code for each in answers] == [ErrorCode.FENCED_INSTANCE_ID, ErrorCode.NOT_COORDINATOR]
    assert world.classic_heartbeat("g", member_id, generation, instance="i") is ErrorCode.NONE


def test_revocation__that_takes_too_long_ends_the_member_also_when_that_cannot_be_written_at_first() -> None:
    world = ConsumerWorld(AT_ONCE, t=2)
    slow, other = Consumer(world, "slow"), Consumer(world, "other")
    slow.rebalance_ms = 10_000
    slow.heartbeat()
    slow.slow = True
    other.heartbeat()
    slow.heartbeat()  # is asked for one of its two
    assert world.group.current_of("slow").state is MemberState.UNREVOKED_PARTITIONS

    def go_on(seconds: int) -> None:
        for _ in range(seconds // 5):
            slow.heartbeat()
            other.heartbeat()
            world.advance(5_000)

    world.hold = True
    world.advance(11_000)
    assert list(world.group.members) == ["other"]
    world.fail()
    world.hold = False
    assert list(world.group.members) == ["other", "slow"]
    go_on(5)
    assert "slow" in world.group.members
    go_on(10)
    assert "slow" not in world.group.members
