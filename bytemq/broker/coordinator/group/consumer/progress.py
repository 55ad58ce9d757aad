"""What every sign of life of a member does to its group, whichever protocol it speaks: a place in the group, a new
target assignment when one is due, and the member's own next step towards it.
"""

from __future__ import annotations

import base64
import uuid

from bytemq.broker.coordinator.group.consumer.draft import Draft
from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup
from bytemq.broker.coordinator.group.consumer.member import CurrentAssignment
from bytemq.broker.coordinator.group.consumer.pace import by_turn
from bytemq.broker.coordinator.group.consumer.reconciliation import Owned, reconcile
from bytemq.broker.coordinator.group.consumer.records import CurrentRecord
from bytemq.broker.coordinator.group.consumer.steps import assign
from bytemq.broker.coordinator.group.consumer.topics import existing
from bytemq.broker.coordinator.group.environment import GroupEnvironment
from bytemq.protocol.error_codes import ErrorCode, KafkaError

_MEMBER_BYTES = 1_500


def new_member_id(environment: GroupEnvironment) -> str:
    """As Kafka writes its uuids."""
    text = environment.new_uuid()
    try:
        return base64.urlsafe_b64encode(uuid.UUID(text).bytes).decode().rstrip("=")
    except ValueError:
        return text


def check_room(
    environment: GroupEnvironment, group: ConsumerGroup, member_id: str, *, joins: bool, needed_bytes: int
) -> None:
    """For a member that joins, and for what one keeps in memory. Raises KafkaError GROUP_MAX_SIZE_REACHED."""
    max_size = environment.consumer_settings(group.group_id).max_size
    is_new = member_id not in group.members
    if is_new and joins and len(group.members) >= max_size:
        text = f"The consumer group has reached its maximum capacity of {max_size} members."
        raise KafkaError(ErrorCode.GROUP_MAX_SIZE_REACHED, text)
    needed_bytes += _MEMBER_BYTES if is_new else 0
    if needed_bytes and not environment.memory.has_room_for(needed_bytes):
        raise KafkaError(ErrorCode.GROUP_MAX_SIZE_REACHED, "The members of all groups take too much memory.")


def assign_if_due(environment: GroupEnvironment, draft: Draft) -> None:
    """Not more often than the assignment interval says: members that come together are assigned together. Who is alone
    waits for nobody.
    """
    group = draft.group
    if group.group_epoch <= group.assignment_epoch:
        return
    settings = environment.consumer_settings(group.group_id)
    now_ms = environment.wall_ms()
    waited_ms = now_ms - group.assignment_timestamp_ms
    if len(group.members) > 1 and 0 <= waited_ms < settings.assignment_interval_ms:
        return
    order = by_turn(group, now_ms, settings.heartbeat_interval_ms)
    assign(draft, environment.topics, settings.assignors[0], now_ms, order)


def advance(
    environment: GroupEnvironment, draft: Draft, member_id: str, owned: Owned | None, changed: bool
) -> CurrentAssignment:
    """The member's next step; `changed`: its subscription did. What it has then."""
    group = draft.group
    current = group.current_of(member_id)
    if current.is_reconciled_to(group.assignment_epoch) and not changed:
        return current
    topics = existing(environment.topics, group.topics_of_member(member_id))

    def is_free(topic_id: bytes, partition: int) -> bool:
        return group.owners.get(topic_id, {}).get(partition, member_id) == member_id

    following = reconcile(
        current,
        group.target_of(member_id),
        group.assignment_epoch,
        subscribed=(topic.topic_id for topic in topics),
        subscription_changed=changed,
        is_free=is_free,
        owned=owned,
    )
    if following != current:
        draft.add(CurrentRecord(group.group_id, member_id, following))
    return following
