"""A group changes its protocol while something of a member is on its way into the log."""

from __future__ import annotations

import pytest

from bytemq.broker.coordinator.group.environment import ConsumerGroupSettings, GroupSettings
from bytemq.broker.coordinator.group.states import GroupState
from tests.unit.coordinator.classic_consumer import ClassicConsumer
from tests.unit.coordinator.consumer_world import Consumer, ConsumerWorld

SETTINGS = GroupSettings(consumer=ConsumerGroupSettings(assignment_interval_ms=0))


@pytest.mark.parametrize("step", ["join", "sync"])
def test_downgrade__of_a_member_whose_request_is_on_its_way_leaves_it_its_session(step: str) -> None:
    """Static members that are away keep a classic group waiting as long as their sessions last."""
    world = ConsumerWorld(SETTINGS, t=2)
    consumer, classic = Consumer(world, "consumer"), ClassicConsumer(world, "classic", instance="i")
    consumer.heartbeat()
    if step == "sync":
        classic.join()
    world.hold = True
    world.commit("other", {("t", 0): 1})
    if step == "join":
        classic.join()
    else:
        classic.sync()
    consumer.leave()
    world.hold = False
    world.release()
    group = world.shard.groups["g"]
    assert list(group.static_members) == ["i"]
    world.advance(200_000)
    assert (group.members, group.state) == ({}, GroupState.EMPTY)
