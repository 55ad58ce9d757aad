"""SyncGroup v0-5: the leader brings the assignment; every member gets its share, once it is committed.

- v3+ static members; v5+ protocol type and name, which must be the group's (INCONSISTENT_GROUP_PROTOCOL, KIP-559).
"""

from __future__ import annotations

import asyncio

from bytemq.broker.context import Broker, RequestContext
from bytemq.protocol.messages.sync_group import SyncGroupRequest, SyncGroupResponse


async def handle(broker: Broker, context: RequestContext, request: SyncGroupRequest) -> SyncGroupResponse:
    shard = await broker.groups.awaited_shard_of_named(request.group_id)
    answered: asyncio.Future[SyncGroupResponse] = asyncio.get_running_loop().create_future()

    def reply(response: SyncGroupResponse) -> None:
        if not answered.done():
            answered.set_result(response)

    shard.run(lambda machine: machine.syncing.sync(request, reply))
    request.assignments.clear()  # they show the frame, which would stay in memory with them
    context.release_frame()
    return await answered
