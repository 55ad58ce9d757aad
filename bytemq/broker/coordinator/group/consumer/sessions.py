"""The deadlines of a consumer group's members, and what ends with them.

A member that sends no heartbeat for the session timeout is out, and so is one that does not give up, within its
rebalance timeout, what it was asked to. Members that speak the classic protocol have that time to join again when they
are asked to, and then to ask for their assignment.
"""

from __future__ import annotations

from collections.abc import Collection

from bytemq.broker.coordinator.group.consumer.draft import Draft
from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup
from bytemq.broker.coordinator.group.consumer.member import CurrentAssignment, MemberState
from bytemq.broker.coordinator.group.consumer.migration import Migration
from bytemq.broker.coordinator.group.consumer.progress import assign_if_due
from bytemq.broker.coordinator.group.consumer.steps import refresh_epoch, remove_member
from bytemq.broker.coordinator.group.environment import GroupEnvironment
from bytemq.broker.coordinator.outcome import NOTHING, Outcome


class Sessions:
    """Over the consumer groups of one shard."""

    __slots__ = ("_environment", "_migration")

    def __init__(self, environment: GroupEnvironment, migration: Migration) -> None:
        self._environment = environment
        self._migration = migration

    def extend(self, group_id: str, member_id: str, timeout_ms: int | None = None) -> None:
        """A sign of life. Members that speak the classic protocol chose a timeout of their own."""
        key = self._environment.session_key(group_id, member_id)
        if timeout_ms is None:
            timeout_ms = self._environment.consumer_settings(group_id).session_timeout_ms
        self._environment.timers.schedule(key, timeout_ms, lambda: self._expire(group_id, member_id))

    def watch_revocation(
        self, group_id: str, member_id: str, before: CurrentAssignment, after: CurrentAssignment, timeout_ms: int
    ) -> None:
        """The member has its rebalance timeout to give up what it was asked for; the clock starts with the asking."""
        if after is before:
            return
        key = ("revocation", group_id, member_id)
        if after.state is not MemberState.UNREVOKED_PARTITIONS:
            self._environment.timers.cancel(key)
            return
        epoch = after.epoch
        self._environment.timers.schedule(key, timeout_ms, lambda: self._expire_revocation(group_id, member_id, epoch))

    def await_join(self, group_id: str, member_id: str, timeout_ms: int) -> None:
        """A classic member was asked to join again; asking twice gives no more time."""
        key = ("classic join", group_id, member_id)
        if not self._environment.timers.is_scheduled(key):
            self._environment.timers.schedule(key, timeout_ms, lambda: self._expire(group_id, member_id))

    def joined(self, group_id: str, member_id: str, session_timeout_ms: int, rebalance_timeout_ms: int) -> None:
        """A classic member has joined, and must ask for its assignment now. Told when that is committed: by then it may
        be out, or in a classic group, whose sessions are under the same keys.
        """
        if not self._has(group_id, member_id):
            return
        self._environment.timers.cancel(("classic join", group_id, member_id))
        self.extend(group_id, member_id, session_timeout_ms)
        key = ("classic sync", group_id, member_id)
        self._environment.timers.schedule(key, rebalance_timeout_ms, lambda: self._expire(group_id, member_id))

    def synced(self, group_id: str, member_id: str, session_timeout_ms: int) -> None:
        """A classic member has its assignment; as `joined`."""
        if not self._has(group_id, member_id):
            return
        self._environment.timers.cancel(("classic sync", group_id, member_id))
        self.extend(group_id, member_id, session_timeout_ms)

    def start(self, group: ConsumerGroup) -> None:
        """The group was loaded: everybody has a full session to report to the new coordinator."""
        for member_id, member in group.members.items():
            group.connections[member_id] = ""
            self.extend(group.group_id, member_id, member.session_timeout_ms)
            self.resume_revocation(group, member_id)

    def resume_revocation(self, group: ConsumerGroup, member_id: str) -> None:
        """The member has again what it has now. If it was asked to give something up, it has its full time for that."""
        member, current = group.members.get(member_id), group.current_of(member_id)
        if member is not None and member.classic is None and current.state is MemberState.UNREVOKED_PARTITIONS:
            timeout_ms = member.rebalance_timeout_ms
            self.watch_revocation(group.group_id, member_id, CurrentAssignment(), current, timeout_ms)

    def stop(self, group: ConsumerGroup) -> None:
        for member_id in group.members:
            self._cancel(group.group_id, member_id)

    def remove(self, group: ConsumerGroup, member_ids: Collection[str]) -> Outcome[None]:
        """Takes members out of the group. If the rest speaks the classic protocol, it is a classic group then."""
        loses_consumers = any(group.members[member_id].classic is None for member_id in member_ids)
        with Draft(group) as draft:
            for member_id in member_ids:
                remove_member(draft, member_id)
            if not (loses_consumers and self._migration.should_downgrade(group)):
                refresh_epoch(draft, self._environment.topics, bump=True)
                if not group.members:
                    assign_if_due(self._environment, draft)  # nobody will come to ask for it
                return Outcome(None, draft.records)
            classic = self._migration.downgraded(group)
        self.stop(group)
        return self._migration.downgrade(group, classic)

    def _has(self, group_id: str, member_id: str) -> bool:
        group = self._environment.consumer_groups.get(group_id)
        return group is not None and member_id in group.members

    def _expire(self, group_id: str, member_id: str) -> Outcome[None]:
        group = self._environment.consumer_groups.get(group_id)
        if group is None or member_id not in group.members:
            return NOTHING
        return self.remove(group, [member_id])

    def _expire_revocation(self, group_id: str, member_id: str, epoch: int) -> Outcome[None]:
        group = self._environment.consumer_groups.get(group_id)
        if group is None or member_id not in group.members:
            return NOTHING
        current = group.current_of(member_id)
        if current.epoch != epoch or current.state is not MemberState.UNREVOKED_PARTITIONS:
            return NOTHING
        return self.remove(group, [member_id])

    def _cancel(self, group_id: str, member_id: str) -> None:
        self._environment.timers.cancel(self._environment.session_key(group_id, member_id))
        for kind in ("revocation", "classic join", "classic sync"):
            self._environment.timers.cancel((kind, group_id, member_id))
