"""JoinGroup: becoming a member, or saying that one still is (v0-9).

Notes: from v4 a dynamic member must come back with the id that it is given (KIP-394); static members keep their place
across restarts (KIP-345) and, without a change of protocol, without a rebalance (v9 says so by skip_assignment); v0 has
no rebalance timeout, the session's counts. Where Kafka never answers (one protocol named twice), INVALID_REQUEST at
once.
"""

from __future__ import annotations

from bytemq.broker.coordinator.group.classic_group import ClassicGroup
from bytemq.broker.coordinator.group.consumer.classic_members import ClassicMembers
from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup
from bytemq.broker.coordinator.group.consumer.steps import group_tombstones
from bytemq.broker.coordinator.group.environment import GroupEnvironment, GroupSettings, RequestOrigin
from bytemq.broker.coordinator.group.group_records import generation_record, new_group_record
from bytemq.broker.coordinator.group.member import (
    JoinReply,
    Member,
    Protocols,
    protocols_bytes,
    protocols_of,
)
from bytemq.broker.coordinator.group.memory import GROUP_BYTES
from bytemq.broker.coordinator.group.rebalance import Rebalance, generation_response
from bytemq.broker.coordinator.group.records import GroupRecord, fits_a_string
from bytemq.broker.coordinator.group.states import GroupState
from bytemq.broker.coordinator.outcome import NOTHING, Outcome, answered_error
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.join_group import JoinGroupRequest, JoinGroupResponse
from bytemq.protocol.messages.sync_group import SyncGroupResponse

UNKNOWN_MEMBER_ID = ""
_MEMBER_ID_REQUIRED_VERSION = 4
_SKIP_ASSIGNMENT_VERSION = 9
_MEMBER_BYTES = 1_000


