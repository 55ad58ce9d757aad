"""The hand-written Metadata encoding against the generated one, byte for byte, in every version."""

from typing import Any

import pytest

from bytemq.broker.metadata_encoding import EncodedTopics, encode_failed_topic, encode_response
from bytemq.metadata.image import BrokerImage, PartitionImage, TopicImage
from bytemq.protocol.codec import encode
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.metadata import (
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from bytemq.types import TopicId
from tests.unit.server.harness import make_cluster

TOPIC_ID = TopicId(b"0123456789abcdef")


def partition(error: ErrorCode, index: int, leader: int, epoch: int, nodes: list[int]) -> MetadataResponsePartition:
    return MetadataResponsePartition(error, index, leader, epoch, nodes, nodes)


@pytest.mark.parametrize("with_operations", [False, True])
@pytest.mark.parametrize("version", range(14))
def test_encoding__is_that_of_the_schema(version: int, with_operations: bool) -> None:
    image = make_cluster().image
    image.brokers[3] = BrokerImage(3, None, {"ELSEWHERE": ("h", 1)}, 1)
    owners = [(0, 4, 0), (-1, -1, 7), (3, 2, 0), (-1, 5, 0)]
    images = tuple(PartitionImage(owner, epoch, 1, assigned) for owner, epoch, assigned in owners)
    topic = TopicImage("events", TOPIC_ID, images, {}, 3, True)
    operations = 3576 if with_operations and version >= 8 else -(2**31)
    response: Any = MetadataResponse(
        brokers=[MetadataResponseBroker(0, "inside", 9092, "a")],
        cluster_id="cluster",
        controller_id=0,
        topics=[
            MetadataResponseTopic(
                name="events",
                topic_id=TOPIC_ID,
                is_internal=True,
                partitions=[
                    partition(ErrorCode.NONE, 0, 0, 4, [0, 3]),
                    partition(ErrorCode.LEADER_NOT_AVAILABLE, 1, -1, -1, [3, 0]),
                    partition(ErrorCode.LISTENER_NOT_FOUND, 2, -1, 2, [3, 0]),
                    partition(ErrorCode.NONE, 3, 0, 6, [0, 3]),  # between two owners
                ],
                topic_authorized_operations=operations,
            ),
            MetadataResponseTopic(error_code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, name="no"),
        ],
    )
    if version >= 12:
        response.topics.append(MetadataResponseTopic(ErrorCode.UNKNOWN_TOPIC_ID, None, TOPIC_ID))
    expected = bytes(encode(response, version))
    topics = [
        EncodedTopics().encode(image, topic, (version, "PLAINTEXT", with_operations))[0],
        encode_failed_topic(version, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "no"),
    ]
    if version >= 12:
        topics.append(encode_failed_topic(version, ErrorCode.UNKNOWN_TOPIC_ID, None, TOPIC_ID))
    response.topics = []
    assert encode_response(version, bytes(encode(response, version)), topics) == expected


async def test_encoded_topics__are_kept_until_the_topic_changes() -> None:
    cluster = make_cluster()
    topic = await cluster.add_topic("events", 2)
    encoded = EncodedTopics()
    question = (12, "PLAINTEXT", False)
    first, kept = encoded.encode(cluster.image, topic, question)
    assert not kept
    assert encoded.encode(cluster.image, topic, question) == (first, True)
    changed = await cluster.add_topic("events", 3)
    second, kept = encoded.encode(cluster.image, changed, question)
    assert not kept
    assert second != first
    assert not encoded.encode(cluster.image, changed, (11, "PLAINTEXT", False))[1]
