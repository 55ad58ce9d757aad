"""A client of the benchmarks: messages over a socket, one request at a time.

Owns: framing, and the version in which each request is sent.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TypeVar

from bytemq.protocol.codec import decode, encode
from bytemq.protocol.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest
from bytemq.protocol.messages.create_topics import CreateTopicsRequest
from bytemq.protocol.messages.find_coordinator import FindCoordinatorRequest
from bytemq.protocol.messages.heartbeat import HeartbeatRequest
from bytemq.protocol.messages.init_producer_id import InitProducerIdRequest
from bytemq.protocol.messages.join_group import JoinGroupRequest
from bytemq.protocol.messages.leave_group import LeaveGroupRequest
from bytemq.protocol.messages.offset_commit import OffsetCommitRequest
from bytemq.protocol.messages.offset_fetch import OffsetFetchRequest
from bytemq.protocol.messages.sync_group import SyncGroupRequest
from bytemq.protocol.schema import Message

_VERSIONS: dict[type[Message], tuple[int, int]] = {
    ConsumerGroupHeartbeatRequest: (68, 1),
    JoinGroupRequest: (11, 9),
    SyncGroupRequest: (14, 5),
    HeartbeatRequest: (12, 4),
    LeaveGroupRequest: (13, 5),
    FindCoordinatorRequest: (10, 4),
    CreateTopicsRequest: (19, 7),
    OffsetCommitRequest: (8, 9),
    OffsetFetchRequest: (9, 9),
    InitProducerIdRequest: (22, 4),
}
R = TypeVar("R", bound=Message)


class Connection:
    """One request at a time, in flexible versions."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, request: Message, answer: type[R]) -> R:
        key, version = _VERSIONS[type(request)]
        frame = struct.pack(">hhih", key, version, 1, 1) + b"c\0" + bytes(encode(request, version))
        self._writer.write(struct.pack(">i", len(frame)) + frame)
        (size,) = struct.unpack(">i", await self._reader.readexactly(4))
        return decode(answer, version, memoryview(await self._reader.readexactly(size))[5:])

    def close(self) -> None:
        self._writer.close()
