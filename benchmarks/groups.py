"""How long large groups take, over real sockets against a node of its own: forming, a member leaving, a restart.

    python -m benchmarks.groups [--members 1000] [--partitions 10000] [--reconnecting 500]

Members of the consumer protocol send heartbeats as often as they are told, and at once when their assignment changes;
classic members all join again when one leaves. The clients are one process, so their work is in the figures too.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.client import Connection
from bytemq.protocol.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    TopicPartitions,
)
from bytemq.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from bytemq.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from bytemq.protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from bytemq.protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse
from bytemq.protocol.messages.leave_group import LeaveGroupRequest, LeaveGroupResponse, MemberIdentity
from bytemq.protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse
from tests.support.node_process import NodeProcess

TOPIC = "t"
_SUBSCRIPTION = b"\0\0\0\0\0\1\0\1t\xff\xff\xff\xff"
_MEMBER_ID_REQUIRED = 79
_NOT_SERVING = (14, 15, 16)


class ConsumerMember:
    """A member of the consumer protocol. It gives up at once what it is asked to."""

    def __init__(self, connection: Connection) -> None:
        self.member_id = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")
        self.owned: list[TopicPartitions] = []
        self._connection = connection
        self._epoch = 0

    @property
    def partition_count(self) -> int:
        return sum(len(topic.partitions) for topic in self.owned)

    async def run(self) -> None:
        while True:
            request = ConsumerGroupHeartbeatRequest(
                group_id="consumers",
                member_id=self.member_id,
                member_epoch=self._epoch,
                rebalance_timeout_ms=-1 if self._epoch else 60_000,
                subscribed_topic_names=None if self._epoch else [TOPIC],
                topic_partitions=self.owned,
            )
            response = await self._connection.ask(request, ConsumerGroupHeartbeatResponse)
            assert response.error_code == 0, response.error_message
            has_moved = response.member_epoch != self._epoch
            self._epoch = response.member_epoch
            if response.assignment is not None:
                self.owned = response.assignment.topic_partitions
            elif not has_moved:
                await asyncio.sleep(response.heartbeat_interval_ms / 1000)


async def consumers(port: int, members: int, partitions: int) -> None:
    everybody = [ConsumerMember(await Connection.open(port)) for _ in range(members)]
    began = time.monotonic()
    tasks = [asyncio.create_task(each.run()) for each in everybody]
    await _until(lambda: all(m.owned for m in everybody) and _total(everybody) == partitions)
    print(f"consumer protocol: formed in {time.monotonic() - began:.2f} s")
    tasks[0].cancel()
    leaving, *others = everybody
    began = time.monotonic()
    connection = await Connection.open(port)
    request = ConsumerGroupHeartbeatRequest(group_id="consumers", member_id=leaving.member_id, member_epoch=-1)
    await connection.ask(request, ConsumerGroupHeartbeatResponse)
    answered_s = time.monotonic() - began
    await _until(lambda: _total(others) == partitions)
    print(
        f"consumer protocol: a leave is answered in {answered_s:.3f} s; the others read its partitions after "
        f"{time.monotonic() - began:.2f} s, with heartbeats at most 5 s apart"
    )
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def classic(port: int, members: int, partitions: int) -> list[JoinGroupResponse]:
    """The members that are left, and their generation."""
    connections = [await Connection.open(port) for _ in range(members)]

    async def form(joining: list[tuple[Connection, str]]) -> list[JoinGroupResponse]:
        joined = await asyncio.gather(*(_join(connection, member_id) for connection, member_id in joining))
        synced = await asyncio.gather(
            *(_sync(connection, each, partitions) for (connection, _), each in zip(joining, joined, strict=True))
        )
        assert not any(each.error_code for each in synced)
        return joined

    began = time.monotonic()
    joined = await form([(connection, "") for connection in connections])
    print(f"classic protocol: formed in {time.monotonic() - began:.2f} s, with the initial delay of 3 s")
    began = time.monotonic()
    leaving = LeaveGroupRequest(group_id="classics", members=[MemberIdentity(joined[0].member_id, None)])
    await connections[0].ask(leaving, LeaveGroupResponse)
    left = await form([(connection, each.member_id) for connection, each in zip(connections, joined, strict=True)][1:])
    print(f"classic protocol: a leave is absorbed in {time.monotonic() - began:.2f} s once everybody knows of it")
    return left


async def _join(connection: Connection, member_id: str) -> JoinGroupResponse:
    request = JoinGroupRequest(
        group_id="classics",
        session_timeout_ms=45_000,
        rebalance_timeout_ms=60_000,
        member_id=member_id,
        group_instance_id=None,
        protocol_type="consumer",
        protocols=[JoinGroupRequestProtocol("range", memoryview(_SUBSCRIPTION))],
    )
    response = await connection.ask(request, JoinGroupResponse)
    if response.error_code == _MEMBER_ID_REQUIRED:
        return await _join(connection, response.member_id)
    assert response.error_code == 0, response.error_code
    return response


async def _sync(connection: Connection, joined: JoinGroupResponse, partitions: int) -> SyncGroupResponse:
    """A leader deals the partitions out in turn."""
    members = [each.member_id for each in joined.members]
    assignments = [
        SyncGroupRequestAssignment(member_id, memoryview(_assignment(range(first, partitions, len(members)))))
        for first, member_id in enumerate(members)
    ]
    request = SyncGroupRequest(
        group_id="classics",
        generation_id=joined.generation_id,
        member_id=joined.member_id,
        protocol_type="consumer",
        protocol_name="range",
        assignments=assignments,
    )
    return await connection.ask(request, SyncGroupResponse)


def _assignment(partitions: range) -> bytes:
    indexes = struct.pack(f">i{len(partitions)}i", len(partitions), *partitions)
    return b"\0\0\0\0\0\1\0\1t" + indexes + b"\xff\xff\xff\xff"


async def reconnect(port: int, members: list[JoinGroupResponse]) -> None:
    """All at once, right after the ready line."""
    began = time.monotonic()

    async def served(member: JoinGroupResponse) -> float:
        while True:
            try:
                connection = await Connection.open(port)
                await _find_coordinator(connection)
                beat = HeartbeatRequest(
                    group_id="classics", generation_id=member.generation_id, member_id=member.member_id
                )
                while (await connection.ask(beat, HeartbeatResponse)).error_code in _NOT_SERVING:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
                return time.monotonic() - began
            except (OSError, EOFError):
                await asyncio.sleep(0.1)

    took_s = await asyncio.gather(*map(served, members))
    print(f"{len(members)} members reconnect after a restart: all are served within {max(took_s):.2f} s")


async def _find_coordinator(connection: Connection) -> None:
    request = FindCoordinatorRequest(key_type=0, coordinator_keys=["consumers", "classics"])
    while any(each.error_code for each in (await connection.ask(request, FindCoordinatorResponse)).coordinators):  # noqa: ASYNC110
        await asyncio.sleep(0.1)


def _total(members: list[ConsumerMember]) -> int:
    return sum(each.partition_count for each in members)


async def _until(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def measure(members: int, partitions: int, reconnecting: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="groups-"))
    node = NodeProcess(folder / "data").start()
    try:
        connection = await Connection.open(node.port)
        topic = CreatableTopic(name=TOPIC, num_partitions=partitions, replication_factor=1)
        await connection.ask(CreateTopicsRequest(topics=[topic], timeout_ms=60_000), CreateTopicsResponse)
        await _find_coordinator(connection)
        await consumers(node.port, members, partitions)
        left = await classic(node.port, members, partitions)
        node.terminate()
        node.restart()
        await reconnect(node.port, left[:reconnecting])
    finally:
        node.close()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=1_000)
    parser.add_argument("--partitions", type=int, default=10_000)
    parser.add_argument("--reconnecting", type=int, default=500)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.members, arguments.partitions, arguments.reconnecting))


if __name__ == "__main__":
    main()
