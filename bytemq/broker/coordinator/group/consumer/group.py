"""A consumer group as its records tell it: members, epochs, target and current assignments.

`apply` is the one way in which a group changes, on replay and live alike, and it gives back the record that undoes it.
Owns what can be derived from the facts: subscriptions, static members, who holds a partition. Decides nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import Enum
from typing import TypeVar

from bytemq.broker.coordinator.group.consumer.member import (
    NO_TARGET,
    NOT_JOINED,
    Assigned,
    CurrentAssignment,
    MemberMetadata,
    Target,
)
from bytemq.broker.coordinator.group.consumer.records import (
    ConsumerGroupRecord,
    CurrentRecord,
    GroupEpoch,
    GroupEpochRecord,
    MemberRecord,
    RegexRecord,
    ResolvedRegex,
    TargetEpoch,
    TargetEpochRecord,
    TargetRecord,
)
from bytemq.broker.coordinator.group.memory import GROUP_BYTES, MembershipMemory
from bytemq.protocol.error_codes import ErrorCode, KafkaError

FIRST_EPOCH = 1
_MAX_REMEMBERED = 10_000
_NO_EPOCH = GroupEpoch(0, 0)
_NO_TARGET_EPOCH = TargetEpoch(0, 0)


class ConsumerGroupState(Enum):
    """The value is the name that clients see. Derived, never stored."""

    EMPTY = "Empty"
    ASSIGNING = "Assigning"
    """The target assignment is older than the group's epoch."""
    RECONCILING = "Reconciling"
    """Not every member has its target yet."""
    STABLE = "Stable"


