"""Heartbeat v0-4: a member says that it lives, and hears by REBALANCE_IN_PROGRESS that it must join again.

- v3+ static members.
- While the group is loading, or on its way here or from here, the answer is no error, as in Kafka: the member's session
  starts anew when it is loaded.
"""

from __future__ import annotations

from bytemq.broker.context import Broker, RequestContext
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse


def handle(broker: Broker, context: RequestContext, request: HeartbeatRequest) -> HeartbeatResponse:
    try:
        code = broker.groups.shard_of_named(request.group_id).call(lambda machine: machine.syncing.heartbeat(request))
    except KafkaError as error:
        if error.code is not ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
            raise
        code = ErrorCode.NONE
    return HeartbeatResponse(error_code=code)
