"""What an assignor is given. Plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from bytemq.broker.coordinator.group.consumer.member import Target

TopicPartition = tuple[bytes, int]


class AssignedMember(NamedTuple):
    """`topics` are the ids that the member is subscribed to, `before` is its present target."""

    instance_id: str | None
    topics: frozenset[bytes]
    before: Target
    rack: str | None = None


class AssignmentRequest(NamedTuple):
    """`members` by member id, those first who are to be served first; `partition_counts` by topic id, for every topic
    that anyone is subscribed to.
    """

    members: Mapping[str, AssignedMember]
    partition_counts: Mapping[bytes, int]
    is_homogeneous: bool
    racks: Mapping[bytes, Sequence[frozenset[str]]] = {}
    """Of each partition, by topic id; empty where they do not matter."""


class Assignor(Protocol):
    """Who should have what. Each partition of a subscribed topic goes to exactly one of its subscribers."""

    def __call__(self, request: AssignmentRequest) -> dict[str, Target]: ...
