"""When the members of a consumer group send their next heartbeats. Pure.

A member learns of anything by its next heartbeat only, and the interval is the coordinator's to tell. Apache Kafka
tells everybody the same one at any time, so that members that joined together also ask together ever after, and what
one leaves is read again an interval later. Here each member has a moment of its own within the interval and is told how
long it is until then; and who waits for partitions asks again soon.
"""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup
from bytemq.broker.coordinator.group.consumer.member import CurrentAssignment, MemberState

_WAITING_MS = 1_000
"""As long as Kafka's default for the assignment interval, which is what most of them wait for."""


def next_heartbeat_ms(
    group: ConsumerGroup, member_id: str, current: CurrentAssignment, now_ms: int, interval_ms: int
) -> int:
    """What to tell a member that has `current` now; more than 0, and at most `interval_ms`."""
    until_turn_ms = _until_turn_ms(member_id, now_ms, interval_ms)
    waits = group.group_epoch > group.assignment_epoch or current.state is MemberState.UNRELEASED_PARTITIONS
    return min(until_turn_ms, _WAITING_MS) if waits else until_turn_ms


def by_turn(now_ms: int, interval_ms: int) -> Callable[[str], tuple[int, str]]:
    """Sorts member ids: who asks next comes first."""

    def key(member_id: str) -> tuple[int, str]:
        return _until_turn_ms(member_id, now_ms, interval_ms), member_id

    return key


def _until_turn_ms(member_id: str, now_ms: int, interval_ms: int) -> int:
    return interval_ms - (now_ms - crc32(member_id.encode())) % interval_ms
