"""OffsetFetch v1-10: committed offsets of groups. What is not there is -1, without an error; unknown groups, too.

- v1-7 one group: errors are the partitions' in v1, the response's from v2; v2+ null topics are all topics.
- v7+ require_stable waits for commits on their way, and answers UNSTABLE_OFFSET_COMMIT for what an open transaction
  may change; v8+ several groups; v9+ member epochs, which classic groups ignore and consumer groups check
  (UNKNOWN_MEMBER_ID, STALE_MEMBER_EPOCH).
- v10 topics by id: UNKNOWN_TOPIC_ID.
"""

from __future__ import annotations

import asyncio

from bytemq.broker.context import Broker, RequestContext
from bytemq.metadata.image import ClusterImage
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
    OffsetFetchResponse,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
)
from bytemq.types import ZERO_TOPIC_ID, TopicId

_GROUP_ERROR_VERSION = 2
_GROUPS_VERSION = 8
_TOPIC_ID_VERSION = 10
_NO_OFFSET = -1


async def handle(broker: Broker, context: RequestContext, request: OffsetFetchRequest) -> OffsetFetchResponse:
    version = context.api_version
    if version >= _GROUPS_VERSION:
        fetched = (_fetch(broker, group, version, request.require_stable) for group in request.groups)
        return OffsetFetchResponse(groups=await asyncio.gather(*fetched))
    topics = None
    if request.topics is not None:
        topics = [
            OffsetFetchRequestTopics(name=each.name, partition_indexes=each.partition_indexes)
            for each in request.topics
        ]
    group = OffsetFetchRequestGroup(group_id=request.group_id, topics=topics)
    return _single(await _fetch(broker, group, version, request.require_stable), request, version)


async def _fetch(
    broker: Broker, group: OffsetFetchRequestGroup, version: int, require_stable: bool
) -> OffsetFetchResponseGroup:
    by_id = version >= _TOPIC_ID_VERSION
    unknown = _resolve(broker.image, group, by_id)
    try:
        shard = await broker.groups.awaited_shard_of(group.group_id)
        machine = await shard.settled() if require_stable else shard.serving_machine()
    except KafkaError as error:
        return OffsetFetchResponseGroup(group_id=group.group_id, error_code=error.code)
    try:
        response = machine.offsets.fetch(group, require_stable=require_stable)
    except KafkaError as error:
        return OffsetFetchResponseGroup(group_id=group.group_id, error_code=error.code)
    if group.topics is None:
        response.topics = [topic for topic in response.topics if _is_present(broker.image, topic, by_id)]
    response.topics += unknown
    return response


def _resolve(image: ClusterImage, group: OffsetFetchRequestGroup, by_id: bool) -> list[OffsetFetchResponseTopics]:
    """Gives each topic of the request its name and id; those whose id is unknown are taken out and answered."""
    unknown: list[OffsetFetchResponseTopics] = []
    known: list[OffsetFetchRequestTopics] = []
    for topic in group.topics or ():
        present = image.topics_by_id.get(TopicId(topic.topic_id)) if by_id else image.topics.get(topic.name)
        if present is not None:
            topic.name, topic.topic_id = present.name, present.topic_id
        elif by_id:
            unknown.append(_unknown_topic(topic))
            continue
        known.append(topic)
    if group.topics is not None:
        group.topics = known
    return unknown


def _unknown_topic(topic: OffsetFetchRequestTopics) -> OffsetFetchResponseTopics:
    code = ErrorCode.UNKNOWN_TOPIC_ID
    partitions = [OffsetFetchResponsePartitions(i, _NO_OFFSET, -1, "", code) for i in topic.partition_indexes]
    return OffsetFetchResponseTopics(topic.name, topic.topic_id, partitions)


def _is_present(image: ClusterImage, topic: OffsetFetchResponseTopics, by_id: bool) -> bool:
    """Whether the topic of an offset is there; from v10 one without an id cannot be named."""
    present = image.topics.get(topic.name)
    if present is None:
        return not by_id
    is_same = topic.topic_id in (ZERO_TOPIC_ID, present.topic_id)
    topic.topic_id = present.topic_id
    return is_same


def _single(group: OffsetFetchResponseGroup, request: OffsetFetchRequest, version: int) -> OffsetFetchResponse:
    """The form of v1-7."""
    if group.error_code and version >= _GROUP_ERROR_VERSION:
        return OffsetFetchResponse(error_code=group.error_code)
    if group.error_code:
        return OffsetFetchResponse(
            topics=[
                OffsetFetchResponseTopic(
                    topic.name,
                    [
                        OffsetFetchResponsePartition(i, _NO_OFFSET, -1, "", group.error_code)
                        for i in topic.partition_indexes
                    ],
                )
                for topic in request.topics or ()
            ]
        )
    return OffsetFetchResponse(
        topics=[
            OffsetFetchResponseTopic(
                topic.name,
                [
                    OffsetFetchResponsePartition(
                        each.partition_index,
                        each.committed_offset,
                        each.committed_leader_epoch,
                        each.metadata,
                        each.error_code,
                    )
                    for each in topic.partitions
                ],
            )
            for topic in group.topics
        ]
    )