class ConsumerGroup:
    """One group. The dictionaries are by member id unless they say otherwise; look, don't touch."""

    __slots__ = (
        "_classic_protocols",
        "_is_subscribed_to",
        "_memory",
        "_subscriptions",
        "asks_at_ms",
        "classic_count",
        "connections",
        "current",
        "epoch",
        "group_id",
        "is_metadata_stale",
        "members",
        "owners",
        "regexes",
        "size_bytes",
        "static_members",
        "target_epoch",
        "targets",
    )

    def __init__(self, group_id: str, memory: MembershipMemory) -> None:
        self.group_id = group_id
        self.epoch: GroupEpoch | None = None
        self.target_epoch: TargetEpoch | None = None
        self.members: dict[str, MemberMetadata] = {}
        self.current: dict[str, CurrentAssignment] = {}
        self.targets: dict[str, Target] = {}
        self.static_members: dict[str, str] = {}
        self.regexes: dict[str, ResolvedRegex] = {}
        """By expression, as far as they have been resolved."""
        self.owners: dict[bytes, dict[int, str]] = {}
        """By topic id and partition: who has it, or has not given it up yet."""
        self.is_metadata_stale = True
        """The topics may have changed since the epoch was set. Not a fact of the log: after a restart we look again."""
        self.asks_at_ms: dict[str, int] = {}
        """When each member was told to send its next heartbeat. Not a fact of the log either."""
        self.connections: dict[str, str] = {}
        """By which connection each member's last heartbeat came; "": another coordinator heard it. Nor is this."""
        self.size_bytes = 0
        self.classic_count = 0
        """Members that speak the classic protocol."""
        self._classic_protocols: Counter[str] = Counter()
        self._subscriptions: Counter[tuple[frozenset[str], str]] = Counter()
        self._is_subscribed_to: dict[str, bool] = {}
        """What was asked since subscriptions changed."""
        self._memory = memory
        self._resize(GROUP_BYTES)

    # -- facts

    @property
    def is_blank(self) -> bool:
        """Nothing is known of it: it does not exist."""
        facts = (self.members, self.current, self.targets, self.regexes)
        return self.epoch is None and self.target_epoch is None and not any(facts)

    @property
    def group_epoch(self) -> int:
        return (self.epoch or _NO_EPOCH).epoch

    @property
    def metadata_hash(self) -> int:
        return (self.epoch or _NO_EPOCH).metadata_hash

    @property
    def assignment_epoch(self) -> int:
        return (self.target_epoch or _NO_TARGET_EPOCH).epoch

    @property
    def assignment_timestamp_ms(self) -> int:
        return (self.target_epoch or _NO_TARGET_EPOCH).timestamp_ms

    def current_of(self, member_id: str) -> CurrentAssignment:
        return self.current.get(member_id, NOT_JOINED)

    def target_of(self, member_id: str) -> Target:
        return self.targets.get(member_id, NO_TARGET)

    def require_member(self, member_id: str) -> MemberMetadata:
        """Raises KafkaError UNKNOWN_MEMBER_ID."""
        member = self.members.get(member_id)
        if member is None:
            text = f"Member {member_id} is not a member of group {self.group_id}."
            raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID, text)
        return member

    @property
    def state(self) -> ConsumerGroupState:
        if not self.members:
            return ConsumerGroupState.EMPTY
        if self.group_epoch > self.assignment_epoch:
            return ConsumerGroupState.ASSIGNING
        epoch = self.assignment_epoch
        if all(self.current_of(member_id).is_reconciled_to(epoch) for member_id in self.members):
            return ConsumerGroupState.STABLE
        return ConsumerGroupState.RECONCILING

    # -- members that speak the classic protocol

    def supports(self, protocol_names: Iterable[str]) -> bool:
        """Whether a classic member with these could join: one of them, at least, that every classic member has."""
        return any(self._classic_protocols[name] == self.classic_count for name in protocol_names)

    def waits_for_others(self, member_id: str) -> bool:
        """Whether somebody else still has a partition that this member should have."""
        assigned = self.current_of(member_id).assigned
        for topic_id, partitions in self.target_of(member_id).items():
            owners, has = self.owners.get(topic_id, {}), assigned.get(topic_id, {})
            if any(partition not in has and partition in owners for partition in partitions):
                return True
        return False

    # -- subscriptions

    @property
    def is_homogeneous(self) -> bool:
        """Whether all members are subscribed to the same topics."""
        return len(self._subscriptions) <= 1

    def subscriptions(self) -> Iterable[tuple[frozenset[str], str]]:
        """The different subscriptions: (topic names, expression)."""
        return self._subscriptions

    def uses_regex(self, regex: str) -> bool:
        return any(used == regex for _, used in self._subscriptions)

    def topics_of(self, subscription: tuple[frozenset[str], str]) -> frozenset[str]:
        """An expression that has not been resolved stands for nothing yet."""
        names, regex = subscription
        resolved = self.regexes.get(regex) if regex else None
        if resolved is None:
            return names
        return names | resolved.topics if names else resolved.topics

    def topics_of_member(self, member_id: str) -> frozenset[str]:
        member = self.members[member_id]
        return self.topics_of((member.topics, member.regex))

    def is_subscribed_to(self, topic: str) -> bool:
        """Whether any member is. Each may name a hundred thousand topics: they are never put together."""
        known = self._is_subscribed_to.get(topic)
        if known is None:
            if len(self._is_subscribed_to) >= _MAX_REMEMBERED:
                self._is_subscribed_to.clear()
            known = any(
                topic in names or (regex in self.regexes and topic in self.regexes[regex].topics)
                for names, regex in self._subscriptions
            )
            self._is_subscribed_to[topic] = known
        return known

    # -- changes

    def apply(self, record: ConsumerGroupRecord) -> ConsumerGroupRecord:
        """Takes in a record; gives the one that takes it back."""
        group_id = self.group_id
        if isinstance(record, CurrentRecord):
            before = self.current.get(record.member_id)
            self._set_current(record.member_id, before, record.value)
            return CurrentRecord(group_id, record.member_id, before)
        if isinstance(record, TargetRecord):
            target = self.targets.get(record.member_id)
            _put(self.targets, record.member_id, record.value)
            return TargetRecord(group_id, record.member_id, target)
        if isinstance(record, MemberRecord):
            member = self.members.get(record.member_id)
            self._set_member(record.member_id, member, record.value)
            return MemberRecord(group_id, record.member_id, member)
        if isinstance(record, RegexRecord):
            resolved = self.regexes.get(record.regex)
            _put(self.regexes, record.regex, record.value)
            self._is_subscribed_to.clear()
            return RegexRecord(group_id, record.regex, resolved)
        if isinstance(record, GroupEpochRecord):
            epoch, self.epoch = self.epoch, record.value
            return GroupEpochRecord(group_id, epoch)
        target_epoch, self.target_epoch = self.target_epoch, record.value
        return TargetEpochRecord(group_id, target_epoch)

    def forget_memory(self) -> None:
        """The group is gone: what it was counted for is free."""
        self._resize(-self.size_bytes)

    def _set_member(self, member_id: str, before: MemberMetadata | None, after: MemberMetadata | None) -> None:
        if before is not None:
            self._resize(-before.size_bytes)
            subscription = (before.topics, before.regex)
            self._subscriptions[subscription] -= 1
            if not self._subscriptions[subscription]:
                del self._subscriptions[subscription]
                self._is_subscribed_to.clear()
            self._count_classic(before, -1)
            if before.instance_id is not None and self.static_members.get(before.instance_id) == member_id:
                del self.static_members[before.instance_id]
        if after is not None:
            self._resize(after.size_bytes)
            subscription = (after.topics, after.regex)
            if subscription not in self._subscriptions:
                self._is_subscribed_to.clear()
            self._subscriptions[subscription] += 1
            self._count_classic(after, 1)
            if after.instance_id is not None:
                self.static_members[after.instance_id] = member_id
        else:
            self.asks_at_ms.pop(member_id, None)
            self.connections.pop(member_id, None)
        _put(self.members, member_id, after)

    def _count_classic(self, member: MemberMetadata, by: int) -> None:
        if member.classic is None:
            return
        self.classic_count += by
        for name, _ in member.classic.protocols:
            self._classic_protocols[name] += by
            if not self._classic_protocols[name]:
                del self._classic_protocols[name]

    def _set_current(self, member_id: str, before: CurrentAssignment | None, after: CurrentAssignment | None) -> None:
        if before is not None:
            self._release(member_id, before.assigned)
            self._release(member_id, before.revoking)
        if after is not None:
            for assigned in (after.assigned, after.revoking):
                for topic_id, partitions in assigned.items():
                    self.owners.setdefault(topic_id, {}).update(dict.fromkeys(partitions, member_id))
        _put(self.current, member_id, after)

    def _release(self, member_id: str, assigned: Assigned) -> None:
        for topic_id, partitions in assigned.items():
            owners = self.owners.get(topic_id)
            if owners is None:
                continue
            for partition in partitions:
                if owners.get(partition) == member_id:
                    del owners[partition]
            if not owners:
                del self.owners[topic_id]

    def _resize(self, by_bytes: int) -> None:
        self.size_bytes += by_bytes
        self._memory.used_bytes += by_bytes


_V = TypeVar("_V")


def _put(mapping: dict[str, _V], key: str, value: _V | None) -> None:
    if value is None:
        mapping.pop(key, None)
    else:
        mapping[key] = value
