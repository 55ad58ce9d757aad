"""ElectLeaders v0-2 (KIP-183, KIP-460): owners are chosen by the scheduler, so there is never an election to hold.

A partition that has an owner needs none (ELECTION_NOT_NEEDED); one without gets an owner from the scheduler as soon as
there is a broker (PREFERRED_LEADER_NOT_AVAILABLE, for an unclean election ELIGIBLE_LEADERS_NOT_AVAILABLE). Asked for
all partitions, those that need none are left out, as in Kafka.
"""

from __future__ import annotations

from collections.abc import Iterable

from bytemq.broker.context import Broker, RequestContext
from bytemq.metadata.image import ClusterImage, TopicImage
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.elect_leaders import (
    ElectLeadersRequest,
    ElectLeadersResponse,
    PartitionResult,
    ReplicaElectionResult,
)

PREFERRED, UNCLEAN = 0, 1


def handle(broker: Broker, context: RequestContext, request: ElectLeadersRequest) -> ElectLeadersResponse:
    if request.election_type not in (PREFERRED, UNCLEAN):
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"There is no election type {request.election_type}.")
    if request.timeout_ms <= 0:
        raise KafkaError(ErrorCode.REQUEST_TIMED_OUT)
    image = broker.image
    if request.topic_partitions is None:
        results = [
            _results(image, request.election_type, topic.name, range(len(topic.partitions)), all_partitions=True)
            for topic in image.topics.values()
        ]
    else:
        results = [
            _results(image, request.election_type, asked.topic, asked.partitions, all_partitions=False)
            for asked in request.topic_partitions
        ]
    return ElectLeadersResponse(replica_election_results=results)


def error_response(
    request: ElectLeadersRequest, version: int, code: ErrorCode, message: str | None
) -> ElectLeadersResponse:
    """The code for the whole request (from v1) and for each partition that was named."""
    return ElectLeadersResponse(
        error_code=code if version >= 1 else ErrorCode.NONE,
        replica_election_results=[
            ReplicaElectionResult(
                topic=asked.topic,
                partition_result=[PartitionResult(index, code, message or code.message) for index in asked.partitions],
            )
            for asked in request.topic_partitions or ()
        ],
    )


def _results(
    image: ClusterImage, election_type: int, name: str, partitions: Iterable[int], *, all_partitions: bool
) -> ReplicaElectionResult:
    topic = image.topics.get(name)
    results = [_elect(topic, name, index, election_type) for index in partitions]
    if all_partitions:
        results = [result for result in results if result.error_code != ErrorCode.ELECTION_NOT_NEEDED]
    return ReplicaElectionResult(topic=name, partition_result=results)


def _elect(topic: TopicImage | None, name: str, index: int, election_type: int) -> PartitionResult:
    code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    if topic is None:
        return PartitionResult(index, code, f"No such topic as {name}")
    if not 0 <= index < len(topic.partitions):
        return PartitionResult(index, code, f"No such partition as {name}-{index}")
    if topic.partitions[index].owner >= 0:
        code = ErrorCode.ELECTION_NOT_NEEDED
    elif election_type == PREFERRED:
        code = ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE
    else:
        code = ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE
    return PartitionResult(index, code, code.message)
