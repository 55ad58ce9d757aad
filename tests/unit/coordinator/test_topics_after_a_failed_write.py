"""Topics that grew just before a write failed are seen all the same."""

from __future__ import annotations

from bytemq.broker.coordinator.group.environment import ConsumerGroupSettings, GroupSettings
from tests.unit.coordinator.consumer_world import Consumer, ConsumerWorld


def test_heartbeat__looks_at_the_topics_again_when_the_epoch_that_they_called_for_was_not_written() -> None:
    world = ConsumerWorld(GroupSettings(consumer=ConsumerGroupSettings(assignment_interval_ms=0)), t=1)
    consumer = Consumer(world, "a")
    consumer.heartbeat()
    world.topics.create("t", 2)
    world.topics_changed()
    world.hold = True
    consumer.heartbeat()
    world.fail()
    world.hold = False
    consumer.heartbeat()
    assert consumer.named() == [("t", 0), ("t", 1)]
