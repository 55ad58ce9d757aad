"""The course of a rebalance: collecting the members, fixing a generation, handing out its assignment, dropping who does
not keep up.

Kafka's GroupMetadataManager (classic part). Every function takes the group and returns what must be appended. The
states:

    Empty / Stable / CompletingRebalance --prepare--> PreparingRebalance --complete_join--> CompletingRebalance
    CompletingRebalance --the leader's SyncGroup is committed (sync.py)--> Stable
"""

from __future__ import annotations

from bytemq.broker.coordinator.group.classic_group import ClassicGroup
from bytemq.broker.coordinator.group.environment import GroupEnvironment
from bytemq.broker.coordinator.group.group_records import generation_record
from bytemq.broker.coordinator.group.member import Member
from bytemq.broker.coordinator.group.states import GroupState
from bytemq.broker.coordinator.outcome import NOTHING, Outcome
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.join_group import JoinGroupResponse, JoinGroupResponseMember
from bytemq.protocol.messages.sync_group import SyncGroupResponse

_CAN_REBALANCE = (GroupState.STABLE, GroupState.COMPLETING_REBALANCE, GroupState.EMPTY)

_LEAST_JOIN_RETRY_MS = 1_000
"""A client may ask for a rebalance timeout of nothing; waiting for the absent in steps of it would keep us busy."""


