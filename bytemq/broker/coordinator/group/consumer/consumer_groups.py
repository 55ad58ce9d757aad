"""The consumer groups of one shard: requests on them, and their records on the way into the log and out of it.

A record is applied when it is sent off, so that the next request sees it, and taken back should its write fail. What
undoes the records that are not committed yet is kept here, oldest first, as they are committed in that order.
"""

from __future__ import annotations

from collections import deque

from bytemq.broker.coordinator.group.consumer.classic_members import ClassicMembers
from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup
from bytemq.broker.coordinator.group.consumer.heartbeat import Heartbeats
from bytemq.broker.coordinator.group.consumer.migration import Migration
from bytemq.broker.coordinator.group.consumer.records import (
    ConsumerGroupRecord,
    CurrentRecord,
    GroupEpochRecord,
    MemberRecord,
)
from bytemq.broker.coordinator.group.consumer.regexes import Regexes
from bytemq.broker.coordinator.group.consumer.sessions import Sessions
from bytemq.broker.coordinator.group.environment import GroupEnvironment
from bytemq.broker.coordinator.group.rebalance import Rebalance


class ConsumerGroups:
    """The part of a shard that KIP-848 is."""

    __slots__ = ("_environment", "_undo", "classic_members", "heartbeats", "regexes", "sessions")

    def __init__(self, environment: GroupEnvironment, rebalance: Rebalance) -> None:
        self._environment = environment
        self._undo: deque[ConsumerGroupRecord] = deque()
        migration = Migration(environment, rebalance)
        self.sessions = Sessions(environment, migration)
        self.regexes = Regexes(environment)
        self.heartbeats = Heartbeats(environment, self.sessions, self.regexes, migration)
        self.classic_members = ClassicMembers(environment, self.sessions, migration)

    # -- records

    def apply(self, record: ConsumerGroupRecord) -> ConsumerGroupRecord:
        """Takes in a record; gives what undoes it. A group exists as long as anything is known of it."""
        groups = self._environment.consumer_groups
        group = groups.get(record.group_id)
        if group is None:
            group = groups[record.group_id] = ConsumerGroup(record.group_id, self._environment.memory)
        undo = group.apply(record)
        if record.value is None and group.is_blank:
            self._forget(group)
        return undo

    def stage(self, record: ConsumerGroupRecord) -> None:
        self._undo.append(self.apply(record))

    def commit(self) -> None:
        self._undo.popleft()

    def roll_back(self) -> None:
        """The latest staged record will never be in the log. A member that is back has a session again, and time to
        give up what it was asked to: its deadlines may have passed meanwhile; and is told its assignment again, for by
        which connection it came is forgotten. An epoch that is taken back may have been that of topics which have
        changed: they are looked at again.
        """
        undo = self._undo.pop()
        self.apply(undo)
        group = self._environment.consumer_groups.get(undo.group_id)
        if isinstance(undo, GroupEpochRecord) and group is not None:
            group.is_metadata_stale = True
        if isinstance(undo, CurrentRecord) and group is not None:
            self.sessions.resume_revocation(group, undo.member_id)
        if isinstance(undo, MemberRecord) and undo.value is not None:
            if group is not None:
                group.connections.setdefault(undo.member_id, "")
            self.sessions.extend(undo.group_id, undo.member_id, undo.value.session_timeout_ms)

    # -- life

    def loaded(self) -> None:
        for group in self._environment.consumer_groups.values():
            self.sessions.start(group)

    def unloaded(self) -> None:
        for group in list(self._environment.consumer_groups.values()):
            self.sessions.stop(group)
            self._forget(group)
        self._undo.clear()

    def topics_changed(self) -> None:
        """Topics came, went or grew. A deletion tells no name: every group looks again at its next heartbeat."""
        for group in self._environment.consumer_groups.values():
            group.is_metadata_stale = True

    def _forget(self, group: ConsumerGroup) -> None:
        if self._environment.consumer_groups.pop(group.group_id, None) is not None:
            self.regexes.stop(group.group_id)
            group.forget_memory()
