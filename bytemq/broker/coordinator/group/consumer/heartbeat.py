"""ConsumerGroupHeartbeat (v0-1): joining, following the target assignment, leaving, all in one request.

Kafka's GroupMetadataManager.consumerGroupHeartbeat. A heartbeat takes three steps: the member as it says it is (a new
subscription bumps the group's epoch), a new target assignment if the group's epoch is ahead of it and the assignment
interval has passed, and the member's own next step towards its target. Notes: v0 members may leave their id to us; a
member that joins with epoch 0 is never fenced; a group's first member gets epoch 2.
"""

from __future__ import annotations

from collections.abc import Mapping

from bytemq.broker.coordinator.group.classic_group import ClassicGroup
from bytemq.broker.coordinator.group.consumer.draft import Draft
from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup
from bytemq.broker.coordinator.group.consumer.member import (
    JOINING_EPOCH,
    NO_PARTITIONS,
    STATIC_LEAVING_EPOCH,
    Assigned,
    CurrentAssignment,
    MemberMetadata,
    MemberState,
    topics_bytes,
)
from bytemq.broker.coordinator.group.consumer.migration import Migration, take_over_members
from bytemq.broker.coordinator.group.consumer.pace import next_heartbeat_ms
from bytemq.broker.coordinator.group.consumer.progress import advance, assign_if_due, check_room, new_member_id
from bytemq.broker.coordinator.group.consumer.reconciliation import Owned, put_together
from bytemq.broker.coordinator.group.consumer.records import CurrentRecord, MemberRecord
from bytemq.broker.coordinator.group.consumer.regex import compile_regex
from bytemq.broker.coordinator.group.consumer.regexes import Regexes
from bytemq.broker.coordinator.group.consumer.sessions import Sessions
from bytemq.broker.coordinator.group.consumer.steps import (
    forget_unused_regex,
    found_group,
    refresh_epoch,
    replace_static_member,
)
from bytemq.broker.coordinator.group.consumer.validation import (
    check_epoch,
    check_instance,
    is_leaving,
)
from bytemq.broker.coordinator.group.environment import GroupEnvironment, RequestOrigin
from bytemq.broker.coordinator.group.records import GroupMetadataRecord
from bytemq.broker.coordinator.outcome import CoordinatorRecord, Outcome
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.consumer_group_heartbeat import (
    Assignment,
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    TopicPartitions,
)

Response = ConsumerGroupHeartbeatResponse


