"""A member of a consumer group: who it is, what it has, what it must give up. Immutable, so that it can be shared with
records that are on their way into the log.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

from bytemq.broker.coordinator.group.member import Protocols, protocols_bytes

JOINING_EPOCH = 0
LEAVING_EPOCH = -1
STATIC_LEAVING_EPOCH = -2

Target = Mapping[bytes, frozenset[int]]
"""Partitions by topic id."""
Assigned = Mapping[bytes, Mapping[int, int]]
"""By topic id and partition, the member epoch at which the partition was assigned (KIP-1251)."""
NO_TARGET: Target = MappingProxyType({})
NO_PARTITIONS: Assigned = MappingProxyType({})

_OBJECT_BYTES = 1_200
"""What a member costs besides its strings, roughly."""


class MemberState(IntEnum):
    """Where a member stands on its way to the target assignment. The values are stored."""

    STABLE = 0
    """It has all that it should have, as of its epoch."""
    UNREVOKED_PARTITIONS = 1
    """It was asked to give up partitions and has not said yet that it did; its epoch waits."""
    UNRELEASED_PARTITIONS = 2
    """It waits for partitions that others have not given up yet."""


class ClassicTerms(NamedTuple):
    """What a member that speaks the classic protocol has said in its JoinGroup besides its subscription."""

    session_timeout_ms: int
    protocols: Protocols

    @property
    def protocol_name(self) -> str:
        """The protocol that it is told was chosen: its favourite. The assignment comes from the server anyway."""
        return self.protocols[0][0]

    @property
    def subscription(self) -> bytes:
        return self.protocols[0][1]


@dataclass(frozen=True, slots=True)
class MemberMetadata:
    """What a member says of itself. `regex` is empty when there is none; `classic` is there for members that speak the
    classic protocol.
    """

    instance_id: str | None
    rack_id: str | None
    client_id: str
    client_host: str
    topics: frozenset[str]
    regex: str
    rebalance_timeout_ms: int
    assignor: str | None
    classic: ClassicTerms | None = None

    @property
    def session_timeout_ms(self) -> int | None:
        """Its own; None: the group's holds."""
        return None if self.classic is None else self.classic.session_timeout_ms

    @property
    def size_bytes(self) -> int:
        size_bytes = _OBJECT_BYTES + len(self.client_id) + len(self.client_host) + len(self.regex)
        size_bytes += len(self.instance_id or "") + len(self.rack_id or "") + len(self.assignor or "")
        size_bytes += topics_bytes(self.topics)
        return size_bytes if self.classic is None else size_bytes + protocols_bytes(self.classic.protocols)


class CurrentAssignment(NamedTuple):
    """What a member has: `assigned` it may read, `revoking` it has been asked to give up."""

    epoch: int = JOINING_EPOCH
    previous_epoch: int = JOINING_EPOCH
    state: MemberState = MemberState.STABLE
    assigned: Assigned = NO_PARTITIONS
    revoking: Assigned = NO_PARTITIONS

    def is_reconciled_to(self, epoch: int) -> bool:
        return self.state is MemberState.STABLE and self.epoch == epoch


NOT_JOINED = CurrentAssignment()


def topics_bytes(topics: Collection[str]) -> int:
    """What topic names cost in memory, roughly."""
    return sum(map(len, topics)) + 100 * len(topics)
