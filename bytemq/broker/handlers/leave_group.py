"""LeaveGroup v0-5: members leave, or are removed by an administrator.

- v0-2 one member, whose error is the response's; v3+ several, each with its own error, by id or by instance id alone.
"""

from __future__ import annotations

from bytemq.broker.context import Broker, RequestContext
from bytemq.protocol.messages.leave_group import LeaveGroupRequest, LeaveGroupResponse, MemberIdentity

_BATCH_VERSION = 3


async def handle(broker: Broker, context: RequestContext, request: LeaveGroupRequest) -> LeaveGroupResponse:
    shard = await broker.groups.awaited_shard_of_named(request.group_id)
    is_batch = context.api_version >= _BATCH_VERSION
    if not is_batch:
        request.members = [MemberIdentity(member_id=request.member_id)]
    response = await shard.write(lambda machine: machine.leaving.leave(request))
    return response if is_batch else LeaveGroupResponse(error_code=response.members[0].error_code)
