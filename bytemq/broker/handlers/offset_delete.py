"""OffsetDelete v0: deletes a group's offsets.

- GROUP_SUBSCRIBED_TO_TOPIC for topics that a member is subscribed to; NON_EMPTY_GROUP where that cannot be known.
- Very many are deleted in slices, in turns of the loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.coordinator.group.shard import GroupShard
from bytemq.broker.coordinator.outcome import Outcome
from bytemq.broker.offset_slices import slices
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
    unknown: dict[str, list[int]] = {}
    known: list[OffsetDeleteRequestTopic] = []
    for topic in request.topics:
        present = broker.image.topics.get(topic.name)
        count = 0 if present is None else len(present.partitions)
        missing = [each.partition_index for each in topic.partitions if not 0 <= each.partition_index < count]
        if missing:
            unknown.setdefault(topic.name, []).extend(missing)
            topic.partitions = [each for each in topic.partitions if 0 <= each.partition_index < count]
        if topic.partitions:
            known.append(topic)
    if unknown and not known:
        return OffsetDeleteResponse(topics=_refused(unknown))
    deleted: list[OffsetDeleteResponseTopic] = []
    for continues, topics in slices(known):
        if deleted:
            await broker.turns.next()
        shard = await broker.groups.awaited_shard_of(request.group_id)
        answered = (await shard.write(partial(_delete, replace(request, topics=topics)))).topics
        if continues:
            deleted[-1].partitions += answered.pop(0).partitions
        deleted += answered
    for answer in deleted:
        answer.partitions += _unknown(unknown.pop(answer.name, ()))
    return OffsetDeleteResponse(topics=[*deleted, *_refused(unknown)])


def _delete(request: OffsetDeleteRequest, machine: GroupShard) -> Outcome[OffsetDeleteResponse]:
    return machine.offsets.delete(request)


def _refused(unknown: Mapping[str, Iterable[int]]) -> list[OffsetDeleteResponseTopic]:
    return [OffsetDeleteResponseTopic(name, _unknown(indexes)) for name, indexes in unknown.items()]


def _unknown(indexes: Iterable[int]) -> list[OffsetDeleteResponsePartition]:
    return [OffsetDeleteResponsePartition(index, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION) for index in indexes]
