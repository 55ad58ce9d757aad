"""OffsetFetch v1-10: committed offsets of groups. What is not there is -1, without an error; unknown groups, too.

- v1-7 one group: errors are the partitions' in v1, the response's from v2; v2+ null topics are all topics.
- v7+ require_stable waits for commits on their way, and answers UNSTABLE_OFFSET_COMMIT for what an open transaction
  may change; v8+ several groups; v9+ member epochs, which classic groups ignore and consumer groups check
  (UNKNOWN_MEMBER_ID, STALE_MEMBER_EPOCH).
- v10 topics by id: UNKNOWN_TOPIC_ID.
- All is of one moment, and put into words in turns: a group may have a million offsets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.coordinator.group.fetched_offsets import FetchedTopic
from bytemq.broker.sliced_response import EncodedInTurns, response_of
from bytemq.metadata.image import ClusterImage
from bytemq.protocol.codec import encode
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
from bytemq.runtime.turns import side_by_side
from bytemq.types import ZERO_TOPIC_ID, TopicId

GROUPS_AT_ONCE = 200
_GROUP_ERROR_VERSION = 2
_FLEXIBLE_VERSION = 6
_GROUPS_VERSION = 8
_TOPIC_ID_VERSION = 10
_NO_OFFSET = -1
_ERROR_BYTES = 2
_TAGS_BYTES = 1


class _Topic(NamedTuple):
    name: str
    topic_id: bytes
    partitions: Iterable[OffsetFetchResponsePartitions]


class _Answer(NamedTuple):
    """Of one group. `topics` are made as they are asked for."""

    group_id: str
    error_code: ErrorCode = ErrorCode.NONE
    topics: Iterable[_Topic] = ()


async def handle(broker: Broker, context: RequestContext, request: OffsetFetchRequest) -> bytes:
    """The encoded response."""
    version = context.api_version
    encoding = EncodedInTurns(broker.turns, OffsetFetchResponse, version)
    if version >= _GROUPS_VERSION:
        fetched = (_fetch(broker, group, version, request.require_stable) for group in request.groups)
        answers = await side_by_side(broker.turns, fetched, GROUPS_AT_ONCE)
        return response_of(OffsetFetchResponse, version, [await _encoded_group(encoding, each) for each in answers])
    topics = None
    if request.topics is not None:
        topics = [
            OffsetFetchRequestTopics(name=each.name, partition_indexes=each.partition_indexes)
            for each in request.topics
        ]
    group = OffsetFetchRequestGroup(group_id=request.group_id, topics=topics)
    return await _single(encoding, await _fetch(broker, group, version, request.require_stable), request, version)


async def _fetch(broker: Broker, group: OffsetFetchRequestGroup, version: int, require_stable: bool) -> _Answer:
    by_id = version >= _TOPIC_ID_VERSION
    unknown = _resolve(broker.image, group, by_id)
    try:
        shard = await broker.groups.awaited_shard_of(group.group_id)
        machine = await shard.settled() if require_stable else shard.serving_machine()
        found = machine.offsets.fetch(group, require_stable=require_stable)
    except KafkaError as error:
        return _Answer(group.group_id, error.code)
    known: Iterable[_Topic] = (_Topic(topic.name, topic.topic_id, topic.partitions) for topic in found)
    if group.topics is None:
        known = _present(broker.image, found, by_id)
    return _Answer(group.group_id, topics=chain(known, unknown))


def _resolve(image: ClusterImage, group: OffsetFetchRequestGroup, by_id: bool) -> list[_Topic]:
    """Gives each topic of the request its name and id; those whose id is unknown are taken out and answered."""
    unknown: list[_Topic] = []
    known: list[OffsetFetchRequestTopics] = []
    for topic in group.topics or ():
        present = image.topics_by_id.get(TopicId(topic.topic_id)) if by_id else image.topics.get(topic.name)
        if present is not None:
            topic.name, topic.topic_id = present.name, present.topic_id
        elif by_id:
            unknown.append(_refused(topic.name, topic.topic_id, topic.partition_indexes, ErrorCode.UNKNOWN_TOPIC_ID))
            continue
        known.append(topic)
    if group.topics is not None:
        group.topics = known
    return unknown


def _refused(name: str, topic_id: bytes, indexes: Iterable[int], code: ErrorCode) -> _Topic:
    return _Topic(name, topic_id, (OffsetFetchResponsePartitions(i, _NO_OFFSET, -1, "", code) for i in indexes))


def _present(image: ClusterImage, found: Iterable[FetchedTopic], by_id: bool) -> Iterator[_Topic]:
    """Those whose topic is there; from v10 one without an id cannot be named."""
    for topic in found:
        present = image.topics.get(topic.name)
        if present is not None and topic.topic_id in (ZERO_TOPIC_ID, present.topic_id):
            yield _Topic(topic.name, present.topic_id, topic.partitions)
        elif present is None and not by_id:
            yield _Topic(topic.name, topic.topic_id, topic.partitions)


async def _encoded_group(encoding: EncodedInTurns, answer: _Answer) -> bytes:
    topics = []
    for name, topic_id, partitions in answer.topics:
        encoded = await encoding.array(partitions)
        topics.append(await encoding.filled(OffsetFetchResponseTopics(name, topic_id), _TAGS_BYTES, encoded))
    group = OffsetFetchResponseGroup(answer.group_id, error_code=answer.error_code)
    return await encoding.filled(group, _ERROR_BYTES + _TAGS_BYTES, encoding.array_of(topics))


async def _single(encoding: EncodedInTurns, answer: _Answer, request: OffsetFetchRequest, version: int) -> bytes:
    """The form of v1-7."""
    if answer.error_code and version >= _GROUP_ERROR_VERSION:
        return bytes(encode(OffsetFetchResponse(error_code=answer.error_code), version))
    found = answer.topics
    if answer.error_code:
        asked = request.topics or ()
        found = (_refused(each.name, bytes(16), each.partition_indexes, answer.error_code) for each in asked)
    tags_bytes = _TAGS_BYTES if version >= _FLEXIBLE_VERSION else 0
    topics = []
    for name, _, partitions in found:
        encoded = await encoding.array(map(_plain, partitions))
        topics.append(await encoding.filled(OffsetFetchResponseTopic(name), tags_bytes, encoded))
    behind_bytes = tags_bytes + (_ERROR_BYTES if version >= _GROUP_ERROR_VERSION else 0)
    return encoding.with_array(bytes(encode(OffsetFetchResponse(), version)), behind_bytes, encoding.array_of(topics))


def _plain(each: OffsetFetchResponsePartitions) -> OffsetFetchResponsePartition:
    return OffsetFetchResponsePartition(
        each.partition_index,
        each.committed_offset,
        each.committed_leader_epoch,
        each.metadata,
        each.error_code,
    )
