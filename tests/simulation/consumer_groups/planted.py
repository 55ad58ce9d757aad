"""Classic bugs of a group coordinator of KIP-848, planted on purpose. Each is a context manager that breaks it while it
lasts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from bytemq.broker.coordinator.group.consumer import (
    classic_members,
    heartbeat,
    offset_rules,
    progress,
    reconciliation,
    validation,
)
from bytemq.broker.coordinator.group.consumer.consumer_groups import ConsumerGroups
from bytemq.broker.coordinator.group.consumer.draft import Draft
from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup
from bytemq.broker.coordinator.group.consumer.reconciliation import reconcile
from bytemq.broker.coordinator.group.consumer.records import CurrentRecord, MemberRecord, TargetRecord
from bytemq.broker.coordinator.group.consumer.sessions import Sessions
from bytemq.broker.coordinator.group.consumer.steps import refresh_epoch
from bytemq.broker.coordinator.group.group_records import generation_record
from bytemq.broker.coordinator.group.sync import Syncing
from bytemq.broker.coordinator.outcome import NOTHING, Outcome
from bytemq.protocol.error_codes import ErrorCode

Planted = Callable[[], AbstractContextManager[Any]]


def stale_member_epoch_accepted() -> AbstractContextManager[Any]:
    return patch.object(heartbeat, "check_epoch", lambda current, epoch, owned: None)


def former_epoch_believed_whatever_it_owns() -> AbstractContextManager[Any]:
    return patch.object(validation, "_is_within", lambda owned, assigned: True)


def lost_assignment_not_told_again() -> AbstractContextManager[Any]:
    return patch.object(heartbeat, "_has_changed_connection", lambda group, member_id, connection_id: False)


def stale_epoch_may_commit() -> AbstractContextManager[Any]:
    return patch.object(offset_rules, "_check_epoch", lambda *_: None)


def partition_given_before_it_is_revoked() -> AbstractContextManager[Any]:
    def broken(*arguments: Any, is_free: Any, **more: Any) -> Any:
        return reconcile(*arguments, is_free=lambda topic_id, partition: True, **more)

    return patch.object(progress, "reconcile", broken)


def revocation_not_awaited() -> AbstractContextManager[Any]:
    return patch.object(reconciliation, "_owns_any", lambda owned, partitions: False)


def revoked_partitions_not_freed() -> AbstractContextManager[Any]:
    return patch.object(ConsumerGroup, "_release", lambda self, member_id, assigned: None)


def revocation_without_end() -> AbstractContextManager[Any]:
    return patch.object(Sessions, "_expire_revocation", lambda self, *_: NOTHING)


def silent_member_kept() -> AbstractContextManager[Any]:
    return patch.object(Sessions, "_expire", lambda self, *_: NOTHING)


def session_not_begun_after_restart() -> AbstractContextManager[Any]:
    return patch.object(Sessions, "start", lambda self, group: None)


def group_epoch_not_bumped() -> AbstractContextManager[Any]:
    def broken(draft: Any, topics: Any, *, bump: bool) -> None:
        refresh_epoch(draft, topics, bump=False)

    return patch.object(heartbeat, "refresh_epoch", broken)


def new_topics_not_looked_at() -> AbstractContextManager[Any]:
    return patch.object(ConsumerGroups, "topics_changed", lambda self: None)


def failed_write_not_taken_back() -> AbstractContextManager[Any]:
    return patch.object(ConsumerGroups, "roll_back", lambda self: self._undo.pop())


def failed_writes_taken_back_in_the_wrong_order() -> AbstractContextManager[Any]:
    def broken(self: ConsumerGroups) -> None:
        self.apply(self._undo.popleft())

    return patch.object(ConsumerGroups, "roll_back", broken)


def draft_not_taken_back() -> AbstractContextManager[Any]:
    return patch.object(Draft, "__exit__", lambda self, *_: None)


def static_member_not_fenced() -> AbstractContextManager[Any]:
    """Its successor has what it had, and it goes on."""

    def broken(draft: Draft, old_id: str, new_id: str) -> None:
        group = draft.group
        member, current, target = group.members[old_id], group.current_of(old_id), group.target_of(old_id)
        draft.add(MemberRecord(group.group_id, new_id, member))
        draft.add(TargetRecord(group.group_id, new_id, target))
        draft.add(CurrentRecord(group.group_id, new_id, current._replace(epoch=0, previous_epoch=0)))

    return patch.object(heartbeat, "replace_static_member", broken)


def classic_member_back_with_what_it_owned() -> AbstractContextManager[Any]:
    """Others have that by now, and it is let in."""
    return patch.object(classic_members, "_has", lambda current, owned: True)


def classic_generation_written_after_migration() -> AbstractContextManager[Any]:
    """The leader's assignment arrives when the group has become a consumer group, and is heeded."""

    def broken(self: Syncing, group: Any, request: Any) -> Any:
        assignment = {each.member_id: bytes(each.assignment) for each in request.assignments}
        generation_id = group.generation_id
        group.is_storing_assignment = True

        def stored(code: ErrorCode) -> Outcome[None]:
            if group.generation_id == generation_id and code is ErrorCode.NONE:
                self._rebalance.assign(group, assignment)
                group.state = group.state.STABLE
            return NOTHING

        return Outcome(None, [generation_record(group, assignment)], stored)

    return patch.object(Syncing, "_store_assignment", broken)


PLANTED: dict[Planted, int] = {
    stale_member_epoch_accepted: 51,
    former_epoch_believed_whatever_it_owns: 51,
    lost_assignment_not_told_again: 14,
    stale_epoch_may_commit: 20,
    partition_given_before_it_is_revoked: 0,
    revocation_not_awaited: 1,
    revoked_partitions_not_freed: 0,
    revocation_without_end: 73,
    silent_member_kept: 1,
    session_not_begun_after_restart: 12,
    group_epoch_not_bumped: 1,
    new_topics_not_looked_at: 35,
    failed_write_not_taken_back: 19,
    failed_writes_taken_back_in_the_wrong_order: 19,
    draft_not_taken_back: 0,
    static_member_not_fenced: 140,
    classic_member_back_with_what_it_owned: 35,
    classic_generation_written_after_migration: 65,
}
"""Each with a seed that finds it."""
