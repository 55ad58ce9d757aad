"""LeaveGroup v0-5: members leave, or are removed by an administrator.

- v0-2 one member, whose error is the response's; v3+ several, each with its own error, by id or by instance id alone.
- Very many leave in slices, in turns of the loop.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.coordinator.group.shard import GroupShard
from bytemq.broker.coordinator.outcome import Outcome
from bytemq.protocol.messages.leave_group import LeaveGroupRequest, LeaveGroupResponse, MemberIdentity, MemberResponse

_BATCH_VERSION = 3
SLICE_MEMBERS = 5_000
"""They cause one rebalance together."""


async def handle(broker: Broker, context: RequestContext, request: LeaveGroupRequest) -> LeaveGroupResponse:
    is_batch = context.api_version >= _BATCH_VERSION
    members = request.members if is_batch else [MemberIdentity(member_id=request.member_id)]
    answers: list[MemberResponse] = []
    for start in range(0, len(members) or 1, SLICE_MEMBERS):
        if start:
            await broker.turns.next()
        part = replace(request, members=members[start : start + SLICE_MEMBERS])
        shard = await broker.groups.awaited_shard_of_named(request.group_id)
        answers += (await shard.write(partial(_leave, part))).members
    return LeaveGroupResponse(members=answers) if is_batch else LeaveGroupResponse(error_code=answers[0].error_code)


def _leave(request: LeaveGroupRequest, machine: GroupShard) -> Outcome[LeaveGroupResponse]:
    return machine.leaving.leave(request)
