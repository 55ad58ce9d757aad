"""DescribeProducers v0 (KIP-664): the producers that the owner of a partition knows, with their open transactions.

Tools also ask the other brokers that Metadata names as replicas, which in Kafka know the same (find-hanging of a
broker): they ask the owner. NOT_LEADER_OR_FOLLOWER from all others, and where the owner does not answer.
"""

from __future__ import annotations

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.owned import open_owned
from bytemq.broker.peers import is_peer
from bytemq.metadata.replicas import replicas
from bytemq.metadata.topic_names import check_topic_name
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.describe_producers import (
    DescribeProducersRequest,
    DescribeProducersResponse,
    PartitionResponse,
    ProducerState,
    TopicRequest,
    TopicResponse,
)

_VERSION = 0


async def handle(
    broker: Broker, context: RequestContext, request: DescribeProducersRequest
) -> DescribeProducersResponse:
    topics = [
        TopicResponse(
            name=topic.name,
            partitions=[await _describe(broker, topic.name, index) for index in topic.partition_indexes],
        )
        for topic in request.topics
    ]
    if not is_peer(context.client_id):
        await _ask_owners(broker, topics)
    return DescribeProducersResponse(topics=topics)


async def _describe(broker: Broker, topic: str, index: int) -> PartitionResponse:
    try:
        check_topic_name(topic)
        partition = await open_owned(broker, topic, index)
    except KafkaError as error:
        return PartitionResponse(partition_index=index, error_code=error.code, error_message=error.message)
    producers = [
        ProducerState(
            producer_id=producer.producer_id,
            producer_epoch=producer.producer_epoch,
            last_sequence=producer.last_sequence,
            last_timestamp=producer.last_timestamp_ms,
            coordinator_epoch=producer.coordinator_epoch,
            current_txn_start_offset=producer.current_txn_start_offset,
        )
        for producer in partition.describe_producers()
    ]
    return PartitionResponse(partition_index=index, error_code=ErrorCode.NONE, active_producers=producers)


async def _ask_owners(broker: Broker, topics: list[TopicResponse]) -> None:
    """Puts what owners say in the place of what is not ours, one request to each of them."""
    by_owner: dict[int, dict[str, set[int]]] = {}
    for topic in topics:
        for partition in topic.partitions:
            if partition.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER:
                owner = _owner_of_replica(broker, topic.name, partition.partition_index)
                if owner is not None:
                    by_owner.setdefault(owner, {}).setdefault(topic.name, set()).add(partition.partition_index)
    told: dict[tuple[str, int], PartitionResponse] = {}
    for owner, names in by_owner.items():
        asked = DescribeProducersRequest([TopicRequest(name, sorted(indexes)) for name, indexes in names.items()])
        try:
            answer = await broker.peers.ask(owner, asked, _VERSION, DescribeProducersResponse)
        except KafkaError:
            continue
        told.update(((topic.name, each.partition_index), each) for topic in answer.topics for each in topic.partitions)
    for topic in topics:
        topic.partitions = [told.get((topic.name, each.partition_index), each) for each in topic.partitions]


def _owner_of_replica(broker: Broker, name: str, index: int) -> int | None:
    """Who owns a partition as whose replica this broker is named; None where it is not, or nobody else owns it."""
    topic = broker.image.topics.get(name)
    if topic is None or broker.node_id not in replicas(broker.image, topic, index):
        return None
    owner = topic.partitions[index].owner
    return owner if owner in broker.image.brokers and owner != broker.node_id else None
