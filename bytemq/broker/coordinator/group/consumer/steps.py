"""The steps that take a consumer group forward: bump its epoch, make a new target assignment, remove a member.

Each adds records to a draft. Which of them a request needs is decided elsewhere (heartbeat.py, regexes.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from bytemq.broker.coordinator.group.consumer.assignors.range_assignor import assign_ranges
from bytemq.broker.coordinator.group.consumer.assignors.specification import (
    AssignedMember,
    AssignmentRequest,
    Assignor,
)
from bytemq.broker.coordinator.group.consumer.assignors.uniform_assignor import assign_uniformly
from bytemq.broker.coordinator.group.consumer.draft import Draft
from bytemq.broker.coordinator.group.consumer.group import FIRST_EPOCH, ConsumerGroup
from bytemq.broker.coordinator.group.consumer.member import NO_TARGET, NOT_JOINED
from bytemq.broker.coordinator.group.consumer.records import (
    ConsumerGroupRecord,
    CurrentRecord,
    GroupEpoch,
    GroupEpochRecord,
    MemberRecord,
    RegexRecord,
    TargetEpoch,
    TargetEpochRecord,
    TargetRecord,
)
from bytemq.broker.coordinator.group.consumer.topics import Topics, existing, metadata_hash

ASSIGNORS: dict[str, Assignor] = {"uniform": assign_uniformly, "range": assign_ranges}


def found_group(draft: Draft) -> None:
    """A new group starts at epoch 1, with nothing assigned as of that epoch."""
    draft.add(GroupEpochRecord(draft.group.group_id, GroupEpoch(FIRST_EPOCH, 0)))
    draft.add(TargetEpochRecord(draft.group.group_id, TargetEpoch(FIRST_EPOCH, 0)))


def refresh_epoch(draft: Draft, topics: Topics, *, bump: bool) -> None:
    """A new epoch if one is due anyway, or if the subscribed topics are not what they were."""
    group = draft.group
    current_hash = metadata_hash(topics, map(group.topics_of, group.subscriptions()))
    if bump or current_hash != group.metadata_hash:
        draft.add(GroupEpochRecord(group.group_id, GroupEpoch(group.group_epoch + 1, current_hash)))


def remove_member(draft: Draft, member_id: str) -> None:
    """The member is out; what it had is free."""
    group = draft.group
    member = group.members[member_id]
    draft.add(CurrentRecord(group.group_id, member_id, None))
    draft.add(TargetRecord(group.group_id, member_id, None))
    draft.add(MemberRecord(group.group_id, member_id, None))
    forget_unused_regex(draft, member.regex)


def forget_unused_regex(draft: Draft, regex: str) -> None:
    """Topics of an expression are kept while a member uses it."""
    if regex in draft.group.regexes and not draft.group.uses_regex(regex):
        draft.add(RegexRecord(draft.group.group_id, regex, None))


def replace_static_member(draft: Draft, old_id: str, new_id: str) -> None:
    """A static member is back under a new id: it has what its former self had (KIP-848, KIP-345)."""
    group = draft.group
    member, current, target = group.members[old_id], group.current_of(old_id), group.target_of(old_id)
    draft.add(CurrentRecord(group.group_id, old_id, None))
    draft.add(TargetRecord(group.group_id, old_id, None))
    draft.add(MemberRecord(group.group_id, old_id, None))
    draft.add(MemberRecord(group.group_id, new_id, member))
    draft.add(TargetRecord(group.group_id, new_id, target))
    joining = current._replace(epoch=NOT_JOINED.epoch, previous_epoch=NOT_JOINED.previous_epoch)
    draft.add(CurrentRecord(group.group_id, new_id, joining))


def group_tombstones(group: ConsumerGroup) -> list[ConsumerGroupRecord]:
    """What ends a group: everything that is known of it, its epoch last."""
    group_id = group.group_id
    with Draft(group) as draft:
        for member_id in list(group.current):
            draft.add(CurrentRecord(group_id, member_id, None))
        for member_id in list(group.targets):
            draft.add(TargetRecord(group_id, member_id, None))
        for member_id in list(group.members):
            draft.add(MemberRecord(group_id, member_id, None))
        for regex in list(group.regexes):
            draft.add(RegexRecord(group_id, regex, None))
        draft.add(TargetEpochRecord(group_id, None))
        draft.add(GroupEpochRecord(group_id, None))
        return draft.records


def preferred_assignor(group: ConsumerGroup, default: str) -> str:
    """What most of the members that care ask for; the default when nobody does."""
    votes = Counter(member.assignor for member in group.members.values() if member.assignor is not None)
    return votes.most_common(1)[0][0] if votes else default


def assign(
    draft: Draft, topics: Topics, default_assignor: str, now_ms: int, order: Callable[[str], tuple[int, str]]
) -> None:
    """A target assignment for the group's present epoch. `order` says of a member id who should be served first."""
    group = draft.group
    assignor = ASSIGNORS[preferred_assignor(group, default_assignor)]
    assigned = assignor(assignment_request(group, topics, sorted(group.members, key=order)))
    for member_id, target in assigned.items():
        if target != group.targets.get(member_id):
            draft.add(TargetRecord(group.group_id, member_id, target))
    draft.add(TargetEpochRecord(group.group_id, TargetEpoch(group.group_epoch, now_ms)))


def assignment_request(group: ConsumerGroup, topics: Topics, order: Iterable[str]) -> AssignmentRequest:
    counts: dict[bytes, int] = {}
    ids_by_subscription = {}
    for subscription in group.subscriptions():
        found = existing(topics, group.topics_of(subscription))
        ids_by_subscription[subscription] = frozenset(topic.topic_id for topic in found)
        counts.update((topic.topic_id, topic.partition_count) for topic in found)
    racks = {}
    if any(member.rack_id is not None for member in group.members.values()):
        racks = {topic_id: topics.racks(topic_id) for topic_id in counts}
    members = {}
    for member_id in order:
        member = group.members[member_id]
        members[member_id] = AssignedMember(
            member.instance_id,
            ids_by_subscription[member.topics, member.regex],
            group.targets.get(member_id, NO_TARGET),
            member.rack_id,
        )
    is_homogeneous = len(set(ids_by_subscription.values())) <= 1
    return AssignmentRequest(members, counts, is_homogeneous, racks)
