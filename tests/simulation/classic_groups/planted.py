"""Classic bugs of a coordinator of classic groups, planted on purpose. Each is a context manager that breaks it while
it lasts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from bytemq.broker.coordinator.group.classic_group import ClassicGroup
from bytemq.broker.coordinator.group.group_records import generation_record
from bytemq.broker.coordinator.group.join import Joining
from bytemq.broker.coordinator.group.leave import Leaving
from bytemq.broker.coordinator.group.member import Member
from bytemq.broker.coordinator.group.offset_store import OffsetStore
from bytemq.broker.coordinator.group.offsets import Offsets
from bytemq.broker.coordinator.group.rebalance import Rebalance
from bytemq.broker.coordinator.group.sync import Syncing
from bytemq.broker.coordinator.outcome import NOTHING, Outcome
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.leave_group import LeaveGroupRequest

Planted = Callable[[], AbstractContextManager[Any]]


def generation_not_bumped() -> AbstractContextManager[Any]:
    start_generation = ClassicGroup.start_generation

    def broken(self: ClassicGroup, now_ms: int) -> None:
        generation_id = max(1, self.generation_id)
        start_generation(self, now_ms)
        self.generation_id = generation_id

    return patch.object(ClassicGroup, "start_generation", broken)


def generation_assigned_twice() -> AbstractContextManager[Any]:
    """What the leader sends again while its assignment is on its way is heeded."""
    store = Syncing._store_assignment

    def broken(self: Syncing, group: ClassicGroup, request: Any) -> Any:
        outcome = store(self, group, request)
        group.is_storing_assignment = False
        return outcome

    return patch.object(Syncing, "_store_assignment", broken)


def generation_not_checked() -> AbstractContextManager[Any]:
    """Whoever syncs gets the present generation's assignment, and a former leader makes it."""
    validated = Syncing._validated_group

    def broken(self: Syncing, request: Any) -> ClassicGroup:
        group = self._environment.groups.get(request.group_id)
        if group is not None:
            request.generation_id = group.generation_id
        return validated(self, request)

    return patch.object(Syncing, "_validated_group", broken)


def stale_generation_may_commit() -> AbstractContextManager[Any]:
    group_for_commit = Offsets._group_for_commit

    def broken(self: Offsets, request: Any, origin: Any) -> ClassicGroup:
        group = self._environment.groups.get(request.group_id)
        if group is not None and request.generation_id_or_member_epoch >= 0:
            request.generation_id_or_member_epoch = group.generation_id
        return group_for_commit(self, request, origin)

    return patch.object(Offsets, "_group_for_commit", broken)


def assigned_before_it_is_written() -> AbstractContextManager[Any]:
    store = Syncing._store_assignment

    def broken(self: Syncing, group: ClassicGroup, request: Any) -> Any:
        outcome = store(self, group, request)
        assert outcome.on_appended is not None
        outcome.on_appended(ErrorCode.NONE)
        return Outcome(None, outcome.records)

    return patch.object(Syncing, "_store_assignment", broken)


def failed_assignment_kept() -> AbstractContextManager[Any]:
    store = Syncing._store_assignment

    def broken(self: Syncing, group: ClassicGroup, request: Any) -> Any:
        response, records, stored, envelope = store(self, group, request)
        assert stored is not None
        return Outcome(response, records, lambda code: stored(ErrorCode.NONE), envelope)

    return patch.object(Syncing, "_store_assignment", broken)


def overtaken_assignment_heeded() -> AbstractContextManager[Any]:
    """Somebody came or went while the assignment was on its way, and it holds all the same."""

    def broken(self: Syncing, group: ClassicGroup, request: Any) -> Any:
        assignment = {each.member_id: bytes(each.assignment) for each in request.assignments}
        group.is_storing_assignment = True

        def stored(code: ErrorCode) -> Outcome[None]:
            if code is ErrorCode.NONE and group.members:
                self._rebalance.assign(group, assignment)
                group.state = group.state.STABLE
            return NOTHING

        return Outcome(None, [generation_record(group, assignment)], stored)

    return patch.object(Syncing, "_store_assignment", broken)


def static_member_not_fenced() -> AbstractContextManager[Any]:
    """The old instance goes on beside the one that has taken its place."""
    replace_static = ClassicGroup.replace_static

    def broken(self: ClassicGroup, group_instance_id: str, new_member_id: str) -> Member:
        old_member_id = self.static_members[group_instance_id]
        old = self.members[old_member_id]
        new = replace_static(self, group_instance_id, new_member_id)
        self.members[old_member_id] = old
        return new

    return patch.object(ClassicGroup, "replace_static", broken)


def take_over_not_written() -> AbstractContextManager[Any]:
    """A static member is back under a new id, which a restart forgets."""
    take_over = Joining._take_over

    def broken(self: Joining, *arguments: Any) -> Any:
        outcome = take_over(self, *arguments)
        if not outcome.records or outcome.on_appended is None:
            return outcome
        outcome.on_appended(ErrorCode.NONE)
        return NOTHING

    return patch.object(Joining, "_take_over", broken)


def failed_take_over_kept() -> AbstractContextManager[Any]:
    return patch.object(Joining, "_undo_take_over", lambda self, *_: NOTHING)


def displaced_request_unanswered() -> AbstractContextManager[Any]:
    """Who asks twice is answered once."""

    def broken(self: ClassicGroup, member: Member, reply: Any) -> None:
        self.awaiting_join_count += (reply is not None) - (member.awaiting_join is not None)
        member.awaiting_join = reply

    return patch.object(ClassicGroup, "_park_join", broken)


def silent_member_kept() -> AbstractContextManager[Any]:
    return patch.object(Rebalance, "expire_session", lambda self, *_: NOTHING)


def absent_member_kept() -> AbstractContextManager[Any]:
    """Who does not join again in time is in the next generation."""

    def broken(self: Rebalance, group: ClassicGroup, member_id: str) -> None:
        member = group.members.get(member_id)
        if member is None or member.awaiting_join is not None:
            drop(self, group, member_id)

    drop = Rebalance.drop
    return patch.object(Rebalance, "drop", broken)


def left_without_a_rebalance() -> AbstractContextManager[Any]:
    leave = Leaving.leave

    def broken(self: Leaving, request: LeaveGroupRequest) -> Any:
        with patch.object(Rebalance, "go_on_without", lambda self, group: NOTHING):
            return leave(self, request)

    return patch.object(Leaving, "leave", broken)


def uncommitted_offset_given() -> AbstractContextManager[Any]:
    stage = OffsetStore.stage

    def broken(self: OffsetStore, sequence: int, record: Any) -> None:
        stage(self, sequence, record)
        self.apply(record)

    return patch.object(OffsetStore, "stage", broken)


def failed_commit_kept() -> AbstractContextManager[Any]:
    return patch.object(OffsetStore, "roll_back", OffsetStore.commit)


PLANTED: dict[Planted, int] = {
    generation_not_bumped: 1,
    generation_assigned_twice: 47,
    generation_not_checked: 50,
    stale_generation_may_commit: 10,
    assigned_before_it_is_written: 0,
    failed_assignment_kept: 0,
    overtaken_assignment_heeded: 10,
    static_member_not_fenced: 0,
    take_over_not_written: 6,
    failed_take_over_kept: 234,
    displaced_request_unanswered: 1,
    silent_member_kept: 1,
    absent_member_kept: 0,
    left_without_a_rebalance: 6,
    uncommitted_offset_given: 0,
    failed_commit_kept: 0,
}
"""Each with a seed that finds it."""
