"""A group with members changes from the classic protocol to that of KIP-848 and back, while they go on.

Up: the first consumer that comes to a classic group makes it a consumer group. Its members keep their ids, and what
they were assigned, at an epoch that is the generation; classic_members.py serves them from then on. Down: when the last
member goes that does not speak the classic protocol, the rest is a classic group again, at a generation that is the
epoch, and rebalances.

Both ways the records that end the one group and begin the other are one write. What of a classic group is not in the
log (timers, parked requests) changes at once, and back should the write fail.
"""

from __future__ import annotations

from collections.abc import Callable

from bytemq.broker.coordinator.group.classic_group import ClassicGroup
from bytemq.broker.coordinator.group.consumer.draft import Draft
from bytemq.broker.coordinator.group.consumer.embedded_protocol import (
    read_assignment,
    read_subscription,
    write_assignment,
)
from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup
from bytemq.broker.coordinator.group.consumer.member import (
    Assigned,
    ClassicTerms,
    CurrentAssignment,
    MemberMetadata,
    MemberState,
)
from bytemq.broker.coordinator.group.consumer.reconciliation import Owned
from bytemq.broker.coordinator.group.consumer.records import (
    CurrentRecord,
    GroupEpoch,
    GroupEpochRecord,
    MemberRecord,
    TargetEpoch,
    TargetEpochRecord,
    TargetRecord,
)
from bytemq.broker.coordinator.group.consumer.steps import group_tombstones
from bytemq.broker.coordinator.group.consumer.topics import Topics, metadata_hash
from bytemq.broker.coordinator.group.environment import GroupEnvironment
from bytemq.broker.coordinator.group.group_records import generation_record
from bytemq.broker.coordinator.group.member import Member
from bytemq.broker.coordinator.group.rebalance import Rebalance
from bytemq.broker.coordinator.group.subscription import CONSUMER_PROTOCOL_TYPE
from bytemq.broker.coordinator.outcome import NOTHING, CoordinatorRecord, Outcome, answered_error
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.join_group import JoinGroupResponse
from bytemq.protocol.messages.sync_group import SyncGroupResponse

_MAX_TAKEN_OVER_BYTES = 2 * 1024 * 1024
"""Of subscriptions and assignments, which are all read at once. Half of it is what the log takes of a generation."""

Ended = Callable[[ErrorCode], Outcome[None]]


class Migration:
    """Over the groups of one shard."""

    __slots__ = ("_environment", "_rebalance")

    def __init__(self, environment: GroupEnvironment, rebalance: Rebalance) -> None:
        self._environment = environment
        self._rebalance = rebalance

    # -- up

    def can_upgrade(self, classic: ClassicGroup) -> bool:
        """A classic group without members makes room in any case."""
        settings = self._environment.consumer_settings(classic.group_id)
        return not classic.members or (
            settings.upgrades
            and classic.protocol_type == CONSUMER_PROTOCOL_TYPE
            and len(classic.members) <= settings.max_size
        )

    def leave_to_consumers(self, classic: ClassicGroup) -> Ended:
        """The classic group is gone at once; who waits for its rebalance is asked to join again. What is returned
        brings it back if the records that replace it are not written.
        """
        self._answer_all(classic, ErrorCode.REBALANCE_IN_PROGRESS)
        for member_id in tuple(classic.pending_join):
            self._environment.timers.cancel(self._environment.session_key(classic.group_id, member_id))
            classic.remove_pending(member_id)
        self._environment.forget_group(classic)

        def ended(code: ErrorCode) -> Outcome[None]:
            if code is ErrorCode.NONE or classic.group_id in self._environment.consumer_groups:
                return NOTHING
            self._environment.restore_group(classic)
            return self._rebalance.resume(classic)

        return ended

    # -- down

    def should_downgrade(self, group: ConsumerGroup) -> bool:
        """Asked when a member went that does not speak the classic protocol; `group` is without it."""
        settings = self._environment.consumer_settings(group.group_id)
        return (
            settings.downgrades
            and 0 < len(group.members) <= self._environment.settings.max_size
            and group.classic_count == len(group.members)
        )

    def downgraded(self, group: ConsumerGroup) -> ClassicGroup:
        """What the group is as a classic one: stable, with the target as its assignment."""
        topics = self._environment.topics
        classic = ClassicGroup(group.group_id, self._environment.wall_ms(), self._environment.memory)
        for member_id, member in group.members.items():
            assert member.classic is not None
            classic.add(
                Member(
                    member_id=member_id,
                    group_instance_id=member.instance_id,
                    client_id=member.client_id,
                    client_host=member.client_host,
                    rebalance_timeout_ms=member.rebalance_timeout_ms,
                    session_timeout_ms=member.classic.session_timeout_ms,
                    protocol_type=CONSUMER_PROTOCOL_TYPE,
                    protocols=member.classic.protocols,
                    assignment=write_assignment(group.target_of(member_id), topics, member.classic.subscription),
                )
            )
        classic.restore_generation(group.group_epoch, classic.select_protocol(), classic.leader_id)
        return classic

    def downgrade(self, group: ConsumerGroup, classic: ClassicGroup, *, rebalances: bool = True) -> Outcome[None]:
        """`classic` takes the place of the group, which is as the log knows it."""
        environment = self._environment
        assignment = {member.member_id: member.assignment for member in classic.members.values()}
        records: list[CoordinatorRecord] = [*group_tombstones(group), generation_record(classic, assignment)]
        environment.groups[classic.group_id] = classic
        for member in classic.members.values():
            self._rebalance.extend_session(classic, member)
        if rebalances:
            self._rebalance.prepare(classic)  # nobody has joined yet: nothing follows

        def ended(code: ErrorCode) -> Outcome[None]:
            if code is not ErrorCode.NONE and environment.groups.get(classic.group_id) is classic:
                self._answer_all(classic, answered_error(code))
                # The members' sessions are those of the consumer group by now, which is back.
                environment.forget_group(classic, and_sessions=False)
            return NOTHING

        return Outcome(None, records, ended)

    def _answer_all(self, classic: ClassicGroup, code: ErrorCode) -> None:
        for member in classic.members.values():
            refusal = JoinGroupResponse(error_code=code, member_id=member.member_id, protocol_name=None)
            classic.answer_join(member, refusal)
            member.answer_sync(SyncGroupResponse(error_code=code))