class Heartbeats:
    """ConsumerGroupHeartbeat over the groups of one shard. Requests have passed `validation.check_request`.

    Refusals are raised as KafkaError, with nothing done.
    """

    __slots__ = ("_environment", "_migration", "_regexes", "_sessions")

    def __init__(
        self, environment: GroupEnvironment, sessions: Sessions, regexes: Regexes, migration: Migration
    ) -> None:
        self._environment = environment
        self._sessions = sessions
        self._regexes = regexes
        self._migration = migration

    def heartbeat(self, request: ConsumerGroupHeartbeatRequest, origin: RequestOrigin) -> Outcome[Response]:
        if request.subscribed_topic_regex:
            compile_regex(request.subscribed_topic_regex)
        return self._leave(request) if is_leaving(request) else self._stay(request, origin)

    # -- staying

    def _stay(self, request: ConsumerGroupHeartbeatRequest, origin: RequestOrigin) -> Outcome[Response]:
        group, replaced = self._group_for(request)
        environment = self._environment
        needed_bytes = topics_bytes(request.subscribed_topic_names or ())
        joins = request.member_epoch == JOINING_EPOCH
        member_id = request.member_id or new_member_id(environment)
        owned = _owned(request)
        with Draft(group) as draft:
            if replaced is not None and replaced.members:
                take_over_members(draft, replaced, environment.topics)
            elif group.is_blank:
                found_group(draft)
            check_room(environment, group, member_id, joins=joins, needed_bytes=needed_bytes)
            self._recognise(draft, request, member_id, owned)
            changed = self._update_member(draft, request, origin, member_id)
            if changed or group.is_metadata_stale:
                refresh_epoch(draft, environment.topics, bump=changed)
            assign_if_due(environment, draft)
            before = group.current_of(member_id)
            after = advance(environment, draft, member_id, owned, changed)
            response = self._respond(group, request, origin, member_id, before, after)
            needs_regex = self._regexes.is_wanted(group, member_id)
        group.is_metadata_stale = False
        self._sessions.extend(group.group_id, member_id)
        self._sessions.watch_revocation(group.group_id, member_id, before, after, self._timeout_ms(draft, member_id))
        if needs_regex:
            self._regexes.resolve_soon(group.group_id)
        records: list[CoordinatorRecord] = [*draft.records]
        if replaced is None:
            return Outcome(response, records)
        ended = self._migration.leave_to_consumers(replaced)
        for each in replaced.members.values():
            self._sessions.extend(group.group_id, each.member_id, each.session_timeout_ms)
        return Outcome(response, [GroupMetadataRecord(group.group_id, None), *records], ended)

    def _group_for(self, request: ConsumerGroupHeartbeatRequest) -> tuple[ConsumerGroup, ClassicGroup | None]:
        """The group, maybe a new one, and the classic group whose place that one takes."""
        environment = self._environment
        group = environment.consumer_groups.get(request.group_id)
        if group is not None:
            return group, None
        classic = environment.groups.get(request.group_id)
        if request.member_epoch != JOINING_EPOCH:
            kind = f"Group {request.group_id} is not a consumer group."
            text = kind if classic is not None else f"Consumer group {request.group_id} not found."
            raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND, text)
        if classic is not None and not self._migration.can_upgrade(classic):
            raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND, f"Group {request.group_id} is not a consumer group.")
        founded = ConsumerGroup(request.group_id, environment.memory)
        founded.forget_memory()  # what counts is the one that the records will make
        return founded, classic

    def _recognise(
        self, draft: Draft, request: ConsumerGroupHeartbeatRequest, member_id: str, owned: Owned | None
    ) -> None:
        """Who this is: a member that is believed, a new one, or a static one that is back under another id."""
        group = draft.group
        joins = request.member_epoch == JOINING_EPOCH
        if request.instance_id is not None:
            holder = group.static_members.get(request.instance_id)
            if not joins:
                check_instance(group, request.instance_id, member_id)
            elif holder is not None and holder != member_id:
                is_classic = group.members[holder].classic is not None
                if not is_classic and group.current_of(holder).epoch != STATIC_LEAVING_EPOCH:
                    text = f"Static member {member_id} with instance id {request.instance_id} cannot join the group "
                    text += f"because the instance id is owned by {holder} member."
                    raise KafkaError(ErrorCode.UNRELEASED_INSTANCE_ID, text)
                replace_static_member(draft, holder, member_id)
        if not joins:
            group.require_member(member_id)
        check_epoch(group.current_of(member_id), request.member_epoch, owned)

    def _update_member(
        self, draft: Draft, request: ConsumerGroupHeartbeatRequest, origin: RequestOrigin, member_id: str
    ) -> bool:
        """Takes in what the member says of itself; whether its subscription calls for a new epoch."""
        group = draft.group
        before = group.members.get(member_id)
        after = _updated(before, request, origin)
        if after == before:
            return False
        draft.add(MemberRecord(group.group_id, member_id, after))
        old_topics, old_regex = (before.topics, before.regex) if before is not None else (frozenset(), "")
        if old_regex and old_regex != after.regex:
            forget_unused_regex(draft, old_regex)
        # An expression that is new to the group has no topics yet; the epoch follows when it has.
        regex_is_known = not after.regex or after.regex in group.regexes
        return old_topics != after.topics or (old_regex != after.regex and regex_is_known)

    def _respond(
        self,
        group: ConsumerGroup,
        request: ConsumerGroupHeartbeatRequest,
        origin: RequestOrigin,
        member_id: str,
        before: CurrentAssignment,
        after: CurrentAssignment,
    ) -> Response:
        """The assignment is told to a member that joins, that says everything, or whose assignment has changed; and to
        one that comes by another connection than before, for the answer that told it may have gone with that one.
        """
        subscribes = request.subscribed_topic_names is not None or request.subscribed_topic_regex is not None
        is_full = request.rebalance_timeout_ms != -1 and subscribes and request.topic_partitions is not None
        interval_ms = self._environment.consumer_settings(request.group_id).heartbeat_interval_ms
        response = Response(
            member_id=member_id,
            member_epoch=after.epoch,
            heartbeat_interval_ms=next_heartbeat_ms(group, member_id, after, self._environment.wall_ms(), interval_ms),
        )
        may_not_know = _has_changed_connection(group, member_id, origin.connection_id) or is_full
        joins = request.member_epoch == JOINING_EPOCH
        if joins or may_not_know or not _same_partitions(before.assigned, after.assigned):
            partitions = [TopicPartitions(topic_id, sorted(epochs)) for topic_id, epochs in after.assigned.items()]
            response.assignment = Assignment(partitions)
        return response

    def _timeout_ms(self, draft: Draft, member_id: str) -> int:
        for record in reversed(draft.records):
            if isinstance(record, MemberRecord) and record.member_id == member_id and record.value is not None:
                return record.value.rebalance_timeout_ms
        return draft.group.members[member_id].rebalance_timeout_ms

    # -- leaving

    def _leave(self, request: ConsumerGroupHeartbeatRequest) -> Outcome[Response]:
        group = self._environment.consumer_groups.get(request.group_id)
        if group is None:
            is_classic = request.group_id in self._environment.groups
            what = "is not a consumer group" if is_classic else "not found"
            raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND, f"Group {request.group_id} {what}.")
        if request.instance_id is not None:
            check_instance(group, request.instance_id, request.member_id)
        group.require_member(request.member_id)
        response = Response(member_id=request.member_id, member_epoch=request.member_epoch)
        if request.member_epoch != STATIC_LEAVING_EPOCH:
            removal = self._sessions.remove(group, [request.member_id])
            return Outcome(response, removal.records, removal.on_appended)
        current = group.current_of(request.member_id)
        leaving = current._replace(epoch=STATIC_LEAVING_EPOCH, revoking=NO_PARTITIONS, state=MemberState.STABLE)
        return Outcome(response, [CurrentRecord(group.group_id, request.member_id, leaving)])


