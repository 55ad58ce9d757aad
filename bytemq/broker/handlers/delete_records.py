"""DeleteRecords v0-2: moves the log start offset of partitions forward; -1 means up to the high watermark.

Internal topics are refused (INVALID_TOPIC_EXCEPTION), compacted ones without "delete" too (POLICY_VIOLATION), and
offsets that were never written (OFFSET_OUT_OF_RANGE). Going backwards is no error. Durable before it is answered.
"""

from __future__ import annotations

from itertools import islice

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.owned import open_owned
from bytemq.metadata.topic_names import INTERNAL_TOPICS
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsPartitionResult,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopicResult,
)
from bytemq.runtime.turns import side_by_side

UNKNOWN_LOW_WATERMARK = -1
PARTITIONS_AT_ONCE = 200


async def handle(broker: Broker, context: RequestContext, request: DeleteRecordsRequest) -> DeleteRecordsResponse:
    work = (_delete(broker, topic.name, partition) for topic in request.topics for partition in topic.partitions)
    results = iter(await side_by_side(broker.turns, work, PARTITIONS_AT_ONCE))
    return DeleteRecordsResponse(
        topics=[
            DeleteRecordsTopicResult(topic.name, list(islice(results, len(topic.partitions))))
            for topic in request.topics
            if topic.partitions
        ]
    )


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
