"""SyncGroup: the leader brings the assignment, everybody fetches its share (v0-5); and Heartbeat (v0-4).

Notes: from v5 the request names protocol type and protocol, which must be the group's (KIP-559). The group is Stable
when the leader's assignment is committed; until then all SyncGroup requests are parked. A heartbeat learns of a
rebalance by its error.
"""

from __future__ import annotations

from bytemq.broker.coordinator.group.classic_group import ClassicGroup
from bytemq.broker.coordinator.group.consumer.classic_members import ClassicMembers
from bytemq.broker.coordinator.group.environment import GroupEnvironment
from bytemq.broker.coordinator.group.group_records import generation_record
from bytemq.broker.coordinator.group.member import SyncReply
from bytemq.broker.coordinator.group.rebalance import Rebalance, assignment_response
from bytemq.broker.coordinator.group.states import GroupState
from bytemq.broker.coordinator.outcome import NOTHING, Outcome, answered_error
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.heartbeat import HeartbeatRequest
from bytemq.protocol.messages.sync_group import SyncGroupRequest, SyncGroupResponse


class Syncing:
    """SyncGroup and Heartbeat over the groups of one shard."""

    __slots__ = ("_classic_members", "_environment", "_rebalance")

    def __init__(self, environment: GroupEnvironment, rebalance: Rebalance, classic_members: ClassicMembers) -> None:
        self._environment = environment
        self._rebalance = rebalance
        self._classic_members = classic_members

    def sync(self, request: SyncGroupRequest, reply: SyncReply) -> Outcome[None]:
        """Answers through `reply`, exactly once, now or when the assignment is committed."""
        try:
            consumers = self._environment.consumer_groups.get(request.group_id)
            if consumers is not None:
                return self._classic_members.sync(consumers, request, reply)
            group = self._validated_group(request)
        except KafkaError as error:
            reply(SyncGroupResponse(error_code=error.code))
            return NOTHING
        member = group.members[request.member_id]
        if group.state is GroupState.STABLE:
            self._rebalance.received_sync(group, request.member_id)
            reply(assignment_response(group, member))
            return NOTHING
        member.park_sync(reply)
        self._rebalance.received_sync(group, request.member_id)
        if group.leader_id != request.member_id or group.is_storing_assignment:
            return NOTHING  # a generation is assigned once: what the leader sends again is not looked at
        return self._store_assignment(group, request)

    def heartbeat(self, request: HeartbeatRequest) -> ErrorCode:
        """Extends the member's session. REBALANCE_IN_PROGRESS tells it to join again."""
        consumers = self._environment.consumer_groups.get(request.group_id)
        group = self._environment.groups.get(request.group_id)
        try:
            if consumers is not None:
                return self._classic_members.heartbeat(consumers, request)
            if group is None:
                return ErrorCode.UNKNOWN_MEMBER_ID
            group.validate_member(request.member_id, request.group_instance_id)
        except KafkaError as error:
            return error.code
        if request.generation_id != group.generation_id:
            return ErrorCode.ILLEGAL_GENERATION
        self._rebalance.extend_session(group, group.members[request.member_id])
        if group.state is GroupState.PREPARING_REBALANCE:
            return ErrorCode.REBALANCE_IN_PROGRESS
        return ErrorCode.NONE

    def _validated_group(self, request: SyncGroupRequest) -> ClassicGroup:
        group = self._environment.groups.get(request.group_id)
        if group is None or group.state is GroupState.EMPTY:
            raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
        group.validate_member(request.member_id, request.group_instance_id)
        if request.generation_id != group.generation_id:
            raise KafkaError(ErrorCode.ILLEGAL_GENERATION)
        if _differs(request.protocol_type, group.protocol_type) or _differs(request.protocol_name, group.protocol_name):
            raise KafkaError(ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
        if group.state is GroupState.PREPARING_REBALANCE:
            raise KafkaError(ErrorCode.REBALANCE_IN_PROGRESS)
        return group

    def _store_assignment(self, group: ClassicGroup, request: SyncGroupRequest) -> Outcome[None]:
        if self._is_too_large(group, request):
            return self._not_stored(group, ErrorCode.RECORD_LIST_TOO_LARGE)
        assignment = {
            each.member_id: bytes(each.assignment) for each in request.assignments if each.member_id in group.members
        }
        generation_id = group.generation_id
        group.is_storing_assignment = True

        def stored(code: ErrorCode) -> Outcome[None]:
            # While the record was on its way, somebody may have joined or left: then this generation is over. Or the
            # group has become a consumer group.
            is_over = group.state is not GroupState.COMPLETING_REBALANCE or group.generation_id != generation_id
            if is_over or self._environment.groups.get(group.group_id) is not group:
                return NOTHING
            if code is not ErrorCode.NONE:
                return self._not_stored(group, code)
            self._rebalance.assign(group, assignment)
            group.transition_to(GroupState.STABLE, self._environment.wall_ms())
            return NOTHING

        return Outcome(None, [generation_record(group, assignment)], stored)

    def _is_too_large(self, group: ClassicGroup, request: SyncGroupRequest) -> bool:
        """For one record. Megabytes are not copied together to find that out."""
        name = group.protocol_name or ""
        size_bytes = sum(len(member.metadata_of(name)) for member in group.members.values())
        size_bytes += sum(len(each.assignment) for each in request.assignments if each.member_id in group.members)
        return size_bytes > self._environment.max_record_bytes()

    def _not_stored(self, group: ClassicGroup, code: ErrorCode) -> Outcome[None]:
        """The generation has no assignment; whoever asked for it hears why, and joins again."""
        self._rebalance.reset_assignment(group, answered_error(code))
        return self._rebalance.prepare_or_complete(group)


def _differs(asked: str | None, known: str | None) -> bool:
    """Clients before v5 say nothing."""
    return asked is not None and known is not None and asked != known
