"""DeleteGroups v0-3: deletes empty groups with their offsets.

- NON_EMPTY_GROUP, GROUP_ID_NOT_FOUND for each group by itself; v3 has error messages.
"""

from __future__ import annotations

import asyncio

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.coordinator.group_coordinators import GroupRuntime
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.delete_groups import DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse
from bytemq.runtime.turns import side_by_side

GROUPS_AT_ONCE = 200


async def handle(broker: Broker, context: RequestContext, request: DeleteGroupsRequest) -> DeleteGroupsResponse:
    results: list[DeletableGroupResult] = []
    by_shard: dict[GroupRuntime, list[str]] = {}
    group_ids = list(dict.fromkeys(request.groups_names))
    found = await side_by_side(broker.turns, (_find(broker, each) for each in group_ids), GROUPS_AT_ONCE)
    for group_id, shard in zip(group_ids, found, strict=True):
        if isinstance(shard, ErrorCode):
            results.append(DeletableGroupResult(group_id=group_id, error_code=shard))
        else:
            by_shard.setdefault(shard, []).append(group_id)
    for deleted in await asyncio.gather(*(_delete(shard, group_ids) for shard, group_ids in by_shard.items())):
        results += deleted
    return DeleteGroupsResponse(results=results)


async def _find(broker: Broker, group_id: str) -> GroupRuntime | ErrorCode:
    try:
        return await broker.groups.awaited_shard_of(group_id)
    except KafkaError as error:
        return error.code


async def _delete(shard: GroupRuntime, group_ids: list[str]) -> list[DeletableGroupResult]:
    try:
        return await shard.write(lambda machine: machine.removal.delete_groups(group_ids))
    except KafkaError as error:
        return [DeletableGroupResult(group_id=group_id, error_code=error.code) for group_id in group_ids]
