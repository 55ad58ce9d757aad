"""AlterPartitionReassignments v0-1 (KIP-455): partitions are placed by the scheduler; what moves none is accepted.

An assignment that names the present owner first, and live brokers only, is done already: NONE. Brokers that do not
exist, an empty list or a broker named twice are INVALID_REPLICA_ASSIGNMENT, with Kafka's texts; so is a new owner, with
a text that says who moves partitions here. Nothing is ever in progress, so there is nothing to cancel
(NO_REASSIGNMENT_IN_PROGRESS).
"""

from __future__ import annotations

from bytemq.broker.context import Broker, RequestContext
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.replicas import replicas
from bytemq.metadata.topics import check_manual_replicas
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.alter_partition_reassignments import (
    AlterPartitionReassignmentsRequest,
    AlterPartitionReassignmentsResponse,
    ReassignablePartition,
    ReassignablePartitionResponse,
    ReassignableTopicResponse,
)


def handle(
    broker: Broker, context: RequestContext, request: AlterPartitionReassignmentsRequest
) -> AlterPartitionReassignmentsResponse:
    if request.timeout_ms <= 0 and request.topics:
        raise KafkaError(ErrorCode.REQUEST_TIMED_OUT)
    factor_may_change = request.allow_replication_factor_change
    return AlterPartitionReassignmentsResponse(
        allow_replication_factor_change=factor_may_change,
        responses=[
            ReassignableTopicResponse(
                name=topic.name,
                partitions=[
                    _answer(broker.image, topic.name, partition, factor_may_change) for partition in topic.partitions
                ],
            )
            for topic in request.topics
        ],
    )


def error_response(
    request: AlterPartitionReassignmentsRequest, version: int, code: ErrorCode, message: str | None
) -> AlterPartitionReassignmentsResponse:
    """The code for the whole request and for each partition that was named."""
    text = message or code.message
    return AlterPartitionReassignmentsResponse(
        error_code=code,
        error_message=text,
        responses=[
            ReassignableTopicResponse(
                name=topic.name,
                partitions=[
                    ReassignablePartitionResponse(partition.partition_index, code, text)
                    for partition in topic.partitions
                ],
            )
            for topic in request.topics
        ],
    )


def _answer(
    image: ClusterImage, topic: str, partition: ReassignablePartition, factor_may_change: bool
) -> ReassignablePartitionResponse:
    index = partition.partition_index
    try:
        _check(image, topic, index, partition.replicas, factor_may_change)
    except KafkaError as error:
        return ReassignablePartitionResponse(index, error.code, error.message)
    return ReassignablePartitionResponse(index, ErrorCode.NONE, None)


def _check(image: ClusterImage, name: str, index: int, asked: list[int] | None, factor_may_change: bool) -> None:
    topic = image.topics.get(name)
    if topic is None:
        raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"Unable to find a topic named {name}.")
    if not 0 <= index < len(topic.partitions):
        raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"Unable to find partition {name}:{index}.")
    if asked is None:
        raise KafkaError(ErrorCode.NO_REASSIGNMENT_IN_PROGRESS)
    check_manual_replicas(image, asked, None)
    present = replicas(image, topic, index)
    if not factor_may_change and len(asked) != len(present):
        raise KafkaError(
            ErrorCode.INVALID_REPLICATION_FACTOR,
            f"The replication factor is changed from {len(present)} to {len(asked)}",
        )
    if asked[0] != present[0]:
        raise KafkaError(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            f"Broker {present[0]} owns the partition, and partitions are moved by the scheduler.",
        )
