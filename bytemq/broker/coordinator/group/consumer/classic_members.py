"""Members of a consumer group that speak the classic protocol: JoinGroup, SyncGroup and Heartbeat (KIP-848, migration).

Kafka's GroupMetadataManager.classicGroup*ToConsumerGroup. Such a member joins and is answered at once: its generation
is its member epoch, nobody leads, and its assignment comes from the server. Heartbeats tell it to join again when the
group has moved on, when it must give something up, or when what it waited for is free; it has its rebalance timeout for
that, and another one to ask for its assignment.
"""

from __future__ import annotations

from bytemq.broker.coordinator.group.consumer.draft import Draft
from bytemq.broker.coordinator.group.consumer.embedded_protocol import (
    Subscription,
    read_subscription,
    write_assignment,
)
from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup, ConsumerGroupState
from bytemq.broker.coordinator.group.consumer.member import (
    ClassicTerms,
    CurrentAssignment,
    MemberMetadata,
    MemberState,
    topics_bytes,
)
from bytemq.broker.coordinator.group.consumer.migration import Migration
from bytemq.broker.coordinator.group.consumer.progress import advance, assign_if_due, check_room, new_member_id
from bytemq.broker.coordinator.group.consumer.reconciliation import Owned
from bytemq.broker.coordinator.group.consumer.records import MemberRecord
from bytemq.broker.coordinator.group.consumer.sessions import Sessions
from bytemq.broker.coordinator.group.consumer.steps import forget_unused_regex, refresh_epoch, replace_static_member
from bytemq.broker.coordinator.group.consumer.validation import check_instance
from bytemq.broker.coordinator.group.environment import GroupEnvironment, RequestOrigin
from bytemq.broker.coordinator.group.member import JoinReply, SyncReply, protocols_bytes, protocols_of
from bytemq.broker.coordinator.group.subscription import CONSUMER_PROTOCOL_TYPE
from bytemq.broker.coordinator.outcome import NOTHING, CoordinatorRecord, Outcome, answered_error
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.heartbeat import HeartbeatRequest
from bytemq.protocol.messages.join_group import JoinGroupRequest, JoinGroupResponse
from bytemq.protocol.messages.sync_group import SyncGroupRequest, SyncGroupResponse

_MEMBER_ID_REQUIRED_VERSION = 4


