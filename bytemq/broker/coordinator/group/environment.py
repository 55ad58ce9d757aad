"""What the group machine is given: settings, timers, the time, ids, and the groups of the shard.

Owns no protocol logic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from bytemq.broker.coordinator.group.classic_group import ClassicGroup
from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup
from bytemq.broker.coordinator.group.consumer.topics import NoTopics, Topics
from bytemq.broker.coordinator.group.memory import DEFAULT_LIMIT_BYTES, MembershipMemory
from bytemq.broker.coordinator.timers import Timers
from bytemq.protocol.error_codes import ErrorCode, KafkaError


class ConsumerGroupSettings(NamedTuple):
    """Kafka's `group.consumer.*`; the interval and timeouts may be a group's own."""

    session_timeout_ms: int = 45_000
    heartbeat_interval_ms: int = 5_000
    assignment_interval_ms: int = 1_000
    regex_refresh_interval_ms: int = 600_000
    max_size: int = 0x7FFF_FFFF
    assignors: tuple[str, ...] = ("uniform", "range")
    upgrades: bool = True
    """A classic group with members becomes a consumer group when a consumer comes (group.consumer.migration.policy)."""
    downgrades: bool = True
    """A consumer group becomes a classic one when the last consumer goes that does not speak the classic protocol."""

    @property
    def mixes(self) -> bool:
        """Members that speak the classic protocol may be in a consumer group at all."""
        return self.upgrades or self.downgrades


class GroupSettings(NamedTuple):
    """Kafka's settings, under its names.

    `membership_max_bytes` bounds what all groups' members together may keep in memory.
    """

    min_session_timeout_ms: int = 6_000
    max_session_timeout_ms: int = 1_800_000
    initial_rebalance_delay_ms: int = 3_000
    max_size: int = 0x7FFF_FFFF
    offset_metadata_max_bytes: int = 4_096
    offsets_retention_ms: int = 7 * 24 * 60 * 60 * 1_000
    offsets_retention_check_interval_ms: int = 600_000
    new_member_join_timeout_ms: int = 300_000
    membership_max_bytes: int = DEFAULT_LIMIT_BYTES
    consumer: ConsumerGroupSettings = ConsumerGroupSettings()


SettingsOf = Callable[[str], ConsumerGroupSettings]
"""What holds for a group of this id."""

IsGone = Callable[[str, bytes], bool]
"""Whether the topic of this name and id (zero: not known) was deleted."""


_DEFAULT_MAX_RECORD_BYTES = 1_048_588
"""message.max.bytes"""


def _nothing_is_gone(topic: str, topic_id: bytes) -> bool:
    return False


class RequestOrigin(NamedTuple):
    """Who asks, as the group remembers and shows it."""

    client_id: str
    client_host: str
    api_version: int
    connection_id: str = ""
    """Which of the broker's connections it came by; "": that does not matter to this request."""


@dataclass(slots=True)
class GroupEnvironment:
    """`wall_ms` is for what is stored and shown, `timers` for what must happen later; `new_uuid` makes member ids
    unique.
    """

    settings: GroupSettings
    timers: Timers
    wall_ms: Callable[[], int]
    new_uuid: Callable[[], str]
    memory: MembershipMemory
    groups: dict[str, ClassicGroup] = field(default_factory=dict)
    is_gone: IsGone = _nothing_is_gone
    consumer_groups: dict[str, ConsumerGroup] = field(default_factory=dict)
    """An id is here or in `groups`, never in both."""
    topics: Topics = field(default_factory=NoTopics)
    settings_of: SettingsOf | None = None
    max_record_bytes: Callable[[], int] = lambda: _DEFAULT_MAX_RECORD_BYTES
    """What is larger does not go into the log: it is refused before it is put together."""

    def consumer_settings(self, group_id: str) -> ConsumerGroupSettings:
        return self.settings.consumer if self.settings_of is None else self.settings_of(group_id)

    def group(self, group_id: str) -> ClassicGroup:
        """Raises KafkaError GROUP_ID_NOT_FOUND."""
        group = self.groups.get(group_id)
        if group is None:
            raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND, f"Group {group_id} not found.")
        return group

    def create_group(self, group_id: str) -> ClassicGroup:
        """A new, empty group."""
        group = self.groups[group_id] = ClassicGroup(group_id, self.wall_ms(), self.memory)
        return group

    def ensure_group(self, group_id: str) -> None:
        """There are offsets of this group in the log: it is a simple consumer's, unless it is known otherwise."""
        if group_id not in self.groups and group_id not in self.consumer_groups:
            self.create_group(group_id)

    def forget_group(self, group: ClassicGroup, *, and_sessions: bool = True) -> None:
        """The group is gone from memory, with its timers; harmless when it is already.

        Answer its parked requests before.
        """
        if self.groups.get(group.group_id) is group:
            self.cancel_timers(group, and_sessions=and_sessions)
            del self.groups[group.group_id]
            self.memory.used_bytes -= group.size_bytes

    def restore_group(self, group: ClassicGroup) -> None:
        """Takes back `forget_group`, unless another group has that id by now."""
        if group.group_id not in self.groups:
            self.groups[group.group_id] = group
            self.memory.used_bytes += group.size_bytes

    def session_key(self, group_id: str, member_id: str) -> tuple[str, str, str]:
        """The timer of one member's session."""
        return ("session", group_id, member_id)

    def cancel_timers(self, group: ClassicGroup, *, and_sessions: bool = True) -> None:
        """Forgets the timers of the group, maybe all but those of its members' sessions."""
        self.timers.cancel(("join", group.group_id))
        self.timers.cancel(("sync", group.group_id))
        if not and_sessions:
            return
        for member_id in (*group.members, *group.pending_join):
            self.timers.cancel(self.session_key(group.group_id, member_id))
