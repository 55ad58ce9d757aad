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
from bytemq.types import ZERO_TOPIC_ID

TOPICS_BY_ID_FROM = 12
PARTITIONS_PER_TURN = 1000
"""Partitions encoded anew after which others get their turn."""
MAX_AUTO_CREATED = 100
"""Topics that one request may create; the others are unknown to it, and its next may create more."""


async def handle(broker: Broker, context: RequestContext, request: MetadataRequest) -> bytes:
    """The encoded response. Topics in the order asked for, each once; all of them in the order of their names."""
    asked = request.topics
    version = context.api_version
    if asked is None or (not asked and version == 0):
        asked = [MetadataRequestTopic(name=name) for name in sorted(broker.image.topics)]
        failed: dict[str, ErrorCode] = {}
    else:
        _check_ids(asked, version)
        failed = await _auto_create(broker, asked) if request.allow_auto_topic_creation else {}
    question = (version, context.listener, request.include_topic_authorized_operations)
    topics = []
    encoded_partitions = 0
    for one in _each_once(asked):
        topic = find_topic(broker, one.name, bytes(one.topic_id))
        if topic is None:
            named = one.name is not None and request.include_topic_authorized_operations
            why = _why_missing(one, failed)
            topics.append(encode_failed_topic(version, why, one.name, one.topic_id, with_operations=named))
            continue
        encoded, was_kept = broker.encoded_topics.encode(broker.image, topic, question)
        topics.append(encoded)
        encoded_partitions += 0 if was_kept else len(topic.partitions)
        if encoded_partitions > PARTITIONS_PER_TURN:
            encoded_partitions = 0
            await broker.clock.sleep(0)  # others get their turn
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
    return listed


def _check_ids(asked: Iterable[MetadataRequestTopic], version: int) -> None:
    if version < TOPICS_BY_ID_FROM and any(one.name is None or one.topic_id != ZERO_TOPIC_ID for one in asked):
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"Topic ids are not supported in version {version}.")


def _each_once(asked: Iterable[MetadataRequestTopic]) -> Iterable[MetadataRequestTopic]:
    """A topic asked for by its id has no name: the Java client sends an empty one along."""
    for one in asked:
        if one.topic_id != ZERO_TOPIC_ID:
            one.name = None
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


def _why_missing(asked: MetadataRequestTopic, failed: dict[str, ErrorCode]) -> ErrorCode:
    if asked.name is None:
        return ErrorCode.UNKNOWN_TOPIC_ID
    if not is_legal(asked.name):
        return ErrorCode.INVALID_TOPIC_EXCEPTION
    return failed.get(asked.name, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