class Joining:
    """JoinGroup over the groups of one shard. Requests have passed `check_request`.

    Every request is answered through its `reply`, exactly once, now or later.
    """

    __slots__ = ("_classic_members", "_environment", "_rebalance")

    def __init__(self, environment: GroupEnvironment, rebalance: Rebalance, classic_members: ClassicMembers) -> None:
        self._environment = environment
        self._rebalance = rebalance
        self._classic_members = classic_members

    def join(self, request: JoinGroupRequest, origin: RequestOrigin, reply: JoinReply) -> Outcome[None]:
        try:
            consumers = self._environment.consumer_groups.get(request.group_id)
            if consumers is not None and consumers.members:
                return self._join_consumers(consumers, request, origin, reply)
            tombstones = self._end_of_consumer_group(request)
            group = self._environment.groups.get(request.group_id)
            is_new_group = group is None
            if group is None and request.member_id != UNKNOWN_MEMBER_ID:
                raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
            if not self._has_room(group, request):
                return self._refuse_for_size(group, request, reply)
            if group is None:
                group = self._environment.create_group(request.group_id)
            try:
                outcome = self._join_group(group, request, origin, reply)
            except KafkaError:
                if is_new_group:
                    self._environment.forget_group(group)
                raise
        except KafkaError as error:
            reply(refusal(request, error.code))
            return NOTHING
        if is_new_group and not outcome.records:
            records = [*tombstones, new_group_record(group)]
            return Outcome(None, records, lambda code: self._group_created(group, code))
        return outcome

    def _join_consumers(
        self, group: ConsumerGroup, request: JoinGroupRequest, origin: RequestOrigin, reply: JoinReply
    ) -> Outcome[None]:
        """Here, Kafka repeats no member id in a refusal."""
        try:
            return self._classic_members.join(group, request, origin, reply)
        except KafkaError as error:
            reply(JoinGroupResponse(error_code=error.code, protocol_name=None))
            return NOTHING

    def _end_of_consumer_group(self, request: JoinGroupRequest) -> list[GroupRecord]:
        """An empty consumer group makes room for a classic one of its name; offsets stay."""
        consumers = self._environment.consumer_groups.get(request.group_id)
        if consumers is None:
            return []
        if request.member_id != UNKNOWN_MEMBER_ID:
            raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
        return [*group_tombstones(consumers)]

    def _join_group(
        self, group: ClassicGroup, request: JoinGroupRequest, origin: RequestOrigin, reply: JoinReply
    ) -> Outcome[None]:
        if not group.supports(request.protocol_type, {protocol.name for protocol in request.protocols}):
            raise KafkaError(ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
        if request.member_id != UNKNOWN_MEMBER_ID:
            return self._join_known(group, request, origin, reply)
        uuid = self._environment.new_uuid()
        if request.group_instance_id is not None:
            member_id = f"{request.group_instance_id}-{uuid}"
            if request.group_instance_id in group.static_members:
                return self._take_over(group, request, origin, member_id, reply)
            return self._add(group, request, origin, member_id, reply)
        member_id = f"{origin.client_id}-{uuid}"
        if origin.api_version < _MEMBER_ID_REQUIRED_VERSION:
            return self._add(group, request, origin, member_id, reply)
        _check_member_id(member_id)
        self._rebalance.expect_pending_member(group, member_id, request.session_timeout_ms)
        reply(JoinGroupResponse(error_code=ErrorCode.MEMBER_ID_REQUIRED, member_id=member_id, protocol_name=None))
        return NOTHING

    def _join_known(
        self, group: ClassicGroup, request: JoinGroupRequest, origin: RequestOrigin, reply: JoinReply
    ) -> Outcome[None]:
        member_id = request.member_id
        if member_id in group.pending_join:
            if request.group_instance_id is not None:
                # Kafka fails with an internal error: ids are never given out to static members.
                raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
            return self._add(group, request, origin, member_id, reply)
        group.validate_member(member_id, request.group_instance_id)
        member = group.members[member_id]
        protocols = protocols_of(request.protocols)
        if group.state is GroupState.EMPTY:
            raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
        unchanged = protocols == member.protocols
        if group.state is GroupState.COMPLETING_REBALANCE and unchanged:
            # The member may not have received the answer to its first request: it gets the generation again.
            reply(generation_response(group, member_id))
            return NOTHING
        if group.state is GroupState.STABLE and unchanged and group.leader_id != member_id:
            # Only the leader asks for a rebalance without a change of its own: it may have seen one in the topics.
            reply(generation_response(group, member_id))
            return NOTHING
        group.update(member, protocols, _rebalance_timeout_ms(request, origin), request.session_timeout_ms, reply)
        return self._rebalance.prepare_or_complete(group)

    def _add(
        self, group: ClassicGroup, request: JoinGroupRequest, origin: RequestOrigin, member_id: str, reply: JoinReply
    ) -> Outcome[None]:
        _check_member_id(member_id)
        member = Member(
            member_id=member_id,
            group_instance_id=request.group_instance_id,
            client_id=origin.client_id,
            client_host=origin.client_host,
            rebalance_timeout_ms=_rebalance_timeout_ms(request, origin),
            session_timeout_ms=request.session_timeout_ms,
            protocol_type=request.protocol_type,
            protocols=protocols_of(request.protocols),
            is_new=True,
        )
        if group.state is GroupState.PREPARING_REBALANCE and group.previous_state is GroupState.EMPTY:
            group.new_member_added = True
        group.add(member, reply)
        # A new member cannot send heartbeats while its request is parked, and its connection's end goes unseen:
        # should it have
        # given up, its retries would fill the group. So its request has an end, and one that is alive will retry.
        self._rebalance.extend_session(group, member, self._environment.settings.new_member_join_timeout_ms)
        return self._rebalance.prepare_or_complete(group)

    def _take_over(
        self, group: ClassicGroup, request: JoinGroupRequest, origin: RequestOrigin, member_id: str, reply: JoinReply
    ) -> Outcome[None]:
        """A static member is back under a new id."""
        _check_member_id(member_id)
        instance_id = request.group_instance_id or ""
        old_member_id = group.static_members[instance_id]
        old = group.members[old_member_id]
        old_terms = (old.protocols, old.rebalance_timeout_ms, old.session_timeout_ms)
        old_leader = group.leader_id
        self._environment.timers.cancel(self._environment.session_key(group.group_id, old_member_id))
        member = group.replace_static(instance_id, member_id)
        timeout_ms = _rebalance_timeout_ms(request, origin)
        group.update(member, protocols_of(request.protocols), timeout_ms, request.session_timeout_ms, reply)
        self._rebalance.extend_session(group, member)
        if group.state is GroupState.COMPLETING_REBALANCE:
            # The leader may have been told the old id already; what it assigns to that would be lost.
            return self._rebalance.prepare(group)
        if group.state is not GroupState.STABLE:
            return self._rebalance.complete_if_all_joined(group)
        if group.select_protocol() != group.protocol_name:
            return self._rebalance.prepare_or_complete(group)

        generation_id = group.generation_id

        def stored(code: ErrorCode) -> Outcome[None]:
            overtaken = group.state is not GroupState.STABLE or group.generation_id != generation_id
            is_gone = self._environment.groups.get(group.group_id) is not group
            # Not `member`: a later takeover that failed as well has just made this id's place anew.
            taker = group.members.get(member_id)
            if overtaken or is_gone or taker is None:
                return NOTHING  # a rebalance or another takeover answers
            if code is not ErrorCode.NONE:
                return self._undo_take_over(group, taker, old_member_id, old_terms, code)
            skip = origin.api_version >= _SKIP_ASSIGNMENT_VERSION
            response = generation_response(group, member_id, skip_assignment=skip and group.leader_id == member_id)
            if not skip:
                # Told that it leads, an older client would assign anew. It hears the former leader's id instead.
                response.leader, response.members = old_leader or "", []
            group.answer_join(taker, response)
            self._rebalance.extend_session(group, taker)
            return NOTHING

        assignment = {each.member_id: each.assignment for each in group.members.values()}
        return Outcome(None, [generation_record(group, assignment)], stored)

    def _undo_take_over(
        self,
        group: ClassicGroup,
        member: Member,
        old_member_id: str,
        old_terms: tuple[Protocols, int, int],
        code: ErrorCode,
    ) -> Outcome[None]:
        """The new id could not be stored: the old one holds, and the client hears why and tries again."""
        refusal = generation_response(group, member.member_id)
        refusal.members, refusal.member_id = [], UNKNOWN_MEMBER_ID
        refusal.error_code = answered_error(code)
        group.answer_join(member, refusal)
        self._environment.timers.cancel(self._environment.session_key(group.group_id, member.member_id))
        old = group.replace_static(member.group_instance_id or "", old_member_id)
        group.update(old, *old_terms, None)
        self._rebalance.extend_session(group, old)
        return NOTHING

    def _group_created(self, group: ClassicGroup, code: ErrorCode) -> Outcome[None]:
        """A group that could not be stored is none: nothing would survive it.

        Its members look for their coordinator again.
        """
        if code is ErrorCode.NONE or self._environment.groups.get(group.group_id) is not group:
            return NOTHING
        for member in group.members.values():
            response = JoinGroupResponse(error_code=answered_error(code), protocol_name=None)
            group.answer_join(member, response)
            member.answer_sync(SyncGroupResponse(error_code=answered_error(code)))
        self._environment.forget_group(group)
        return NOTHING

    def _has_room(self, group: ClassicGroup | None, request: JoinGroupRequest) -> bool:
        """group.max.size, as Kafka counts it in each state, and the node's memory for members."""
        member = None if group is None else group.members.get(request.member_id)
        needed_bytes = _MEMBER_BYTES + protocols_bytes((each.name, each.metadata) for each in request.protocols)
        if group is None:
            needed_bytes += GROUP_BYTES
        elif member is not None:
            needed_bytes -= member.size_bytes
        if needed_bytes > 0 and not self._environment.memory.has_room_for(needed_bytes):
            return False
        if group is None:
            return True
        max_size = self._environment.settings.max_size
        if group.state is GroupState.PREPARING_REBALANCE:
            # Counting those who wait kicks out the last to rejoin, should the limit have been lowered.
            return (member is not None and member.awaiting_join is not None) or group.awaiting_join_count < max_size
        if group.state in (GroupState.COMPLETING_REBALANCE, GroupState.STABLE):
            return member is not None or len(group.members) < max_size
        return True

    def _refuse_for_size(
        self, group: ClassicGroup | None, request: JoinGroupRequest, reply: JoinReply
    ) -> Outcome[None]:
        """The group is full: a member that was in it is out, too. One that is not there yet is not founded."""
        followed = NOTHING
        if group is not None and (request.member_id in group.members or request.member_id in group.pending_join):
            self._rebalance.drop(group, request.member_id)
            followed = self._rebalance.go_on_without(group)
        reply(
            JoinGroupResponse(
                error_code=ErrorCode.GROUP_MAX_SIZE_REACHED, member_id=UNKNOWN_MEMBER_ID, protocol_name=None
            )
        )
        return followed


def check_request(request: JoinGroupRequest, settings: GroupSettings) -> None:
    """Raises KafkaError for what is wrong with the request whoever coordinates the group."""
    if not request.group_id or not fits_a_string(request.group_id):
        raise KafkaError(ErrorCode.INVALID_GROUP_ID)
    if not settings.min_session_timeout_ms <= request.session_timeout_ms <= settings.max_session_timeout_ms:
        raise KafkaError(ErrorCode.INVALID_SESSION_TIMEOUT)
    names = [protocol.name for protocol in request.protocols]
    stored = (request.protocol_type, request.group_instance_id or "", *names)
    if len(set(names)) != len(names) or not all(map(fits_a_string, stored)):
        raise KafkaError(ErrorCode.INVALID_REQUEST)


def refusal(request: JoinGroupRequest, code: ErrorCode) -> JoinGroupResponse:
    """Kafka repeats the member's id in most refusals."""
    return JoinGroupResponse(error_code=code, member_id=request.member_id, protocol_name=None)


def _rebalance_timeout_ms(request: JoinGroupRequest, origin: RequestOrigin) -> int:
    return request.session_timeout_ms if origin.api_version == 0 else max(request.rebalance_timeout_ms, 0)


def _check_member_id(member_id: str) -> None:
    """An id made of an overlong client or instance id could not be stored."""
    if not fits_a_string(member_id):
        raise KafkaError(ErrorCode.INVALID_REQUEST)
