"""The topics in a consumer's protocol metadata.

Reads only the part that every version of the consumer protocol begins with.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

CONSUMER_PROTOCOL_TYPE = "consumer"

_MAX_NAMES = 50_000
"""Of all lists of topics of a group that differ: reading them takes some 50 ms. Clients may name millions."""
_VERSION_BYTES = 2
_COMPARED_LISTS = 2


def all_subscribed_topics(subscriptions: Iterable[bytes]) -> frozenset[str] | None:
    """The union over a group's members, each a ConsumerProtocolSubscription: int16 version, then an array of strings.
    None when one of them is no such thing, or when they are too long: the coordinator then does not know.

    Most members name the same topics in the same way; a list is read once.
    """
    topics: set[str] = set()
    known: dict[int, list[bytes]] = {}
    left = _MAX_NAMES
    try:
        for metadata in subscriptions:
            version, count = struct.unpack_from(">hi", metadata)
            alike = known.setdefault(count, [])
            if version >= 0 and any(metadata.startswith(names, _VERSION_BYTES) for names in alike):
                continue
            left -= count
            if version < 0 or count < 0 or left < 0:
                return None
            names, end = _read_names(metadata, count)
            topics |= names
            if len(alike) < _COMPARED_LISTS:
                alike.append(metadata[_VERSION_BYTES:end])
    except (ValueError, struct.error):
        return None
    return frozenset(topics)


def _read_names(metadata: bytes, count: int) -> tuple[set[str], int]:
    """The names, and where they end. Raises ValueError or struct.error."""
    names = set()
    position = _VERSION_BYTES + 4
    for _ in range(count):
        (size,) = struct.unpack_from(">h", metadata, position)
        position += 2
        if size < 0 or position + size > len(metadata):
            raise ValueError("a topic name reaches beyond the subscription")
        names.add(metadata[position : position + size].decode("utf-8", "replace"))
        position += size
    return names, position
