"""ConsumerGroupHeartbeat v0-1 (KIP-848): a member joins, stays, follows its assignment, and leaves.

- v0 the member's id may be ours to choose; v1 it is the client's (KIP-1082), and regular expressions.
- Groups of the other kind: GROUP_ID_NOT_FOUND, unless they are empty. UNSUPPORTED_VERSION when
  group.coordinator.rebalance.protocols leaves "consumer" out.
"""

from __future__ import annotations

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.coordinator.group.consumer.validation import check_request
from bytemq.broker.coordinator.group.environment import RequestOrigin
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
)

_PROTOCOL = "consumer"


async def handle(
    broker: Broker, context: RequestContext, request: ConsumerGroupHeartbeatRequest
) -> ConsumerGroupHeartbeatResponse:
    if _PROTOCOL not in broker.config.group_coordinator_rebalance_protocols:
        raise KafkaError(ErrorCode.UNSUPPORTED_VERSION)
    check_request(request, context.api_version, broker.groups.consumer_settings_of(request.group_id).assignors)
    origin = RequestOrigin(context.client_id or "", context.peer, context.api_version, context.connection_id)
    shard = await broker.groups.awaited_shard_of(request.group_id)
    return await shard.write(lambda machine: machine.consumers.heartbeats.heartbeat(request, origin))


def error_response(
    request: ConsumerGroupHeartbeatRequest, version: int, code: ErrorCode, message: str | None
) -> ConsumerGroupHeartbeatResponse:
    return ConsumerGroupHeartbeatResponse(error_code=code, error_message=message or code.message)
