"""ConsumerGroupDescribe (v0-1) and consumer groups in ListGroups. Reads only, the latest state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from bytemq.broker.coordinator.group.consumer.member import CurrentAssignment, MemberMetadata, Target
from bytemq.broker.coordinator.group.consumer.steps import preferred_assignor
from bytemq.broker.coordinator.group.consumer.topics import Topics
from bytemq.broker.coordinator.group.environment import GroupEnvironment
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.consumer_group_describe import Assignment, DescribedGroup, Member, TopicPartitions
from bytemq.protocol.messages.list_groups import ListedGroup

CONSUMER = "consumer"
_CLASSIC_MEMBER, _CONSUMER_MEMBER = 0, 1


class Description(NamedTuple):
    """A group without its members, and these as they were when it was asked for. Each may be subscribed to a hundred
    thousand topics, so they are described one after the other, as one goes through them.
    """

    group: DescribedGroup
    members: Iterable[Member]


def describe_consumer_group(environment: GroupEnvironment, group_id: str) -> Description:
    """GROUP_ID_NOT_FOUND for an unknown or a classic one."""
    group = environment.consumer_groups.get(group_id)
    if group is None:
        what = "is not a consumer group." if group_id in environment.groups else "not found."
        unknown = DescribedGroup(
            error_code=ErrorCode.GROUP_ID_NOT_FOUND, error_message=f"Group {group_id} {what}", group_id=group_id
        )
        return Description(unknown, ())
    described = DescribedGroup(
        group_id=group_id,
        group_state=group.state.value,
        group_epoch=group.group_epoch,
        assignment_epoch=group.assignment_epoch,
        assignor_name=preferred_assignor(group, environment.consumer_settings(group_id).assignors[0]),
    )
    present = [
        (member_id, member, group.current_of(member_id), group.target_of(member_id))
        for member_id, member in group.members.items()
    ]
    return Description(described, (_described(environment.topics, *each) for each in present))


def list_consumer_groups(environment: GroupEnvironment, states: Iterable[str]) -> list[ListedGroup]:
    """Groups in one of the states, in lower case; all of them if there are none."""
    wanted = frozenset(states)
    listed = [
        ListedGroup(group_id=group.group_id, protocol_type=CONSUMER, group_state=group.state.value, group_type=CONSUMER)
        for group in environment.consumer_groups.values()
    ]
    return [group for group in listed if not wanted or group.group_state.casefold() in wanted]


def _described(
    topics: Topics, member_id: str, member: MemberMetadata, current: CurrentAssignment, target: Target
) -> Member:
    return Member(
        member_id=member_id,
        instance_id=member.instance_id,
        rack_id=member.rack_id,
        member_epoch=current.epoch,
        client_id=member.client_id,
        client_host=member.client_host,
        subscribed_topic_names=sorted(member.topics),
        subscribed_topic_regex=member.regex,
        assignment=_partitions(topics, _held(current)),
        target_assignment=_partitions(topics, target),
        member_type=_CONSUMER_MEMBER if member.classic is None else _CLASSIC_MEMBER,
    )


def _held(current: CurrentAssignment) -> dict[bytes, list[int]]:
    """What a member must still give up it has."""
    held: dict[bytes, list[int]] = {}
    for assigned in (current.assigned, current.revoking):
        for topic_id, epochs in assigned.items():
            held.setdefault(topic_id, []).extend(epochs)
    return held


def _partitions(topics: Topics, partitions: Mapping[bytes, Iterable[int]]) -> Assignment:
    """Topics that are gone have no name to show and are left out."""
    named = [(topics.by_id(topic_id), indexes) for topic_id, indexes in partitions.items()]
    return Assignment(
        [TopicPartitions(topic.topic_id, topic.name, sorted(indexes)) for topic, indexes in named if topic is not None]
    )
