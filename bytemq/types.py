"""Names of things that every layer shares. Owns no behaviour beyond their textual form."""

from __future__ import annotations

import base64
import binascii
from enum import StrEnum
from typing import NamedTuple, NewType

TopicId = NewType("TopicId", bytes)
"""A topic's UUID as its 16 raw bytes, which is also its form on the wire."""

ZERO_TOPIC_ID = TopicId(bytes(16))
"""Kafka's ``Uuid.ZERO_UUID``: "no topic id"."""


class Role(StrEnum):
    """What a broker of a cluster does for it; usually all of this."""

    WRITE = "write"
    """It owns partitions of ordinary topics."""
    READ = "read"
    """It serves consumers from partitions that others own."""
    COORDINATE = "coordinate"
    """It owns partitions of internal topics, and so coordinates groups and transactions."""
    CONTROL = "control"
    """It may be the controller."""


ALL_ROLES = frozenset(Role)


class PartitionId(NamedTuple):
    """A partition by its topic's id, so that a deleted and recreated topic is never mistaken for its predecessor."""

    topic_id: TopicId
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody wants of a partition

    def __str__(self) -> str:
        """For logs: as its folder is found under topics/."""
        return f"{format_topic_id(self.topic_id)}/{self.index}"


def format_topic_id(topic_id: bytes) -> str:
    """Kafka's text form of a UUID: 22 characters of URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(topic_id).decode("ascii").rstrip("=")


def parse_topic_id(text: str) -> TopicId:
    """The inverse of `format_topic_id`. Raises ValueError unless the text stands for exactly 16 bytes."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not a topic id: {text!r}") from error
    if len(raw) != 16:
        raise ValueError(f"not a topic id: {text!r} stands for {len(raw)} bytes, not 16")
    return TopicId(raw)