class ClassicMembers:
    """Over the consumer groups of one shard. Refusals are raised as KafkaError, with nothing done."""

    __slots__ = ("_environment", "_migration", "_sessions")

    def __init__(self, environment: GroupEnvironment, sessions: Sessions, migration: Migration) -> None:
        self._environment = environment
        self._sessions = sessions
        self._migration = migration

    # -- JoinGroup

    def join(
        self, group: ConsumerGroup, request: JoinGroupRequest, origin: RequestOrigin, reply: JoinReply
    ) -> Outcome[None]:
        """A group with members. Answers through `reply`, exactly once, when what it did is committed."""
        is_unknown = not request.member_id
        member_id = request.member_id or new_member_id(self._environment)
        self._check(group, request, member_id)
        if is_unknown and request.group_instance_id is None and origin.api_version >= _MEMBER_ID_REQUIRED_VERSION:
            reply(JoinGroupResponse(error_code=ErrorCode.MEMBER_ID_REQUIRED, member_id=member_id, protocol_name=None))
            return NOTHING
        subscription = self._subscription(request)
        if not _has(self._what_it_has(group, request, member_id), subscription.owned):
            return self._put_out(group, member_id, reply)
        classic, is_settled = None, False
        with Draft(group) as draft:
            replaces_consumer = self._recognise(draft, request, member_id, is_unknown)
            changed = self._update_member(draft, request, origin, member_id, subscription)
            if changed or group.is_metadata_stale:
                refresh_epoch(draft, self._environment.topics, bump=changed)
            assign_if_due(self._environment, draft)
            current = advance(self._environment, draft, member_id, subscription.owned, changed)
            if replaces_consumer and self._migration.should_downgrade(group):
                classic, is_settled = self._migration.downgraded(group), group.state is ConsumerGroupState.STABLE
        group.is_metadata_stale = False
        response = JoinGroupResponse(
            generation_id=current.epoch,
            protocol_type=CONSUMER_PROTOCOL_TYPE,
            protocol_name=request.protocols[0].name,
            member_id=member_id,
        )
        records: list[CoordinatorRecord] = [*draft.records]
        undo = None
        if classic is not None:
            self._sessions.stop(group)
            _, records_of_both, undo, _ = self._migration.downgrade(group, classic, rebalances=not is_settled)
            records = [*records_of_both]

        def stored(code: ErrorCode) -> Outcome[None]:
            if undo is not None:
                undo(code)
            if code is not ErrorCode.NONE:
                refusal = answered_error(code)
                reply(JoinGroupResponse(error_code=refusal, member_id=request.member_id, protocol_name=None))
            else:
                if classic is None:
                    self._sessions.joined(group.group_id, member_id, request.session_timeout_ms, _timeout_ms(request))
                reply(response)
            return NOTHING

        return Outcome(None, records, stored)

    def _check(self, group: ConsumerGroup, request: JoinGroupRequest, member_id: str) -> None:
        needed_bytes = protocols_bytes((each.name, each.metadata) for each in request.protocols)
        if needed_bytes > self._environment.max_record_bytes():
            raise KafkaError(ErrorCode.UNKNOWN_SERVER_ERROR)  # as for any record that the log refuses
        known = group.members.get(member_id)
        if known is not None and known.classic is not None:
            needed_bytes = max(0, needed_bytes - protocols_bytes(known.classic.protocols))
        check_room(self._environment, group, member_id, joins=True, needed_bytes=needed_bytes)
        is_welcome = self._environment.consumer_settings(group.group_id).mixes
        names = (protocol.name for protocol in request.protocols)
        if not is_welcome or request.protocol_type != CONSUMER_PROTOCOL_TYPE or not group.supports(names):
            text = f"Member {member_id}'s protocols are not supported."
            raise KafkaError(ErrorCode.INCONSISTENT_GROUP_PROTOCOL, text)

    def _subscription(self, request: JoinGroupRequest) -> Subscription:
        """All protocols of a member carry the same one."""
        try:
            subscription = read_subscription(bytes(request.protocols[0].metadata), self._environment.topics)
        except ValueError as error:
            raise KafkaError(ErrorCode.INCONSISTENT_GROUP_PROTOCOL, str(error)) from error
        if not self._environment.memory.has_room_for(topics_bytes(subscription.topics)):
            raise KafkaError(ErrorCode.GROUP_MAX_SIZE_REACHED, "The members of all groups take too much memory.")
        return subscription

    def _what_it_has(self, group: ConsumerGroup, request: JoinGroupRequest, member_id: str) -> CurrentAssignment:
        """As the group knows it: of who is new nothing, of a static member what its former self has."""
        if request.group_instance_id is not None and request.member_id:
            check_instance(group, request.group_instance_id, member_id)
        return group.current_of(_former_self(group, request) or member_id)

    def _put_out(self, group: ConsumerGroup, member_id: str, reply: JoinReply) -> Outcome[None]:
        """It reads what it has lost, and does not know: its session has ended, or the group has been a classic one in
        between. Kafka lets it in, and believes it from then on. Here it hears that it is nobody, drops everything and
        joins anew; what it has goes to others at once.
        """
        removal = self._sessions.remove(group, [member_id]) if member_id in group.members else NOTHING

        def ended(code: ErrorCode) -> Outcome[None]:
            followed = removal.on_appended(code) if removal.on_appended is not None else NOTHING
            refusal = ErrorCode.UNKNOWN_MEMBER_ID if code is ErrorCode.NONE else answered_error(code)
            reply(JoinGroupResponse(error_code=refusal, protocol_name=None))
            return followed

        return Outcome(None, removal.records, ended)

    def _recognise(self, draft: Draft, request: JoinGroupRequest, member_id: str, is_unknown: bool) -> bool:
        """A dynamic member may come with any id. A static one takes its former self's place; whether that one did not
        speak the classic protocol.
        """
        group = draft.group
        holder = _former_self(group, request)
        if holder is None or not is_unknown:
            return False
        was_consumer = group.members[holder].classic is None
        replace_static_member(draft, holder, member_id)
        return was_consumer

    def _update_member(
        self,
        draft: Draft,
        request: JoinGroupRequest,
        origin: RequestOrigin,
        member_id: str,
        subscription: Subscription,
    ) -> bool:
        """Takes in what the member says of itself; whether its subscription calls for a new epoch."""
        group = draft.group
        before = group.members.get(member_id)
        after = MemberMetadata(
            instance_id=request.group_instance_id or (before.instance_id if before is not None else None),
            rack_id=subscription.rack_id or (before.rack_id if before is not None else None),
            client_id=origin.client_id,
            client_host=origin.client_host,
            topics=subscription.topics,
            regex="",
            rebalance_timeout_ms=_timeout_ms(request),
            assignor=before.assignor if before is not None else None,
            classic=ClassicTerms(request.session_timeout_ms, protocols_of(request.protocols)),
        )
        if after == before:
            return False
        draft.add(MemberRecord(group.group_id, member_id, after))
        if before is not None and before.regex:
            forget_unused_regex(draft, before.regex)
        return before is None or (before.topics, before.regex) != (after.topics, "")

    # -- SyncGroup

    def sync(self, group: ConsumerGroup, request: SyncGroupRequest, reply: SyncReply) -> Outcome[None]:
        """The member's assignment, answered when all that it depends on is committed."""
        member, terms = self._member(group, request.member_id, request.group_instance_id, request.generation_id)
        wrong_type = request.protocol_type not in (None, CONSUMER_PROTOCOL_TYPE)
        if wrong_type or request.protocol_name not in (None, terms.protocol_name):
            raise KafkaError(ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
        current = group.current_of(request.member_id)
        if group.group_epoch > current.epoch and current.state is not MemberState.UNREVOKED_PARTITIONS:
            self._sessions.await_join(group.group_id, request.member_id, member.rebalance_timeout_ms)
            raise KafkaError(ErrorCode.REBALANCE_IN_PROGRESS)
        response = SyncGroupResponse(
            protocol_type=request.protocol_type,
            protocol_name=request.protocol_name,
            assignment=write_assignment(current.assigned, self._environment.topics, terms.subscription),
        )

        def answered(code: ErrorCode) -> Outcome[None]:
            if code is not ErrorCode.NONE:
                reply(SyncGroupResponse(error_code=answered_error(code)))
            else:
                self._sessions.synced(group.group_id, request.member_id, terms.session_timeout_ms)
                reply(response)
            return NOTHING

        return Outcome(None, (), answered)

    # -- Heartbeat

    def heartbeat(self, group: ConsumerGroup, request: HeartbeatRequest) -> ErrorCode:
        member, terms = self._member(group, request.member_id, request.group_instance_id, request.generation_id)
        self._sessions.extend(group.group_id, request.member_id, terms.session_timeout_ms)
        current = group.current_of(request.member_id)
        waits = current.state is MemberState.UNRELEASED_PARTITIONS
        if (
            current.epoch >= group.group_epoch
            and current.state is not MemberState.UNREVOKED_PARTITIONS
            and not (waits and not group.waits_for_others(request.member_id))
        ):
            return ErrorCode.NONE
        self._sessions.await_join(group.group_id, request.member_id, member.rebalance_timeout_ms)
        return ErrorCode.REBALANCE_IN_PROGRESS

    def _member(
        self, group: ConsumerGroup, member_id: str, instance_id: str | None, generation_id: int
    ) -> tuple[MemberMetadata, ClassicTerms]:
        """Raises UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, ILLEGAL_GENERATION."""
        if instance_id is not None:
            check_instance(group, instance_id, member_id)
        member = group.require_member(member_id)
        if member.classic is None:
            text = f"Member {member_id} does not use the classic protocol."
            raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID, text)
        if generation_id != group.current_of(member_id).epoch:
            raise KafkaError(ErrorCode.ILLEGAL_GENERATION)
        return member, member.classic


def _former_self(group: ConsumerGroup, request: JoinGroupRequest) -> str | None:
    """Who has the instance id of a static member."""
    return None if request.group_instance_id is None else group.static_members.get(request.group_instance_id)


def _has(current: CurrentAssignment, owned: Owned) -> bool:
    """Whether what a member says that it owns is among what it has, or has been asked to give up."""
    return all(
        partitions <= current.assigned.get(topic_id, {}).keys() | current.revoking.get(topic_id, {}).keys()
        for topic_id, partitions in owned.items()
    )


def _timeout_ms(request: JoinGroupRequest) -> int:
    """Version 0 has no rebalance timeout: the session's counts."""
    return request.session_timeout_ms if request.rebalance_timeout_ms < 0 else request.rebalance_timeout_ms
