"""When the members of a consumer group send their next heartbeats. Pure.

A member learns of anything by its next heartbeat only, and the interval is the coordinator's to tell. Apache Kafka
tells everybody the same one at any time, so that members that joined together also ask together ever after, and what
one leaves is read again an interval later. Here each member has a moment of its own within the interval and is told how
long it is until then; and who waits for partitions asks again soon. Nobody is told less than a second: librdkafka gives
the next answer as long as it was told to wait, and one that it gives up may be the one that brings partitions.
"""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup
from bytemq.broker.coordinator.group.consumer.member import CurrentAssignment, MemberState

_LEAST_MS = 1_000
"""As long as Kafka's default for the assignment interval, which is what most of those who wait are waiting for."""


def next_heartbeat_ms(
    group: ConsumerGroup, member_id: str, current: CurrentAssignment, now_ms: int, interval_ms: int
) -> int:
    """What to tell a member that has `current` now; at most `interval_ms`. The group remembers it."""
    least_ms = min(_LEAST_MS, interval_ms)
    waits = group.group_epoch > group.assignment_epoch or current.state is MemberState.UNRELEASED_PARTITIONS
    told_ms = least_ms if waits else max(least_ms, _until_turn_ms(member_id, now_ms, interval_ms))
    group.asks_at_ms[member_id] = now_ms + told_ms
    return told_ms


def by_turn(group: ConsumerGroup, now_ms: int, interval_ms: int) -> Callable[[str], tuple[int, str]]:
    """Sorts member ids: who asks next comes first."""

    def key(member_id: str) -> tuple[int, str]:
        asks_at_ms = group.asks_at_ms.get(member_id, 0)
        until_ms = asks_at_ms - now_ms if asks_at_ms > now_ms else _until_turn_ms(member_id, now_ms, interval_ms)
        return until_ms, member_id

    return key


def _until_turn_ms(member_id: str, now_ms: int, interval_ms: int) -> int:
    return interval_ms - (now_ms - crc32(member_id.encode())) % interval_ms
