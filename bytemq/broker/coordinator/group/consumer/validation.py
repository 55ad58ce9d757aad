"""What a ConsumerGroupHeartbeat must look like, and which member epochs are believed. Kafka's messages, word for word.

Raises KafkaError; changes nothing.
"""

from __future__ import annotations

from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup
from bytemq.broker.coordinator.group.consumer.member import (
    JOINING_EPOCH,
    LEAVING_EPOCH,
    STATIC_LEAVING_EPOCH,
    Assigned,
    CurrentAssignment,
)
from bytemq.broker.coordinator.group.consumer.reconciliation import Owned
from bytemq.broker.coordinator.group.records import fits_a_string
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest

_OWN_MEMBER_ID_VERSION = 1


def check_request(request: ConsumerGroupHeartbeatRequest, api_version: int, assignors: tuple[str, ...]) -> None:
    """What is wrong with the request whoever coordinates the group. Raises INVALID_REQUEST or UNSUPPORTED_ASSIGNOR."""
    _refuse_blank(request.group_id, "GroupId")
    _refuse_blank(request.instance_id, "InstanceId")
    _refuse_blank(request.rack_id, "RackId")
    if request.member_epoch < STATIC_LEAVING_EPOCH:
        raise KafkaError(ErrorCode.INVALID_REQUEST, "MemberEpoch is invalid.")
    if request.member_epoch != JOINING_EPOCH or api_version >= _OWN_MEMBER_ID_VERSION:
        _refuse_blank(request.member_id, "MemberId")
    if request.member_epoch == STATIC_LEAVING_EPOCH and request.instance_id is None:
        raise KafkaError(ErrorCode.INVALID_REQUEST, "InstanceId can't be null.")
    if request.member_epoch == JOINING_EPOCH:
        _check_join(request)
    stored = (request.group_id, request.member_id, request.instance_id, request.rack_id, *_topics(request))
    if not all(fits_a_string(text) for text in stored if text):
        raise KafkaError(ErrorCode.INVALID_REQUEST, "A name is too long.")
    if request.server_assignor is not None and request.server_assignor not in assignors:
        text = f"ServerAssignor {request.server_assignor} is not supported. Supported assignors: "
        raise KafkaError(ErrorCode.UNSUPPORTED_ASSIGNOR, text + ", ".join(assignors) + ".")


def check_epoch(current: CurrentAssignment, epoch: int, owned: Owned | None) -> None:
    """Epoch 0 is always believed: the member starts anew. One that comes with its former epoch may not have received
    the answer that moved it on; that is believed if it owns nothing that it should not. Raises FENCED_MEMBER_EPOCH.
    """
    if epoch in (JOINING_EPOCH, current.epoch):
        return
    if epoch < current.epoch and epoch == current.previous_epoch and _is_within(owned, current.assigned):
        return
    compared = "greater" if epoch > current.epoch else "smaller"
    raise KafkaError(
        ErrorCode.FENCED_MEMBER_EPOCH,
        f"The consumer group member has a {compared} member epoch ({epoch}) than the one known by the group "
        f"coordinator ({current.epoch}). The member must abandon all its partitions and rejoin.",
    )


def check_instance(group: ConsumerGroup, instance_id: str, member_id: str) -> None:
    """Raises UNKNOWN_MEMBER_ID, or FENCED_INSTANCE_ID when another member has the instance id."""
    holder = group.static_members.get(instance_id)
    if holder is None:
        raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID, f"Instance id {instance_id} is unknown.")
    if holder != member_id:
        text = f"Static member {member_id} with instance id {instance_id} was fenced by member {holder}."
        raise KafkaError(ErrorCode.FENCED_INSTANCE_ID, text)


def is_leaving(request: ConsumerGroupHeartbeatRequest) -> bool:
    return request.member_epoch in (LEAVING_EPOCH, STATIC_LEAVING_EPOCH)


def _check_join(request: ConsumerGroupHeartbeatRequest) -> None:
    if request.rebalance_timeout_ms == -1:
        raise KafkaError(ErrorCode.INVALID_REQUEST, "RebalanceTimeoutMs must be provided in first request.")
    if request.topic_partitions is None or request.topic_partitions:
        raise KafkaError(ErrorCode.INVALID_REQUEST, "TopicPartitions must be empty when (re-)joining.")
    if request.subscribed_topic_names is None and request.subscribed_topic_regex is None:
        text = "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining."
        raise KafkaError(ErrorCode.INVALID_REQUEST, text)


def _refuse_blank(text: str | None, what: str) -> None:
    if text is not None and not text.strip():
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"{what} can't be empty.")


def _topics(request: ConsumerGroupHeartbeatRequest) -> list[str]:
    return request.subscribed_topic_names or []


def _is_within(owned: Owned | None, assigned: Assigned) -> bool:
    if owned is None:
        return False
    return all(partitions <= assigned.get(topic_id, {}).keys() for topic_id, partitions in owned.items())
