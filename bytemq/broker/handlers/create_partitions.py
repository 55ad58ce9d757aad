"""CreatePartitions v0-3: gives topics more partitions.

A topic that is named twice is not changed (INVALID_REQUEST, once). An expired deadline changes nothing
(REQUEST_TIMED_OUT). The answer comes when the new partitions are served here.
"""

from __future__ import annotations

from collections import Counter

from bytemq.broker.context import Broker, RequestContext
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.create_partitions import (
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopic,
    CreatePartitionsTopicResult,
)
from bytemq.runtime.turns import side_by_side

TOPICS_AT_ONCE = 200


async def handle(broker: Broker, context: RequestContext, request: CreatePartitionsRequest) -> CreatePartitionsResponse:
    named = Counter(topic.name for topic in request.topics)
    results: list[CreatePartitionsTopicResult] = []
    accepted: list[CreatePartitionsTopic] = []
    for topic in {topic.name: topic for topic in request.topics}.values():
        if named[topic.name] > 1:
            results.append(_result(topic, ErrorCode.INVALID_REQUEST, "Duplicate topic name."))
        elif request.timeout_ms <= 0:
            results.append(_result(topic, ErrorCode.REQUEST_TIMED_OUT, ErrorCode.REQUEST_TIMED_OUT.message))
        else:
            accepted.append(topic)
    work = (_create(broker, request, topic) for topic in accepted)
    results += await side_by_side(broker.turns, work, TOPICS_AT_ONCE)
    return CreatePartitionsResponse(results=results)


async def _create(
    broker: Broker, request: CreatePartitionsRequest, topic: CreatePartitionsTopic
) -> CreatePartitionsTopicResult:
    assignments = None if topic.assignments is None else [one.broker_ids for one in topic.assignments]
    try:
        await broker.topics.create_partitions(
            topic.name,
            topic.count,
            assignments,
            validate_only=request.validate_only,
            timeout_ms=request.timeout_ms,
        )
    except KafkaError as error:
        return _result(topic, error.code, error.message)
    return _result(topic, ErrorCode.NONE, None)


def _result(topic: CreatePartitionsTopic, code: ErrorCode, message: str | None) -> CreatePartitionsTopicResult:
    return CreatePartitionsTopicResult(name=topic.name, error_code=code, error_message=message)
