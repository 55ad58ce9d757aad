"""DeleteTopics v1-6: deletes topics by name, from v6 also by id.

A topic that is named twice, by name, by id or by both, is not deleted at all (INVALID_REQUEST for each such topic). An
expired deadline deletes nothing (REQUEST_TIMED_OUT). The answer comes when the topics are no longer served here; their
data goes behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from bytemq.broker.context import Broker, RequestContext
from bytemq.metadata.image import ClusterImage
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.delete_topics import (
    DeletableTopicResult,
    DeleteTopicsRequest,
    DeleteTopicsResponse,
    DeleteTopicState,
)
from bytemq.runtime.turns import side_by_side
from bytemq.types import ZERO_TOPIC_ID, TopicId

TOPICS_AT_ONCE = 200


async def handle(broker: Broker, context: RequestContext, request: DeleteTopicsRequest) -> DeleteTopicsResponse:
    asked = (
        request.topics if context.api_version >= 6 else [DeleteTopicState(name=name) for name in request.topic_names]
    )
    if not broker.config.delete_topic_enable:
        disabled = context.api_version >= 3
        code = ErrorCode.TOPIC_DELETION_DISABLED if disabled else ErrorCode.INVALID_REQUEST
        return _all(asked, code, code.message)
    if request.timeout_ms <= 0:
        return _all(asked, ErrorCode.REQUEST_TIMED_OUT, ErrorCode.REQUEST_TIMED_OUT.message)
    results, accepted = _sort_out(broker.image, asked)
    results += await side_by_side(broker.turns, (_delete(broker, result) for result in accepted), TOPICS_AT_ONCE)
    return DeleteTopicsResponse(responses=results)


def _sort_out(
    image: ClusterImage, asked: Iterable[DeleteTopicState]
) -> tuple[list[DeletableTopicResult], list[DeletableTopicResult]]:
    """Answers to what cannot be deleted, and the topics that can be, with name and id."""
    refused: list[DeletableTopicResult] = []
    by_id: dict[TopicId, DeletableTopicResult] = {}
    names = Counter(state.name for state in asked if state.name is not None and state.topic_id == ZERO_TOPIC_ID)
    ids = Counter(state.topic_id for state in asked if state.name is None and state.topic_id != ZERO_TOPIC_ID)
    for state in asked:
        if state.name is None and state.topic_id == ZERO_TOPIC_ID:
            refused.append(_result(state, ErrorCode.INVALID_REQUEST, "Neither topic name nor id were specified."))
        elif state.name is not None and state.topic_id != ZERO_TOPIC_ID:
            why = "You may not specify both topic name and topic id."
            refused.append(_result(state, ErrorCode.INVALID_REQUEST, why))
    for name, count in names.items():
        state = DeleteTopicState(name=name)
        topic = image.topics.get(name)
        if count > 1:
            refused.append(_result(state, ErrorCode.INVALID_REQUEST, "Duplicate topic name."))
        elif topic is None:
            refused.append(_result(state, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION))
        elif topic.topic_id in ids:
            why = "The provided topic name maps to an ID that was already supplied."
            twice = DeleteTopicState(name=name, topic_id=topic.topic_id)
            refused.append(_result(twice, ErrorCode.INVALID_REQUEST, why))
        else:
            by_id[topic.topic_id] = DeletableTopicResult(name=name, topic_id=topic.topic_id)
    named = {image.topics[name].topic_id for name in names if name in image.topics}
    for raw_id, count in ids.items():
        topic_id = TopicId(raw_id)
        topic = image.topics_by_id.get(topic_id)
        if count > 1:
            refused.append(_result(DeleteTopicState(topic_id=raw_id), ErrorCode.INVALID_REQUEST, "Duplicate topic id."))
        elif topic is None:
            refused.append(_result(DeleteTopicState(topic_id=raw_id), ErrorCode.UNKNOWN_TOPIC_ID))
        elif topic_id not in named:
            by_id[topic_id] = DeletableTopicResult(name=topic.name, topic_id=topic_id)
    return refused, list(by_id.values())


async def _delete(broker: Broker, result: DeletableTopicResult) -> DeletableTopicResult:
    try:
        await broker.topics.delete(TopicId(result.topic_id))
    except KafkaError as error:
        result.error_code, result.error_message = error.code, error.message
    return result


def _all(asked: Iterable[DeleteTopicState], code: ErrorCode, message: str) -> DeleteTopicsResponse:
    return DeleteTopicsResponse(responses=[_result(state, code, message) for state in asked])


def _result(state: DeleteTopicState, code: ErrorCode, message: str | None = None) -> DeletableTopicResult:
    return DeletableTopicResult(
        name=state.name, topic_id=state.topic_id, error_code=code, error_message=message or code.message
    )