class Rebalance:
    """The steps of a rebalance, over the groups of one shard. Holds no state of its own."""

    __slots__ = ("_environment",)

    def __init__(self, environment: GroupEnvironment) -> None:
        self._environment = environment

    def prepare_or_complete(self, group: ClassicGroup) -> Outcome[None]:
        """After a member came, changed or went: start a rebalance, or see whether the one that runs is complete."""
        return self.prepare(group) if group.state in _CAN_REBALANCE else self.complete_if_all_joined(group)

    def prepare(self, group: ClassicGroup) -> Outcome[None]:
        """Starts collecting members. A new group waits group.initial.rebalance.delay.ms for more of them; others at
        most the rebalance timeout.
        """
        environment = self._environment
        if group.state is GroupState.COMPLETING_REBALANCE:
            self.reset_assignment(group, ErrorCode.REBALANCE_IN_PROGRESS)
        group.pending_sync.clear()
        environment.timers.cancel(("sync", group.group_id))
        is_initial = group.state is GroupState.EMPTY
        group.transition_to(GroupState.PREPARING_REBALANCE, environment.wall_ms())
        if is_initial:
            group.new_member_added = False
            delay_ms = environment.settings.initial_rebalance_delay_ms
            self._await_more_members(group, delay_ms, max(group.rebalance_timeout_ms() - delay_ms, 0))
            return NOTHING
        if group.has_all_members_joined():
            return self.complete_join(group)
        self._schedule_join_deadline(group)
        return NOTHING

    def complete_if_all_joined(self, group: ClassicGroup) -> Outcome[None]:
        """Completes the join phase when nobody is missing, but not a new group's: that one ends by its delay only."""
        if (
            group.state is not GroupState.PREPARING_REBALANCE
            or group.previous_state is GroupState.EMPTY
            or not group.has_all_members_joined()
        ):
            return NOTHING
        return self.complete_join(group)

    def go_on_without(self, group: ClassicGroup) -> Outcome[None]:
        """After members were dropped: the others begin anew, or need not wait for these any more."""
        if group.state in (GroupState.STABLE, GroupState.COMPLETING_REBALANCE):
            return self.prepare(group)
        return self.complete_if_all_joined(group)

    def complete_join(self, group: ClassicGroup) -> Outcome[None]:
        """Ends the join phase: dynamic members that have not rejoined are out, the others get the new generation."""
        environment = self._environment
        environment.timers.cancel(("join", group.group_id))
        for member in [m for m in group.members.values() if m.awaiting_join is None and not m.is_static]:
            self.drop(group, member.member_id)
        if not group.elect_joined_leader() and group.members:
            # Only static members that are away: they may come back until their sessions end.
            self._schedule_join_deadline(group, _LEAST_JOIN_RETRY_MS)
            return NOTHING
        group.start_generation(environment.wall_ms())
        if group.state is GroupState.EMPTY:
            # Should this append fail, the older generation comes back after a restart, and its sessions end. No harm.
            return Outcome(None, [generation_record(group, {})])
        for member in group.members.values():
            group.answer_join(member, generation_response(group, member.member_id))
            self.extend_session(group, member)
            member.is_new = False
            group.pending_sync.add(member.member_id)
        self._schedule_sync_deadline(group)
        return NOTHING

    def reset_assignment(self, group: ClassicGroup, error: ErrorCode) -> None:
        """The generation failed: nobody has an assignment, and who waits for one hears `error`."""
        for member in group.members.values():
            group.set_assignment(member, b"")
        self._answer_syncs(group, error)

    def assign(self, group: ClassicGroup, assignment: dict[str, bytes]) -> None:
        """Gives each member its share; those that the leader left out get an empty one."""
        for member in group.members.values():
            group.set_assignment(member, assignment.get(member.member_id, b""))
        self._answer_syncs(group, ErrorCode.NONE)

    def extend_session(self, group: ClassicGroup, member: Member, timeout_ms: int | None = None) -> None:
        """A sign of life: the member has its session timeout from now."""
        key = self._environment.session_key(group.group_id, member.member_id)
        delay_ms = member.session_timeout_ms if timeout_ms is None else timeout_ms
        group_id, member_id = group.group_id, member.member_id
        self._environment.timers.schedule(key, delay_ms, lambda: self.expire_session(group_id, member_id))

    def expect_pending_member(self, group: ClassicGroup, member_id: str, session_timeout_ms: int) -> None:
        """An id was given out (KIP-394): whoever got it must join with it before a session's time is over."""
        group.add_pending(member_id)
        group_id = group.group_id
        key = self._environment.session_key(group_id, member_id)
        self._environment.timers.schedule(key, session_timeout_ms, lambda: self.expire_session(group_id, member_id))

    def expire_session(self, group_id: str, member_id: str) -> Outcome[None]:
        """A session's deadline passed."""
        group = self._environment.groups.get(group_id)
        if group is None:
            return NOTHING
        if member_id in group.pending_join:
            group.remove_pending(member_id)
            return self.complete_if_all_joined(group)
        member = group.members.get(member_id)
        if member is None or member.has_satisfied_heartbeat():
            return NOTHING
        self.drop(group, member_id)
        return self.go_on_without(group)

    def resume(self, group: ClassicGroup) -> Outcome[None]:
        """The group is back, without timers: every member has a session again, and a rebalance begins again."""
        for member in group.members.values():
            self.extend_session(group, member)
        if group.state is GroupState.COMPLETING_REBALANCE:
            return self.prepare(group)
        if group.state is GroupState.PREPARING_REBALANCE:
            self._schedule_join_deadline(group, _LEAST_JOIN_RETRY_MS)
        return NOTHING

    def drop(self, group: ClassicGroup, member_id: str) -> None:
        """Removes a member or a pending one, with its timer; its parked requests hear that the member is unknown."""
        self._environment.timers.cancel(self._environment.session_key(group.group_id, member_id))
        member = group.members.get(member_id)
        if member is not None:
            unknown = ErrorCode.UNKNOWN_MEMBER_ID
            group.answer_join(member, JoinGroupResponse(error_code=unknown, protocol_name=None))
            member.answer_sync(SyncGroupResponse(error_code=unknown))
        group.remove(member_id)

    def received_sync(self, group: ClassicGroup, member_id: str) -> None:
        """The member has asked for its assignment; with the last one, the deadline for asking is off."""
        group.pending_sync.discard(member_id)
        if not group.pending_sync:
            self._environment.timers.cancel(("sync", group.group_id))

    # -- deadlines

    def _await_more_members(self, group: ClassicGroup, delay_ms: int, remaining_ms: int) -> None:
        group_id = group.group_id
        self._environment.timers.schedule(
            ("join", group_id), delay_ms, lambda: self._end_initial_delay(group_id, delay_ms, remaining_ms)
        )

    def _end_initial_delay(self, group_id: str, delay_ms: int, remaining_ms: int) -> Outcome[None]:
        """A new group goes on waiting while members keep coming, within its rebalance timeout."""
        group = self._environment.groups.get(group_id)
        if group is None or group.state is not GroupState.PREPARING_REBALANCE:
            return NOTHING
        if group.new_member_added and remaining_ms:
            group.new_member_added = False
            next_delay_ms = min(self._environment.settings.initial_rebalance_delay_ms, remaining_ms)
            self._await_more_members(group, next_delay_ms, max(remaining_ms - delay_ms, 0))
            return NOTHING
        return self.complete_join(group)

    def _schedule_join_deadline(self, group: ClassicGroup, least_delay_ms: int = 0) -> None:
        group_id = group.group_id
        delay_ms = max(group.rebalance_timeout_ms(), least_delay_ms)
        self._environment.timers.schedule(("join", group_id), delay_ms, lambda: self._end_join_phase(group_id))

    def _end_join_phase(self, group_id: str) -> Outcome[None]:
        group = self._environment.groups.get(group_id)
        if group is None or group.state is not GroupState.PREPARING_REBALANCE:
            return NOTHING
        return self.complete_join(group)

    def _schedule_sync_deadline(self, group: ClassicGroup) -> None:
        group_id, generation_id = group.group_id, group.generation_id
        self._environment.timers.schedule(
            ("sync", group_id), group.rebalance_timeout_ms(), lambda: self._end_sync_phase(group_id, generation_id)
        )

    def _end_sync_phase(self, group_id: str, generation_id: int) -> Outcome[None]:
        """Members that joined but never asked for their assignment are out (KAFKA-12890): the others rebalance without
        them.
        """
        group = self._environment.groups.get(group_id)
        if group is None or group.generation_id != generation_id or not group.pending_sync:
            return NOTHING
        if group.state not in (GroupState.COMPLETING_REBALANCE, GroupState.STABLE):
            return NOTHING
        for member_id in tuple(group.pending_sync):
            self.drop(group, member_id)
        return self.prepare(group)

    def _answer_syncs(self, group: ClassicGroup, error: ErrorCode) -> None:
        for member in group.members.values():
            # A session that ended while its SyncGroup was parked was overlooked, so it starts anew.
            if member.answer_sync(assignment_response(group, member, error)):
                self.extend_session(group, member)


def generation_response(group: ClassicGroup, member_id: str, *, skip_assignment: bool = False) -> JoinGroupResponse:
    """The present generation for one member; the leader also gets everybody's metadata, to assign by."""
    members: list[JoinGroupResponseMember] = []
    if group.leader_id == member_id:
        name = group.protocol_name or ""
        members = [
            JoinGroupResponseMember(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                metadata=member.metadata_of(name),
            )
            for member in group.members.values()
        ]
    return JoinGroupResponse(
        generation_id=group.generation_id,
        protocol_type=group.protocol_type,
        protocol_name=group.protocol_name,
        leader=group.leader_id or "",
        skip_assignment=skip_assignment,
        member_id=member_id,
        members=members,
    )


def assignment_response(group: ClassicGroup, member: Member, error: ErrorCode = ErrorCode.NONE) -> SyncGroupResponse:
    """The member's share of the present generation, or why there is none."""
    if error is not ErrorCode.NONE:
        return SyncGroupResponse(error_code=error)
    return SyncGroupResponse(
        protocol_type=group.protocol_type, protocol_name=group.protocol_name, assignment=member.assignment
    )
