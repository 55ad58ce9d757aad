"""OffsetDelete v0: deletes a group's offsets.

- GROUP_SUBSCRIBED_TO_TOPIC for topics that a member is subscribed to; NON_EMPTY_GROUP where that cannot be known.
"""

from __future__ import annotations

from bytemq.broker.context import Broker, RequestContext
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestTopic,
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
)


async def handle(broker: Broker, context: RequestContext, request: OffsetDeleteRequest) -> OffsetDeleteResponse:
    if not request.group_id:
        raise KafkaError(ErrorCode.INVALID_GROUP_ID)
    unknown: dict[str, OffsetDeleteResponseTopic] = {}
    known: list[OffsetDeleteRequestTopic] = []
    for topic in request.topics:
        present = broker.image.topics.get(topic.name)
        count = 0 if present is None else len(present.partitions)
        missing = [each.partition_index for each in topic.partitions if not 0 <= each.partition_index < count]
        if missing:
            unknown[topic.name] = _unknown(topic.name, missing)
            topic.partitions = [each for each in topic.partitions if 0 <= each.partition_index < count]
        if topic.partitions:
            known.append(topic)
    if unknown and not known:
        return OffsetDeleteResponse(topics=list(unknown.values()))
    request.topics = known
    shard = await broker.groups.awaited_shard_of(request.group_id)
    response = await shard.write(lambda machine: machine.offsets.delete(request))
    for answered in response.topics:
        if answered.name in unknown:
            answered.partitions += unknown.pop(answered.name).partitions
    response.topics += unknown.values()
    return response


def _unknown(name: str, indexes: list[int]) -> OffsetDeleteResponseTopic:
    code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    return OffsetDeleteResponseTopic(name, [OffsetDeleteResponsePartition(index, code) for index in indexes])
