"""Heartbeats of large groups, each member at the moment it was told: what one leaves is read again soon."""

from __future__ import annotations

import heapq

from bytemq.protocol.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatResponse
from tests.unit.coordinator.consumer_world import Consumer, ConsumerWorld

MEMBERS = 100
INTERVAL_MS = 5_000
LEAST_MS = 1_000
"""librdkafka waits no longer for the answer to a heartbeat than it was told to wait before it."""


class Beating:
    """Consumers that send their heartbeats when they are told to, and at once when their epoch or assignment moved."""

    def __init__(self, partitions: int) -> None:
        self.world = ConsumerWorld(t=partitions)
        self.consumers: list[Consumer] = []
        self.beats = 0
        self._due: list[tuple[int, int]] = []

    def join(self, count: int) -> None:
        for _ in range(count):
            number = len(self.consumers)
            self.consumers.append(Consumer(self.world, f"member-{number}"))
            heapq.heappush(self._due, (self.world.now_ms, number))

    def leave(self, number: int) -> None:
        self.consumers[number].leave()
        self._due = [each for each in self._due if each[1] != number]
        heapq.heapify(self._due)

    def run(self, duration_ms: int) -> None:
        end_ms = self.world.now_ms + duration_ms
        while self._due and self._due[0][0] <= end_ms:
            due_ms, number = heapq.heappop(self._due)
            self.world.advance(due_ms - self.world.now_ms)
            consumer = self.consumers[number]
            before = (consumer.epoch, consumer.assigned)
            answer = consumer.heartbeat()
            assert isinstance(answer, ConsumerGroupHeartbeatResponse)
            assert LEAST_MS <= answer.heartbeat_interval_ms <= INTERVAL_MS
            self.beats += 1
            moved = (consumer.epoch, consumer.assigned) != before
            heapq.heappush(self._due, (due_ms + (0 if moved else answer.heartbeat_interval_ms), number))
        self.world.advance(end_ms - self.world.now_ms)

    def until_read(self, partitions: int, step_ms: int = 50) -> int:
        """How long it takes until as many partitions are read."""
        for waited_ms in range(0, 60_000, step_ms):
            if sum(len(consumer.owned) for consumer in self.consumers) == partitions:
                return waited_ms
            self.run(step_ms)
        raise AssertionError("the group does not settle")


def test_group__reads_what_a_member_leaves_within_two_seconds() -> None:
    group = Beating(10 * MEMBERS)
    group.join(MEMBERS)
    assert group.until_read(10 * MEMBERS) < 3_000, "who waits for its first partitions asks again soon"
    for number in range(5):
        group.run(777)
        group.leave(number)
        assert group.until_read(10 * MEMBERS) < 2_000


def test_member__that_waits_for_partitions_asks_again_soon() -> None:
    group = Beating(4)
    group.join(2)
    group.until_read(4)
    group.run(20_000)
    group.join(1)
    # Who has to give one up hears of it within an interval; the newcomer has it a second later.
    group.run(INTERVAL_MS + 1_000)
    assert [len(consumer.owned) for consumer in group.consumers].count(1) >= 2
    assert len(group.consumers[2].owned) == 1


def test_group__at_rest_sends_no_more_heartbeats_than_the_interval_says() -> None:
    group = Beating(10 * MEMBERS)
    group.join(MEMBERS)
    group.run(20_000)
    group.beats = 0
    group.run(10 * INTERVAL_MS)
    assert group.beats == 10 * MEMBERS
    beats_before, group.beats = group.beats, 0
    group.run(INTERVAL_MS // 10)
    assert 0 < group.beats < beats_before // 50, "each at a moment of its own"
