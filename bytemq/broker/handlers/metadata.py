"""Metadata v0-13: brokers, topics, partitions and where their leaders are.

- topics null: all (v0: an empty list means that, too); v1+ an empty list: none.
- Addresses are those of the listener that the client came through.
- A topic that does not exist is created where client and auto.create.topics.enable allow, and answered at once (Kafka
  answers UNKNOWN_TOPIC_OR_PARTITION first; some old clients do not ask again).
- v12+: topics by id, UNKNOWN_TOPIC_ID; v10 and v11 know ids in answers only: INVALID_REQUEST.
- Replicas are the store's: as many live brokers as the replication factor asks for, all in sync.
- Authorized operations as Kafka without an authorizer. The cluster's (v8-10) moved to DescribeCluster.
"""

from collections.abc import Collection, Iterable

from bytemq.broker.authorized_operations import NOT_ASKED, ON_CLUSTER
from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.metadata_encoding import encode_failed_topic, encode_response
from bytemq.broker.partition_lookup import find_topic
from bytemq.metadata.topic_names import is_legal
from bytemq.protocol.codec import encode
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    MetadataResponseBroker,
)
from bytemq.types import ZERO_TOPIC_ID, TopicId

TOPICS_BY_ID_FROM = 12
SLICE_TOPICS = 500
"""Topics already encoded, or topics and partitions encoded anew, after which others get their turn."""
MAX_AUTO_CREATED = 100
"""Topics that one request may create; the others are unknown to it, and its next may create more."""


Asked = tuple[str | None, bytes]
"""(name, topic id): one of them says which topic."""


async def handle(broker: Broker, context: RequestContext, request: MetadataRequest) -> bytes:
    """The encoded response. Topics in the order asked for, each once; all of them in the order of their names."""
    version = context.api_version
    failed: dict[str, ErrorCode] = {}
    if request.topics is None or (not request.topics and version == 0):
        asked: Collection[Asked] = [(name, ZERO_TOPIC_ID) for name in sorted(broker.image.topics)]
    else:
        _check_ids(request.topics, version)
        if request.allow_auto_topic_creation:
            failed = await _auto_create(broker, request.topics)
        asked = _each_once(broker, request.topics)
    question = (version, context.listener, request.include_topic_authorized_operations)
    topics = []
    left = SLICE_TOPICS
    for name, topic_id in asked:
        if left <= 0:
            left = SLICE_TOPICS
            await broker.turns.next()
        left -= 1
        topic = find_topic(broker, name, topic_id)
        if topic is None:
            named = name is not None and request.include_topic_authorized_operations
            why = _why_missing(name, failed)
            topics.append(encode_failed_topic(version, why, name, topic_id, with_operations=named))
            continue
        encoded, was_kept = broker.encoded_topics.encode(broker.image, topic, question)
        topics.append(encoded)
        if not was_kept:
            left -= len(topic.partitions)
    if len(asked) > SLICE_TOPICS:
        await broker.turns.next()  # to join them is a slice, too
    without_topics = MetadataResponse(
        brokers=_brokers(broker, context),
        cluster_id=broker.cluster_id,
        controller_id=broker.image.controller_id,
        cluster_authorized_operations=ON_CLUSTER if request.include_cluster_authorized_operations else NOT_ASKED,
    )
    return encode_response(version, bytes(encode(without_topics, version)), topics)


def _brokers(broker: Broker, context: RequestContext) -> list[MetadataResponseBroker]:
    listed = []
    for node_id, node in sorted(broker.image.brokers.items()):
        if context.listener in node.endpoints:
            host, port = node.endpoints[context.listener]
            listed.append(MetadataResponseBroker(node_id=node_id, host=host, port=port, rack=node.rack))
    if not listed and context.listener in broker.endpoints:
        # All sessions have just ended, ours too. librdkafka forgets every broker that is not told, for good.
        host, port = broker.endpoints[context.listener]
        return [MetadataResponseBroker(broker.node_id, host, port, broker.config.broker_rack)]
    return listed


def _check_ids(asked: Iterable[MetadataRequestTopic], version: int) -> None:
    if version < TOPICS_BY_ID_FROM and any(one.name is None or one.topic_id != ZERO_TOPIC_ID for one in asked):
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"Topic ids are not supported in version {version}.")


def _each_once(broker: Broker, asked: Collection[MetadataRequestTopic]) -> Collection[Asked]:
    """A topic asked for by its id has no name: the Java client sends an empty one along."""
    named = {one.name for one in asked if one.topic_id == ZERO_TOPIC_ID}
    once: dict[Asked, None] = {}
    for one in asked:
        topic_id = TopicId(bytes(one.topic_id))
        if topic_id == ZERO_TOPIC_ID:
            once[one.name, topic_id] = None
            continue
        topic = broker.image.topics_by_id.get(topic_id)
        if topic is None or topic.name not in named:
            once[None, topic_id] = None
    return once


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


def _why_missing(name: str | None, failed: dict[str, ErrorCode]) -> ErrorCode:
    if name is None:
        return ErrorCode.UNKNOWN_TOPIC_ID
    if not is_legal(name):
        return ErrorCode.INVALID_TOPIC_EXCEPTION
    return failed.get(name, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
