"""LeaveGroup: members go, one (v0-2) or several (v3-5) at once, by member id or, by an administrator, by instance id
alone.
"""

from __future__ import annotations

from bytemq.broker.coordinator.group.classic_group import ClassicGroup
from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup
from bytemq.broker.coordinator.group.consumer.sessions import Sessions
from bytemq.broker.coordinator.group.environment import GroupEnvironment
from bytemq.broker.coordinator.group.rebalance import Rebalance
from bytemq.broker.coordinator.outcome import Outcome
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.leave_group import LeaveGroupRequest, LeaveGroupResponse, MemberIdentity, MemberResponse


class Leaving:
    """LeaveGroup over the groups of one shard."""

    __slots__ = ("_environment", "_rebalance", "_sessions")

    def __init__(self, environment: GroupEnvironment, rebalance: Rebalance, sessions: Sessions) -> None:
        self._environment = environment
        self._rebalance = rebalance
        self._sessions = sessions

    def leave(self, request: LeaveGroupRequest) -> Outcome[LeaveGroupResponse]:
        """An error for each member by itself; those that went cause one rebalance together.

        `request.members` is filled for every version.
        """
        consumers = self._environment.consumer_groups.get(request.group_id)
        if consumers is not None:
            return self._leave_consumers(consumers, request)
        group = self._environment.groups.get(request.group_id)
        responses = [
            MemberResponse(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                error_code=ErrorCode.UNKNOWN_MEMBER_ID if group is None else self._remove(group, member),
            )
            for member in request.members
        ]
        response = LeaveGroupResponse(members=responses)
        if group is None or all(member.error_code for member in responses):
            return Outcome(response)
        followed = self._rebalance.go_on_without(group)
        return Outcome(response, followed.records, followed.on_appended)

    def _leave_consumers(self, group: ConsumerGroup, request: LeaveGroupRequest) -> Outcome[LeaveGroupResponse]:
        """Classic members leave here; those of the new protocol by heartbeat, if no administrator removes them here."""
        responses: list[MemberResponse] = []
        leaving: dict[str, None] = {}
        for member in request.members:
            holder = None if member.group_instance_id is None else group.static_members.get(member.group_instance_id)
            member_id = member.member_id or holder or ""
            code = ErrorCode.NONE
            if member_id not in group.members or (member.group_instance_id is not None and holder is None):
                code = ErrorCode.UNKNOWN_MEMBER_ID
            elif member.group_instance_id is not None and holder != member_id:
                code = ErrorCode.FENCED_INSTANCE_ID
            else:
                leaving[member_id] = None
            responses.append(MemberResponse(member.member_id, member.group_instance_id, code))
        response = LeaveGroupResponse(members=responses)
        if not leaving:
            return Outcome(response)
        removal = self._sessions.remove(group, leaving)
        return Outcome(response, removal.records, removal.on_appended)

    def _remove(self, group: ClassicGroup, member: MemberIdentity) -> ErrorCode:
        if not member.member_id:
            member_id = group.static_members.get(member.group_instance_id or "")
            if member.group_instance_id is None or member_id is None:
                return ErrorCode.UNKNOWN_MEMBER_ID
            self._rebalance.drop(group, member_id)
            return ErrorCode.NONE
        if member.member_id not in group.pending_join:
            try:
                group.validate_member(member.member_id, member.group_instance_id)
            except KafkaError as error:
                return error.code
        self._rebalance.drop(group, member.member_id)
        return ErrorCode.NONE
