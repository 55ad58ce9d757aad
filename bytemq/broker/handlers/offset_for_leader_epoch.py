"""OffsetForLeaderEpoch v2-4: where a leader epoch ends (KIP-101, KIP-320), for clients that look for truncation.

Committed records are never taken back here, so what a client has consumed always agrees with the log. The client's
current leader epoch is checked; unknown epochs give epoch and end offset -1.
"""

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.log.waiters import Awaited
from bytemq.broker.partition_lookup import locate
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.offset_for_leader_epoch import (
    EpochEndOffset,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition,
    OffsetForLeaderTopicResult,
)
from bytemq.runtime.turns import each

PARTITIONS_PER_TURN = 200
"""Answered before others have their turn."""


async def handle(
    broker: Broker, context: RequestContext, request: OffsetForLeaderEpochRequest
) -> OffsetForLeaderEpochResponse:
    topics = [OffsetForLeaderTopicResult(topic=topic.topic) for topic in request.topics]
    partitions = (
        (answer, asked) for answer, topic in zip(topics, request.topics, strict=True) for asked in topic.partitions
    )
    async for answer, asked in each(broker.turns, partitions, PARTITIONS_PER_TURN):
        answer.partitions.append(await _end_of(broker, answer.topic, asked))
    return OffsetForLeaderEpochResponse(topics=topics)


async def _end_of(broker: Broker, topic: str, asked: OffsetForLeaderPartition) -> EpochEndOffset:
    found = locate(broker, topic, None, asked.partition)
    try:
        if isinstance(found, Awaited):
            found = await broker.partitions.opened(found)
    except KafkaError as error:
        found = error.code
    if isinstance(found, ErrorCode):
        return EpochEndOffset(error_code=found, partition=asked.partition)
    end = found.offset_for_leader_epoch(asked.leader_epoch, asked.current_leader_epoch)
    return EpochEndOffset(
        error_code=end.error, partition=asked.partition, leader_epoch=end.leader_epoch, end_offset=end.end_offset
    )
