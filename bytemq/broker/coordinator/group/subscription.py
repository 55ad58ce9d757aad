"""The topics in a consumer's protocol metadata.

Reads only the part that every version of the consumer protocol begins with.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

CONSUMER_PROTOCOL_TYPE = "consumer"


def subscribed_topics(metadata: bytes) -> frozenset[str]:
    """The topics of one ConsumerProtocolSubscription: int16 version, then an array of strings.

    Raises ValueError if it is not one.
    """
    try:
        version, count = struct.unpack_from(">hi", metadata)
        if version < 0 or count < 0 or count > len(metadata):
            raise ValueError("not a consumer protocol subscription")
        topics = set()
        position = 6
        for _ in range(count):
            (size,) = struct.unpack_from(">h", metadata, position)
            position += 2
            if size < 0 or position + size > len(metadata):
                raise ValueError("a topic name reaches beyond the subscription")
            topics.add(metadata[position : position + size].decode("utf-8", "replace"))
            position += size
    except struct.error as error:
        raise ValueError("a truncated consumer protocol subscription") from error
    return frozenset(topics)


def all_subscribed_topics(subscriptions: Iterable[bytes]) -> frozenset[str] | None:
    """The union over a group's members; None when one of them cannot be read: the coordinator then does not know."""
    topics: set[str] = set()
    for metadata in set(subscriptions):
        try:
            topics |= subscribed_topics(metadata)
        except ValueError:
            return None
    return frozenset(topics)
