"""AddOffsetsToTxn v0-4: a transaction is going to commit offsets of a group.

The partition of `__consumer_offsets` that has the group takes part from then on. v2+ PRODUCER_FENCED,
INVALID_PRODUCER_EPOCH before.
"""

from __future__ import annotations

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.coordinator.placement import partition_for
from bytemq.broker.coordinator.transaction.adding import Writer
from bytemq.broker.coordinator.transaction.answers import answered
from bytemq.metadata.topic_names import OFFSETS_TOPIC
from bytemq.protocol.error_codes import KafkaError
from bytemq.protocol.messages.add_offsets_to_txn import AddOffsetsToTxnRequest, AddOffsetsToTxnResponse

_FENCED_VERSION = 2


async def handle(broker: Broker, context: RequestContext, request: AddOffsetsToTxnRequest) -> AddOffsetsToTxnResponse:
    writer = Writer(request.transactional_id, request.producer_id, request.producer_epoch)
    try:
        topic = await broker.topics.auto_create(OFFSETS_TOPIC)
        partition = (OFFSETS_TOPIC, partition_for(request.group_id, len(topic.partitions)))
        await broker.transactions.write(
            request.transactional_id, lambda machine, _: machine.adding.add(writer, [partition], client_version=0)
        )
    except KafkaError as error:
        return AddOffsetsToTxnResponse(error_code=answered(error.code, context.api_version, _FENCED_VERSION))
    return AddOffsetsToTxnResponse()
