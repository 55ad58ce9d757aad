"""DescribeProducers v0 (KIP-664): the producers that the owner of a partition knows, with their open transactions.

Tools also ask the other brokers that Metadata names as replicas, which in Kafka know the same (find-hanging of a
broker): they ask the owner. NOT_LEADER_OR_FOLLOWER from all others, and where the owner does not answer. What is named
twice is answered once: a partition may have many producers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

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
PARTITIONS_PER_TURN = 100
"""After which other clients get their turn."""

Answers = dict[str, dict[int, PartitionResponse]]


async def handle(
    broker: Broker, context: RequestContext, request: DescribeProducersRequest
) -> DescribeProducersResponse:
    answers: Answers = {topic.name: {} for topic in request.topics}
    elsewhere: dict[int, dict[str, list[int]]] = {}
    may_ask = not is_peer(context.client_id)
    number = 0
    for topic in request.topics:
        told = answers[topic.name]
        for index in topic.partition_indexes:
            number += 1
            if number % PARTITIONS_PER_TURN == 0:
                await broker.turns.next()
            if index in told:
                continue
            told[index] = await _describe(broker, topic.name, index)
            if may_ask and told[index].error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER:
                owner = _owner_of_replica(broker, topic.name, index)
                if owner is not None:
                    elsewhere.setdefault(owner, {}).setdefault(topic.name, []).append(index)
    await asyncio.gather(*(_ask(broker, owner, wanted, answers) for owner, wanted in elsewhere.items()))
    return DescribeProducersResponse(
        topics=[TopicResponse(name, list(told.values())) for name, told in answers.items()]
    )


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


async def _ask(broker: Broker, owner: int, wanted: Mapping[str, list[int]], answers: Answers) -> None:
    """Puts what the owner says in the place of what is not ours."""
    request = DescribeProducersRequest([TopicRequest(name, sorted(indexes)) for name, indexes in wanted.items()])
    try:
        response = await broker.peers.ask(owner, request, _VERSION, DescribeProducersResponse)
    except KafkaError:
        return
    for topic in response.topics:
        told = answers.get(topic.name, {})
        told.update((each.partition_index, each) for each in topic.partitions if each.partition_index in told)


def _owner_of_replica(broker: Broker, name: str, index: int) -> int | None:
    """Who owns a partition as whose replica this broker is named; None where it is not, or nobody else owns it."""
    topic = broker.image.topics.get(name)
    if topic is None or index >= len(topic.partitions):  # another one by now
        return None
    if broker.node_id not in replicas(broker.image, topic, index):
        return None
    owner = topic.partitions[index].owner
    return owner if owner in broker.image.brokers and owner != broker.node_id else None
