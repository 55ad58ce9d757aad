"""What Produce and Fetch responses share: where the leader is, for a client that asked another broker (KIP-951)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bytemq.protocol.primitives import Writer

NO_TAGGED_FIELDS = 0


class LeaderIdAndEpoch(NamedTuple):
    """The current leader of a partition, -1 where unknown."""

    leader_id: int
    leader_epoch: int


class NodeEndpoint(NamedTuple):
    """The address of a node that some LeaderIdAndEpoch names."""

    node_id: int
    host: str
    port: int
    rack: str | None = None


def write_leader(writer: Writer, tag: int, leader: LeaderIdAndEpoch) -> None:
    """One tagged field with the leader's id and epoch."""
    writer.write_unsigned_varint(tag)
    writer.write_unsigned_varint(4 + 4 + 1)
    writer.write_int32(leader.leader_id)
    writer.write_int32(leader.leader_epoch)
    writer.write_unsigned_varint(NO_TAGGED_FIELDS)


def write_endpoints_section(writer: Writer, endpoints: Sequence[NodeEndpoint]) -> None:
    """The section of tagged fields that ends a response: the endpoints under tag 0, or nothing."""
    if not endpoints:
        writer.write_unsigned_varint(NO_TAGGED_FIELDS)
        return
    content = Writer()
    content.write_compact_array_length(len(endpoints))
    for node_id, host, port, rack in endpoints:
        content.write_int32(node_id)
        content.write_compact_string(host)
        content.write_int32(port)
        content.write_compact_nullable_string(rack)
        content.write_unsigned_varint(NO_TAGGED_FIELDS)
    writer.write_unsigned_varint(1)
    writer.write_unsigned_varint(0)
    writer.write_unsigned_varint(len(content.buffer))
    writer.buffer += content.buffer
