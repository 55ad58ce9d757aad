"""One member of a classic group. Plain data and what can be said of a member alone."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sized
from dataclasses import dataclass

from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.join_group import JoinGroupRequestProtocol, JoinGroupResponse
from bytemq.protocol.messages.sync_group import SyncGroupResponse

Protocols = tuple[tuple[str, bytes], ...]
"""(protocol name, the member's metadata for it), in the member's order of preference."""

JoinReply = Callable[[JoinGroupResponse], None]
SyncReply = Callable[[SyncGroupResponse], None]

_OBJECT_BYTES = 700
"""What a member costs besides its metadata, roughly."""


@dataclass(slots=True)
class Member:
    """`awaiting_join` and `awaiting_sync` are the parked requests; each is answered once."""

    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int
    session_timeout_ms: int
    protocol_type: str
    protocols: Protocols
    assignment: bytes = b""
    is_new: bool = False
    awaiting_join: JoinReply | None = None
    awaiting_sync: SyncReply | None = None

    @property
    def is_static(self) -> bool:
        return self.group_instance_id is not None

    @property
    def size_bytes(self) -> int:
        return _OBJECT_BYTES + len(self.assignment) + protocols_bytes(self.protocols)

    def metadata_of(self, protocol_name: str) -> bytes:
        """The metadata for a protocol that the member supports."""
        for name, metadata in self.protocols:
            if name == protocol_name:
                return metadata
        raise KeyError(protocol_name)

    def vote(self, candidates: Container[str]) -> str:
        """The first of the member's protocols among the candidates, of which it supports at least one."""
        return next(name for name, _ in self.protocols if name in candidates)

    def park_sync(self, reply: SyncReply) -> None:
        """Parks a SyncGroup. An earlier one has lost its caller, and is told to try again."""
        earlier, self.awaiting_sync = self.awaiting_sync, reply
        if earlier is not None:
            earlier(SyncGroupResponse(error_code=ErrorCode.REBALANCE_IN_PROGRESS))

    def answer_sync(self, response: SyncGroupResponse) -> bool:
        """Answers the parked SyncGroup; False if there is none."""
        reply, self.awaiting_sync = self.awaiting_sync, None
        if reply is None:
            return False
        reply(response)
        return True

    def has_satisfied_heartbeat(self) -> bool:
        """Whether a passed session deadline may be overlooked: a parked request is a sign of life, but for members
        that never got an answer yet.
        """
        return not self.is_new and (self.awaiting_join is not None or self.awaiting_sync is not None)


def protocols_of(requested: list[JoinGroupRequestProtocol]) -> Protocols:
    """The protocols of a request, copied out of its buffer."""
    return tuple((protocol.name, bytes(protocol.metadata)) for protocol in requested)


def protocols_bytes(protocols: Iterable[tuple[str, Sized]]) -> int:
    """What protocols cost in memory, roughly; the metadata is not looked at."""
    return sum(len(name) + len(metadata) + 100 for name, metadata in protocols)
