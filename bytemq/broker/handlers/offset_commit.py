"""OffsetCommit v2-10: a group's offsets, by members or, with generation -1, by whoever needs no more of the group.

- v2-4 a retention of the client's own; v6+ leader epochs; v7+ static members; v10 topics by id.
- v9+ GROUP_ID_NOT_FOUND for an unknown group with a generation (ILLEGAL_GENERATION before).
- Members of consumer groups commit by v9+ (UNSUPPORTED_VERSION before), at their epoch (STALE_MEMBER_EPOCH).
- Unknown topics and partitions fail by themselves, before the group is asked. Any offset is accepted, -1 and -5 too.
- Very many offsets are committed in slices, in turns of the loop; once one is refused, so is all that follows.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.coordinator.group.environment import RequestOrigin
from bytemq.broker.coordinator.group.shard import GroupShard
from bytemq.broker.coordinator.outcome import Outcome
from bytemq.broker.offset_slices import slices
from bytemq.metadata.image import ClusterImage, TopicImage
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
)
from bytemq.types import TopicId

_TOPIC_ID_VERSION = 10


async def handle(broker: Broker, context: RequestContext, request: OffsetCommitRequest) -> OffsetCommitResponse:
    by_id = context.api_version >= _TOPIC_ID_VERSION
    answers: list[OffsetCommitResponseTopic] = []
    known: list[OffsetCommitRequestTopic] = []
    for topic in request.topics:
        unknown = ErrorCode.UNKNOWN_TOPIC_ID if by_id else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        image = _find(broker.image, topic, by_id)
        if image is None:
            answers.append(_refused(topic, [partition.partition_index for partition in topic.partitions], unknown))
            continue
        topic.name, topic.topic_id = image.name, image.topic_id
        count = len(image.partitions)
        missing = [each.partition_index for each in topic.partitions if not 0 <= each.partition_index < count]
        if missing:
            answers.append(_refused(topic, missing, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION))
            topic.partitions = [each for each in topic.partitions if 0 <= each.partition_index < count]
        if topic.partitions:
            known.append(topic)
    if not known:
        return OffsetCommitResponse(topics=answers)
    origin = RequestOrigin(context.client_id or "", context.peer, context.api_version)
    committed: list[OffsetCommitResponseTopic] = []
    refusal = ErrorCode.NONE
    for continues, topics in slices(known):
        part = replace(request, topics=topics)
        if committed:
            await broker.turns.next()
        if not refusal:  # else the client may ask again elsewhere, and what is left of this must not come after that
            try:
                shard = await broker.groups.awaited_shard_of(request.group_id)
                answered = (await shard.write(partial(_commit, part, origin))).topics
            except KafkaError as error:
                refusal = error.code
        if refusal:
            answered = [
                _refused(topic, [each.partition_index for each in topic.partitions], refusal) for topic in topics
            ]
        if continues:
            committed[-1].partitions += answered.pop(0).partitions
        committed += answered
    return OffsetCommitResponse(topics=_merged([*answers, *committed]) if answers or refusal else committed)


def _commit(request: OffsetCommitRequest, origin: RequestOrigin, machine: GroupShard) -> Outcome[OffsetCommitResponse]:
    return machine.offsets.commit(request, origin)


def _find(image: ClusterImage, topic: OffsetCommitRequestTopic, by_id: bool) -> TopicImage | None:
    return image.topics_by_id.get(TopicId(topic.topic_id)) if by_id else image.topics.get(topic.name)


def _refused(topic: OffsetCommitRequestTopic, indexes: list[int], code: ErrorCode) -> OffsetCommitResponseTopic:
    partitions = [OffsetCommitResponsePartition(index, code) for index in indexes]
    return OffsetCommitResponseTopic(topic.name, topic.topic_id, partitions)


def _merged(answers: list[OffsetCommitResponseTopic]) -> list[OffsetCommitResponseTopic]:
    """Each topic once."""
    merged: dict[tuple[str, bytes], OffsetCommitResponseTopic] = {}
    for answer in answers:
        earlier = merged.setdefault((answer.name, answer.topic_id), answer)
        if earlier is not answer:
            earlier.partitions += answer.partitions
    return list(merged.values())
