"""DescribeTopicPartitions v0 (KIP-966): topics and partitions by name, a page at a time.

- No topics in the request: all. Topics come in the order of their names, each once.
- A page has at most response_partition_limit partitions, at least one, at most max.request.partition.size.limit; the
  cursor in the answer is the first partition that is not in it. A cursor in the request skips what is before it; its
  topic must be one of those named, if any are.
- Unknown names: UNKNOWN_TOPIC_OR_PARTITION or INVALID_TOPIC_EXCEPTION; they do not count towards the limit.
- Eligible leader replicas are always none: the replicas are the store's.
"""

from bytemq.broker.authorized_operations import ON_TOPIC
from bytemq.broker.context import Broker, RequestContext
from bytemq.metadata.image import TopicImage
from bytemq.metadata.replicas import replicas
from bytemq.metadata.topic_names import is_legal
from bytemq.metadata.values import NO_BROKER
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.describe_topic_partitions import (
    Cursor,
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
    DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
)


def handle(
    broker: Broker, context: RequestContext, request: DescribeTopicPartitionsRequest
) -> DescribeTopicPartitionsResponse:
    """Never waits: a page is bounded."""
    cursor = request.cursor
    named = {topic.name for topic in request.topics}
    if cursor is not None and named and cursor.topic_name not in named:
        message = f"DescribeTopicPartitionsRequest topic list should contain the cursor topic: {cursor.topic_name}"
        raise KafkaError(ErrorCode.INVALID_REQUEST, message)
    if cursor is not None and cursor.partition_index < 0:
        raise KafkaError(ErrorCode.INVALID_REQUEST, "DescribeTopicPartitionsRequest cursor partition must be valid")
    left = max(1, min(request.response_partition_limit, broker.config.max_request_partition_size_limit))
    names = sorted(named or broker.image.topics)
    response = DescribeTopicPartitionsResponse()
    for name in names:
        first = 0
        if cursor is not None:
            if name < cursor.topic_name:
                continue
            first = cursor.partition_index if name == cursor.topic_name else 0
        topic = broker.image.topics.get(name)
        if left == 0:
            response.next_cursor = Cursor(topic_name=name)
            break
        if topic is None:
            response.topics.append(_unknown(name))
            continue
        last = min(len(topic.partitions), first + left)
        response.topics.append(_describe(broker, topic, range(first, last)))
        left -= max(0, last - first)
        if last < len(topic.partitions):
            response.next_cursor = Cursor(topic_name=name, partition_index=last)
            break
    return response


def _unknown(name: str) -> DescribeTopicPartitionsResponseTopic:
    error = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if is_legal(name) else ErrorCode.INVALID_TOPIC_EXCEPTION
    return DescribeTopicPartitionsResponseTopic(error_code=error, name=name, topic_authorized_operations=ON_TOPIC)


def _describe(broker: Broker, topic: TopicImage, indexes: range) -> DescribeTopicPartitionsResponseTopic:
    partitions = []
    for index in indexes:
        leader, epoch = broker.image.leader_of(topic.partitions[index])
        nodes = replicas(broker.image, topic, index)
        partitions.append(
            DescribeTopicPartitionsResponsePartition(
                error_code=ErrorCode.LEADER_NOT_AVAILABLE if leader == NO_BROKER else ErrorCode.NONE,
                partition_index=index,
                leader_id=leader,
                leader_epoch=epoch,
                replica_nodes=nodes,
                isr_nodes=nodes,
                eligible_leader_replicas=[],
                last_known_elr=[],
            )
        )
    return DescribeTopicPartitionsResponseTopic(
        name=topic.name,
        topic_id=topic.topic_id,
        is_internal=topic.is_internal,
        partitions=partitions,
        topic_authorized_operations=ON_TOPIC,
    )
