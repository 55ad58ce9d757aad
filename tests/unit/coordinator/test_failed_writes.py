"""Writes of a group coordinator that fail: what was told or done ahead of them is taken back, and everybody hears."""

from __future__ import annotations

from bytemq.protocol.error_codes import ErrorCode
from tests.unit.coordinator.group_world import GroupWorld


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
