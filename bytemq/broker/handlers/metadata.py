"""Metadata v0-13: brokers, topics, partitions and where their leaders are.

- topics null: all (v0: an empty list means that, too); v1+ an empty list: none.
- Addresses are those of the listener that the client came through.
- A topic that does not exist is created where client and auto.create.topics.enable allow, and answered at once (Kafka
  answers UNKNOWN_TOPIC_OR_PARTITION first; some old clients do not ask again).
- v12+: topics by id, UNKNOWN_TOPIC_ID; v10 and v11 know ids in answers only: INVALID_REQUEST.
- Replicas are the store's: as many live brokers as the replication factor asks for, all in sync.
- Authorized operations as Kafka without an authorizer. The cluster's (v8-10) moved to DescribeCluster.
"""

from collections.abc import Iterable

from bytemq.broker.authorized_operations import NOT_ASKED, ON_CLUSTER, ON_TOPIC
from bytemq.broker.context import Broker, RequestContext
from bytemq.metadata.image import TopicImage
from bytemq.metadata.replicas import replicas
from bytemq.metadata.topic_names import is_legal
from bytemq.metadata.values import NO_BROKER
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from bytemq.types import ZERO_TOPIC_ID, TopicId

TOPICS_BY_ID_FROM = 12
MAX_AUTO_CREATED = 100
"""Topics that one request may create; the others are unknown to it, and its next may create more."""


async def handle(broker: Broker, context: RequestContext, request: MetadataRequest) -> MetadataResponse:
    """Topics in the order asked for, each once; all of them in the order of their names."""
    asked = request.topics
    if asked is None or (not asked and context.api_version == 0):
        found: list[MetadataResponseTopic] = [
            _topic(broker, context, topic) for _, topic in sorted(broker.image.topics.items())
        ]
    else:
        _check_ids(asked, context.api_version)
        created = await _auto_create(broker, asked) if request.allow_auto_topic_creation else {}
        found = [_asked_topic(broker, context, one, created) for one in _each_once(asked)]
    if request.include_topic_authorized_operations:
        for topic in found:
            if topic.error_code == ErrorCode.NONE:
                topic.topic_authorized_operations = ON_TOPIC
    return MetadataResponse(
        brokers=_brokers(broker, context),
        cluster_id=broker.cluster_id,
        controller_id=broker.image.controller_id,
        topics=found,
        cluster_authorized_operations=ON_CLUSTER if request.include_cluster_authorized_operations else NOT_ASKED,
    )


def _brokers(broker: Broker, context: RequestContext) -> list[MetadataResponseBroker]:
    listed = []
    for node_id, node in sorted(broker.image.brokers.items()):
        if context.listener in node.endpoints:
            host, port = node.endpoints[context.listener]
            listed.append(MetadataResponseBroker(node_id=node_id, host=host, port=port, rack=node.rack))
    return listed


def _check_ids(asked: Iterable[MetadataRequestTopic], version: int) -> None:
    if version < TOPICS_BY_ID_FROM and any(one.name is None or one.topic_id != ZERO_TOPIC_ID for one in asked):
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"Topic ids are not supported in version {version}.")


def _each_once(asked: Iterable[MetadataRequestTopic]) -> Iterable[MetadataRequestTopic]:
    return {(one.name, bytes(one.topic_id)): one for one in asked}.values()


async def _auto_create(broker: Broker, asked: Iterable[MetadataRequestTopic]) -> dict[str, ErrorCode]:
    """Creates what is missing; returns why for those that could not be."""
    failed: dict[str, ErrorCode] = {}
    if not broker.config.auto_create_topics_enable:
        return failed
    missing = {one.name for one in asked if one.name is not None and one.name not in broker.image.topics}
    for name in sorted(filter(is_legal, missing))[:MAX_AUTO_CREATED]:
        try:
            await broker.topics.auto_create(name)
        except KafkaError as error:
            failed[name] = error.code
    return failed


def _asked_topic(
    broker: Broker, context: RequestContext, asked: MetadataRequestTopic, failed: dict[str, ErrorCode]
) -> MetadataResponseTopic:
    name = asked.name
    if name is None:
        topic_id = TopicId(bytes(asked.topic_id))
        topic = broker.image.topics_by_id.get(topic_id)
        if topic is None:
            return MetadataResponseTopic(error_code=ErrorCode.UNKNOWN_TOPIC_ID, name=None, topic_id=topic_id)
        return _topic(broker, context, topic)
    topic = broker.image.topics.get(name)
    if topic is not None:
        return _topic(broker, context, topic)
    error = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if is_legal(name) else ErrorCode.INVALID_TOPIC_EXCEPTION
    return MetadataResponseTopic(error_code=failed.get(name, error), name=name)


def _topic(broker: Broker, context: RequestContext, topic: TopicImage) -> MetadataResponseTopic:
    return MetadataResponseTopic(
        name=topic.name,
        topic_id=topic.topic_id,
        is_internal=topic.is_internal,
        partitions=[_partition(broker, context, topic, index) for index in range(len(topic.partitions))],
    )


def _partition(broker: Broker, context: RequestContext, topic: TopicImage, index: int) -> MetadataResponsePartition:
    partition = topic.partitions[index]
    nodes = replicas(broker.image, topic, index)
    error = ErrorCode.NONE
    if partition.owner == NO_BROKER:
        error = ErrorCode.LEADER_NOT_AVAILABLE
    elif context.listener not in broker.image.brokers[partition.owner].endpoints:
        error = ErrorCode.LISTENER_NOT_FOUND
    return MetadataResponsePartition(
        error_code=error,
        partition_index=index,
        leader_id=partition.owner if error is ErrorCode.NONE else NO_BROKER,
        leader_epoch=partition.leader_epoch,
        replica_nodes=nodes,
        isr_nodes=nodes,
    )