def take_over_members(draft: Draft, classic: ClassicGroup, topics: Topics) -> None:
    """The members of a classic group, with what they have, in a consumer group that was nothing before.

    A member may still read what it owned when it joined and was not assigned again (the cooperative protocol): it has
    to give that up first. Raises KafkaError GROUP_ID_NOT_FOUND if something cannot be read or is too large, or a
    partition is assigned to two.
    """
    group_id, epoch = classic.group_id, classic.generation_id
    protocol = classic.protocol_name or classic.select_protocol()
    members = classic.members.values()
    if sum(len(member.metadata_of(protocol)) + len(member.assignment) for member in members) > _MAX_TAKEN_OVER_BYTES:
        raise _cannot_upgrade(group_id, "its metadata is too large.")
    owned: dict[str, Owned] = {}
    for member_id, member in classic.members.items():
        try:
            subscription = read_subscription(member.metadata_of(protocol), topics)
            target = read_assignment(member.assignment, topics)
        except ValueError as error:
            raise _cannot_upgrade(group_id, "the embedded consumer protocol is malformed.") from error
        if any(draft.group.owners.get(topic, {}).keys() & indexes for topic, indexes in target.items()):
            raise _cannot_upgrade(group_id, "a partition is assigned to two members.")
        metadata = MemberMetadata(
            instance_id=member.group_instance_id,
            rack_id=subscription.rack_id,
            client_id=member.client_id,
            client_host=member.client_host,
            topics=subscription.topics,
            regex="",
            rebalance_timeout_ms=member.rebalance_timeout_ms,
            assignor=None,
            classic=ClassicTerms(member.session_timeout_ms, member.protocols),
        )
        owned[member_id] = subscription.owned
        draft.add(MemberRecord(group_id, member_id, metadata))
        draft.add(TargetRecord(group_id, member_id, target))
        draft.add(CurrentRecord(group_id, member_id, CurrentAssignment(epoch, epoch, assigned=_since(target, epoch))))
    for member_id, partitions in owned.items():
        revoking = _since(_free(draft.group, partitions), epoch)
        if revoking:
            waits = draft.group.current_of(member_id)._replace(
                state=MemberState.UNREVOKED_PARTITIONS, revoking=revoking
            )
            draft.add(CurrentRecord(group_id, member_id, waits))
    subscribed = metadata_hash(topics, map(draft.group.topics_of, draft.group.subscriptions()))
    draft.add(GroupEpochRecord(group_id, GroupEpoch(epoch, subscribed)))
    draft.add(TargetEpochRecord(group_id, TargetEpoch(epoch, 0)))


def _free(group: ConsumerGroup, partitions: Owned) -> Owned:
    """Those that nobody has."""
    free = {topic: indexes - group.owners.get(topic, {}).keys() for topic, indexes in partitions.items()}
    return {topic: indexes for topic, indexes in free.items() if indexes}


def _since(partitions: Owned, epoch: int) -> Assigned:
    return {topic: dict.fromkeys(sorted(indexes), epoch) for topic, indexes in partitions.items()}


def _cannot_upgrade(group_id: str, why: str) -> KafkaError:
    text = f"Cannot upgrade the classic group {group_id} to consumer group because {why}"
    return KafkaError(ErrorCode.GROUP_ID_NOT_FOUND, text)
