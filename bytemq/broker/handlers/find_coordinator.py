"""FindCoordinator v0-6: which broker coordinates a group or a transactional id. Creates `__consumer_offsets` or
`__transaction_state` on first use, and answers then.

- v1+ key types; v4+ several keys.
- Share groups have no coordinator here yet: their keys get INVALID_REQUEST with a text that says so: clients report it
  at once, instead of looking for a coordinator until they time out.
"""

from __future__ import annotations

from enum import IntEnum

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.coordinator.placement import partition_for
from bytemq.metadata.topic_names import OFFSETS_TOPIC, TRANSACTION_TOPIC
from bytemq.metadata.values import NO_BROKER, DoubtStage
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.find_coordinator import Coordinator, FindCoordinatorRequest, FindCoordinatorResponse
from bytemq.runtime.turns import each

KEYS_PER_TURN = 500
"""Looked for before others have their turn."""

_BATCH_VERSION = 4


class KeyType(IntEnum):
    """What a key names."""

    GROUP = 0
    TRANSACTION = 1
    SHARE = 2


_NOT_SERVED = {KeyType.SHARE: "Share groups are not supported by this version of the server."}
_TOPICS = {KeyType.GROUP: OFFSETS_TOPIC, KeyType.TRANSACTION: TRANSACTION_TOPIC}


async def handle(broker: Broker, context: RequestContext, request: FindCoordinatorRequest) -> FindCoordinatorResponse:
    is_batch = context.api_version >= _BATCH_VERSION
    keys = request.coordinator_keys if is_batch else [request.key]
    coordinators = [
        await _find(broker, context, key, request.key_type) async for key in each(broker.turns, keys, KEYS_PER_TURN)
    ]
    if is_batch:
        return FindCoordinatorResponse(coordinators=coordinators)
    found = coordinators[0]
    return FindCoordinatorResponse(
        error_code=found.error_code,
        error_message=found.error_message or ErrorCode.NONE.message,
        node_id=found.node_id,
        host=found.host,
        port=found.port,
    )


async def _find(broker: Broker, context: RequestContext, key: str, key_type: int) -> Coordinator:
    try:
        node_id = await _coordinating_node(broker, context, key, key_type)
        node = broker.image.brokers.get(node_id)
        address = None if node is None else node.endpoints.get(context.listener)
        if address is None:
            raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE)
    except KafkaError as error:
        return Coordinator(key, NO_BROKER, "", NO_BROKER, error.code, error.message)
    return Coordinator(key, node_id, *address, ErrorCode.NONE, "")


async def _coordinating_node(broker: Broker, context: RequestContext, key: str, key_type: int) -> int:
    """The owner of the key's partition, or whom the planner has found when there is none any more: who comes too early
    waits there, a moment. Raises KafkaError.
    """
    if key_type not in _TOPICS:
        reason = _NOT_SERVED.get(KeyType(key_type)) if key_type in _NOT_SERVED else f"Unknown key type {key_type}."
        raise KafkaError(ErrorCode.INVALID_REQUEST, reason)
    try:
        topic = await broker.topics.auto_create(_TOPICS[KeyType(key_type)])
    except KafkaError as error:
        raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE, error.message) from error
    partition = topic.partitions[partition_for(key, len(topic.partitions))]
    is_expected = partition.owner == NO_BROKER or broker.image.doubt_in(partition.owner) is DoubtStage.ENDING
    return partition.assigned if is_expected else partition.owner