def _updated(
    before: MemberMetadata | None, request: ConsumerGroupHeartbeatRequest, origin: RequestOrigin
) -> MemberMetadata:
    """What a request does not say stays as it is."""
    if before is None:
        before = MemberMetadata(None, None, "", "", frozenset(), "", -1, None)
    names = request.subscribed_topic_names
    topics = before.topics if names is None else frozenset(names)
    return MemberMetadata(
        instance_id=request.instance_id or before.instance_id,
        rack_id=request.rack_id or before.rack_id,
        client_id=origin.client_id,
        client_host=origin.client_host,
        topics=before.topics if topics == before.topics else topics,
        regex=before.regex if request.subscribed_topic_regex is None else request.subscribed_topic_regex,
        rebalance_timeout_ms=(
            before.rebalance_timeout_ms if request.rebalance_timeout_ms == -1 else request.rebalance_timeout_ms
        ),
        assignor=request.server_assignor or before.assignor,
        classic=None,
    )


def _owned(request: ConsumerGroupHeartbeatRequest) -> Owned | None:
    if request.topic_partitions is None:
        return None
    return put_together((topic.topic_id, topic.partitions) for topic in request.topic_partitions)


def _has_changed_connection(group: ConsumerGroup, member_id: str, connection_id: str) -> bool:
    """Whether the member's heartbeat before this one came by another connection. The group remembers this one."""
    before = group.connections.get(member_id, connection_id)
    group.connections[member_id] = connection_id
    return before != connection_id


def _same_partitions(one: Assigned, other: Assigned) -> bool:
    return one is other or _keys(one) == _keys(other)


def _keys(assigned: Assigned) -> Mapping[bytes, frozenset[int]]:
    return {topic_id: frozenset(epochs) for topic_id, epochs in assigned.items()}
