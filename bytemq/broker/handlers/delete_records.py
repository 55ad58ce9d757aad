"""DeleteRecords v0-2: moves the log start offset of partitions forward; -1 means up to the high watermark.

Internal topics are refused (INVALID_TOPIC_EXCEPTION), compacted ones without "delete" too (POLICY_VIOLATION), and
offsets that were never written (OFFSET_OUT_OF_RANGE). Going backwards is no error. Durable before it is answered.
"""

from __future__ import annotations

import asyncio

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.owned import open_owned
from bytemq.metadata.topic_names import INTERNAL_TOPICS
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsPartitionResult,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopic,
    DeleteRecordsTopicResult,
)

UNKNOWN_LOW_WATERMARK = -1


async def handle(broker: Broker, context: RequestContext, request: DeleteRecordsRequest) -> DeleteRecordsResponse:
    topics = await asyncio.gather(*(_delete_of_topic(broker, topic) for topic in request.topics if topic.partitions))
    return DeleteRecordsResponse(topics=topics)


async def _delete_of_topic(broker: Broker, topic: DeleteRecordsTopic) -> DeleteRecordsTopicResult:
    results = await asyncio.gather(*(_delete(broker, topic.name, partition) for partition in topic.partitions))
    return DeleteRecordsTopicResult(name=topic.name, partitions=results)


async def _delete(broker: Broker, topic: str, asked: DeleteRecordsPartition) -> DeleteRecordsPartitionResult:
    try:
        if topic in INTERNAL_TOPICS:
            raise KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION)
        partition = await open_owned(broker, topic, asked.partition_index)
        code, low_watermark = await partition.delete_records(asked.offset)
    except KafkaError as error:
        code, low_watermark = error.code, UNKNOWN_LOW_WATERMARK
    return DeleteRecordsPartitionResult(
        partition_index=asked.partition_index, low_watermark=low_watermark, error_code=code
    )
