"""Heartbeats of KIP-848 whose answers were lost: what they told is told again.

librdkafka gives up an answer that takes longer than it was told to wait, closes the connection, and sends the same
heartbeat again by the next one. It says neither that it has heard nothing nor what it owns.
"""

from __future__ import annotations

from bytemq.broker.coordinator.group.environment import ConsumerGroupSettings, GroupSettings
from bytemq.protocol.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
)
from tests.unit.coordinator.consumer_world import Consumer, ConsumerWorld


def told(consumer: Consumer) -> bool:
    """The answer to a heartbeat that says nothing but who it is: whether it has an assignment, which is received."""
    request = ConsumerGroupHeartbeatRequest(
        group_id="g", member_id=consumer.member_id, member_epoch=consumer.epoch, topic_partitions=None
    )
    [answer] = consumer.send(request)
    assert isinstance(answer, ConsumerGroupHeartbeatResponse)
    consumer.receive(answer)
    return answer.assignment is not None


def waiting() -> tuple[ConsumerWorld, Consumer]:
    """A member in its epoch, whose partition was with another one until a moment ago."""
    world = ConsumerWorld(GroupSettings(consumer=ConsumerGroupSettings(assignment_interval_ms=0)), t=1)
    first, late = Consumer(world, "first"), Consumer(world, "late")
    first.heartbeat()
    late.heartbeat()
    first.leave()
    late.heartbeat()
    return world, late


def test_assignment_whose_answer_was_lost__is_told_by_the_next_connection() -> None:
    world = ConsumerWorld(GroupSettings(consumer=ConsumerGroupSettings(assignment_interval_ms=0)), t=2)
    first, late = Consumer(world, "first"), Consumer(world, "late")
    first.heartbeat()
    first.slow = True
    late.heartbeat()
    first.heartbeat()  # is asked for one of its two
    late.heartbeat()  # moves on to the group's epoch, and waits
    assert late.assigned == set()
    first.give_up()
    first.heartbeat()
    late.send(late.request())
    assert len(world.group.current_of("late").assigned) == 1
    late.reconnect()
    assert told(late)
    assert len(late.owned) == 1


def test_assignment__is_not_told_again_by_the_same_connection() -> None:
    _, late = waiting()
    late.reconnect()
    assert told(late)
    assert not told(late)


def test_new_coordinator__tells_everybody_once() -> None:
    """What the former one answered last may not have arrived."""
    world, late = waiting()
    world.restart()
    assert told(late)
    assert not told(late)


def test_founder_of_a_group__is_told_once() -> None:
    world = ConsumerWorld(t=1)
    first = Consumer(world, "first")
    first.heartbeat()
    assert first.owned
    assert not told(first)


def test_assignment_whose_answer_was_lost__is_told_by_the_next_connection_of_one_whose_removal_failed() -> None:
    world, late = waiting()
    world.hold = True
    world.advance(late.world.settings.consumer.session_timeout_ms)
    assert "late" not in world.group.members
    world.hold = False
    world.fail()
    late.reconnect()
    assert told(late)


def test_assignment_whose_answer_was_lost__is_told_to_one_whose_removal_was_not_even_begun() -> None:
    """The runtime writes nothing of a step that a record of the log has no room for."""
    world, late = waiting()
    removal = world.shard.consumers.sessions.remove(world.group, ["late"])
    assert removal.records, "which nobody writes"
    late.reconnect()
    assert told(late)
    assert not told(late)


def test_member_that_has_not_heard_that_a_topic_is_gone__keeps_its_epoch() -> None:
    """What it reads of it nobody has, and nobody can be given: a topic of that name that comes later has another id."""
    world = ConsumerWorld(GroupSettings(consumer=ConsumerGroupSettings(assignment_interval_ms=1_000)), t=3, v=1)
    first, second = Consumer(world, "first"), Consumer(world, "second")
    second.topics = ["t", "v"]
    first.heartbeat()
    second.heartbeat()
    world.advance(1_000)
    first.slow = second.slow = True
    first.heartbeat()
    second.heartbeat()  # is given v, takes its time, and waits for what the first one has of t
    epoch, [(gone, _)] = second.epoch, second.assigned
    world.topics.delete("v")
    world.topics_changed()
    second.send(second.request())
    second.give_up()
    assert second.named() == [] and second.owned
    assert world.group.current_of("second").epoch == epoch
    assert gone not in world.group.owners
    world.topics.create("v", 1)
    world.topics_changed()
    for _ in range(3):
        world.advance(1_000)
        for consumer in (first, second):
            consumer.slow = False
            consumer.give_up()
            consumer.heartbeat(full=True)
    assert [name for name, _ in first.named()] == ["t", "t"]
    assert [name for name, _ in second.named()] == ["t", "v"]
