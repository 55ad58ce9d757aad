"""JoinGroup v0-9: a member joins, or joins again. Parked until the rebalance is complete.

- v0 has no rebalance timeout; v4+ dynamic members must know their id (MEMBER_ID_REQUIRED, KIP-394); v5+ static members
  (KIP-345); v7+ null protocol names in refusals; v9 skip_assignment for a static leader that is back (KIP-814).
- The leader's answer has everybody's metadata, which may be hundreds of megabytes: they are not copied into it.
- Kafka never answers a request below v4 that names a protocol twice; we answer INVALID_REQUEST, in every version.
"""

from __future__ import annotations

import asyncio

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.coordinator.group.environment import RequestOrigin
from bytemq.broker.coordinator.group.join import check_request, refusal
from bytemq.broker.coordinator.group_coordinators import group_settings
from bytemq.protocol.codec import encode_in_parts
from bytemq.protocol.error_codes import KafkaError
from bytemq.protocol.messages.join_group import JoinGroupRequest, JoinGroupResponse
from bytemq.protocol.primitives import Buffer

_NULL_PROTOCOL_VERSION = 7


async def handle(
    broker: Broker, context: RequestContext, request: JoinGroupRequest
) -> JoinGroupResponse | list[Buffer]:
    try:
        check_request(request, group_settings(broker.config))
    except KafkaError as error:
        return _as_of(context.api_version, refusal(request, error.code))
    shard = await broker.groups.awaited_shard_of(request.group_id)
    origin = RequestOrigin(context.client_id or "", context.peer, context.api_version)
    answered: asyncio.Future[JoinGroupResponse] = asyncio.get_running_loop().create_future()

    def reply(response: JoinGroupResponse) -> None:
        if not answered.done():
            answered.set_result(response)

    shard.run(lambda machine: machine.joining.join(request, origin, reply))
    request.protocols.clear()  # they show the frame, which would stay in memory with them
    context.release_frame()
    response = _as_of(context.api_version, await answered)
    return encode_in_parts(response, context.api_version) if response.members else response


def _as_of(version: int, response: JoinGroupResponse) -> JoinGroupResponse:
    if response.protocol_name is None and version < _NULL_PROTOCOL_VERSION:
        response.protocol_name = ""
    return response
