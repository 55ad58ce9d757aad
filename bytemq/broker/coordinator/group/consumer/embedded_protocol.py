"""The consumer protocol inside the classic one: subscriptions and assignments as blobs that only clients used to read.

A consumer group reads them when it has members that speak the classic protocol. Names become ids here; topics that are
gone are left out. Raises ValueError for what is no such blob.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from bytemq.broker.coordinator.group.consumer.reconciliation import Owned, put_together
from bytemq.broker.coordinator.group.consumer.topics import Topics
from bytemq.protocol.codec import decode_record, encode_record
from bytemq.protocol.messages.consumer_protocol import (
    ConsumerProtocolAssignment,
    ConsumerProtocolAssignmentTopicPartition,
    ConsumerProtocolSubscription,
)
from bytemq.protocol.primitives import MalformedMessage


class Subscription(NamedTuple):
    topics: frozenset[str]
    owned: Owned
    """What the member still has; nothing for members that give up everything when they join (the eager protocol)."""
    rack_id: str | None


def read_subscription(blob: bytes, topics: Topics) -> Subscription:
    try:
        read = decode_record(ConsumerProtocolSubscription, blob, accept_newer=True)
    except MalformedMessage as error:
        raise ValueError("not a consumer protocol subscription") from error
    owned = _by_id(((each.topic, each.partitions) for each in read.owned_partitions), topics)
    return Subscription(frozenset(read.topics), owned, read.rack_id)


def read_assignment(blob: bytes, topics: Topics) -> Mapping[bytes, frozenset[int]]:
    """Nothing at all for a member that has not got its first assignment yet."""
    if not blob:
        return {}
    try:
        read = decode_record(ConsumerProtocolAssignment, blob, accept_newer=True)
    except MalformedMessage as error:
        raise ValueError("not a consumer protocol assignment") from error
    return _by_id(((each.topic, each.partitions) for each in read.assigned_partitions), topics)


def write_assignment(partitions: Mapping[bytes, Iterable[int]], topics: Topics, subscription: bytes) -> bytes:
    """In the version of the member's subscription."""
    named = []
    for topic_id, indexes in partitions.items():
        topic = topics.by_id(topic_id)
        if topic is not None:
            named.append(ConsumerProtocolAssignmentTopicPartition(topic.name, sorted(indexes)))
    version = int.from_bytes(subscription[:2], "big", signed=True)
    highest = ConsumerProtocolAssignment.VERSIONS.highest
    return bytes(encode_record(ConsumerProtocolAssignment(named), min(max(version, 0), highest)))


def _by_id(named: Iterable[tuple[str, Iterable[int]]], topics: Topics) -> dict[bytes, frozenset[int]]:
    known = ((topics.by_name(name), partitions) for name, partitions in named)
    return put_together((topic.topic_id, partitions) for topic, partitions in known if topic is not None)
