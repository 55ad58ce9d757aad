"""Topics as they stand in a Metadata response, encoded by hand and kept: ten thousand partitions are asked for often.

Owns the bytes of each topic by version, listener and what was asked. A topic's image is replaced as a whole when it, or
any broker, changes, so that its identity says whether the bytes still hold.
"""

from collections.abc import Sequence
from struct import Struct

from bytemq.broker.authorized_operations import NOT_ASKED, ON_TOPIC
from bytemq.metadata.image import ClusterImage, TopicImage
from bytemq.metadata.replicas import replicas
from bytemq.metadata.values import NO_BROKER
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.primitives import Writer
from bytemq.types import ZERO_TOPIC_ID

FLEXIBLE_FROM = 9
_PARTITION_V0 = Struct(">hii")  # error, index, leader
_PARTITION_V7 = Struct(">hiii")  # ... and leader epoch

Question = tuple[int, str, bool]
"""(version, listener, whether operations are asked for)"""


class EncodedTopics:
    """One per broker. `encode` gives the bytes of one topic, made or kept."""

    def __init__(self) -> None:
        self._kept: dict[Question, dict[str, tuple[TopicImage, bytes]]] = {}

    def encode(self, image: ClusterImage, topic: TopicImage, question: Question) -> tuple[bytes, bool]:
        """The bytes, and whether they were kept from before."""
        kept = self._kept.setdefault(question, {})
        known = kept.get(topic.name)
        if known is not None and known[0] is topic:
            return known[1], True
        if len(kept) > 2 * len(image.topics) + 16:
            kept.clear()  # mostly of topics that are gone
        encoded = _encode_topic(image, topic, question)
        kept[topic.name] = (topic, encoded)
        return encoded, False


def encode_failed_topic(
    version: int,
    error: ErrorCode,
    name: str | None,
    topic_id: bytes = ZERO_TOPIC_ID,
    *,
    with_operations: bool = False,
) -> bytes:
    """A topic that cannot be described; as in Kafka its operations are told all the same."""
    writer = Writer()
    _write_head(writer, version, error, name, topic_id, False)
    _write_count(writer, version, 0)
    _write_tail(writer, version, ON_TOPIC if with_operations else NOT_ASKED)
    return bytes(writer.buffer)


def _encode_topic(image: ClusterImage, topic: TopicImage, question: Question) -> bytes:
    version, listener, with_operations = question
    writer = Writer()
    _write_head(writer, version, ErrorCode.NONE, topic.name, topic.topic_id, topic.is_internal)
    _write_count(writer, version, len(topic.partitions))
    reachable = {node.id for node in image.brokers.values() if listener in node.endpoints}
    node_lists: dict[tuple[int, ...], bytes] = {}
    for index, partition in enumerate(topic.partitions):
        leader, epoch = image.leader_of(partition)
        error = ErrorCode.NONE
        if leader == NO_BROKER:
            error = ErrorCode.LEADER_NOT_AVAILABLE
        elif leader not in reachable:
            leader, error = NO_BROKER, ErrorCode.LISTENER_NOT_FOUND
        if version >= 7:
            writer.buffer += _PARTITION_V7.pack(error, index, leader, epoch)
        else:
            writer.buffer += _PARTITION_V0.pack(error, index, leader)
        nodes = tuple(replicas(image, topic, index))
        encoded = node_lists.get(nodes)
        if encoded is None:
            encoded = node_lists[nodes] = _encode_nodes(version, nodes)
        writer.buffer += encoded
    _write_tail(writer, version, ON_TOPIC if with_operations else NOT_ASKED)
    return bytes(writer.buffer)


def _encode_nodes(version: int, nodes: Sequence[int]) -> bytes:
    """Replicas, in-sync replicas, and (v5+) offline replicas, of which there are none."""
    writer = Writer()
    for listed in (nodes, nodes, ()) if version >= 5 else (nodes, nodes):
        _write_count(writer, version, len(listed))
        for node in listed:
            writer.write_int32(node)
    if version >= FLEXIBLE_FROM:
        writer.write_unsigned_varint(0)
    return bytes(writer.buffer)


def _write_head(
    writer: Writer, version: int, error: ErrorCode, name: str | None, topic_id: bytes, is_internal: bool
) -> None:
    writer.write_int16(error)
    if version >= FLEXIBLE_FROM:
        writer.write_compact_nullable_string(name)
    else:
        writer.write_string(name or "")
    if version >= 10:
        writer.write_uuid(topic_id)
    if version >= 1:
        writer.write_bool(is_internal)


def _write_count(writer: Writer, version: int, count: int) -> None:
    if version >= FLEXIBLE_FROM:
        writer.write_compact_array_length(count)
    else:
        writer.write_array_length(count)


def _write_tail(writer: Writer, version: int, operations: int) -> None:
    if version >= 8:
        writer.write_int32(operations)
    if version >= FLEXIBLE_FROM:
        writer.write_unsigned_varint(0)


def encode_response(version: int, without_topics: bytes, topics: Sequence[bytes]) -> bytes:
    """A response with the topics put in. `without_topics` is the encoded response whose list of topics is empty.

    What follows the topics is of fixed size: cluster operations (v8-10), the error code (v13), the tagged fields (v9+).
    """
    tail_bytes = (4 if 8 <= version <= 10 else 0) + (2 if version >= 13 else 0) + (version >= FLEXIBLE_FROM)
    end = len(without_topics) - tail_bytes
    count = Writer()
    _write_count(count, version, len(topics))
    head = without_topics[: end - (1 if version >= FLEXIBLE_FROM else 4)]
    return b"".join((head, count.buffer, *topics, without_topics[end:]))
