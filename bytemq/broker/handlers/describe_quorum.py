"""DescribeQuorum v0-2 (KIP-595, KIP-836, KIP-853): who decides about the cluster's metadata, and how far they are.

There is no Raft among the brokers. What tools ask for has an honest counterpart all the same: the leader is the
controller, its epoch counts its elections as far as anybody can tell them apart (the metadata's revision at which it
became the controller), and the metadata's revision is the offset. The controller is the one voter. The other brokers
follow the same metadata as observers; how far they are is known of the answering broker only, so the rest is unknown
(-1), times included. Whatever keeps the metadata of a cluster (etcd) is no broker and is not shown.

- v0 no times; v2+ messages, directory ids (none here) and listeners of the voters.
- Anything but partition 0 of __cluster_metadata: UNKNOWN_TOPIC_OR_PARTITION for each one asked for.
"""

from __future__ import annotations

from bytemq.broker.context import Broker, RequestContext
from bytemq.metadata import keys
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.values import NO_BROKER
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.describe_quorum import (
    DescribeQuorumRequest,
    DescribeQuorumRequestTopicData,
    DescribeQuorumResponse,
    DescribeQuorumResponsePartitionData,
    DescribeQuorumResponseTopicData,
    Listener,
    Node,
    ReplicaState,
)

METADATA_TOPIC = "__cluster_metadata"
UNKNOWN_OFFSET = -1
_NODES_VERSION = 2
_EPOCH_MASK = 2**31 - 1


def handle(broker: Broker, context: RequestContext, request: DescribeQuorumRequest) -> DescribeQuorumResponse:
    """Never waits."""
    image = broker.image
    asked = [
        (topic.topic_name, partition.partition_index) for topic in request.topics for partition in topic.partitions
    ]
    if asked != [(METADATA_TOPIC, 0)]:
        return DescribeQuorumResponse(topics=[_refused(topic) for topic in request.topics])
    if image.controller_id == NO_BROKER:
        code = ErrorCode.NOT_LEADER_OR_FOLLOWER
        return DescribeQuorumResponse(topics=[_answered(DescribeQuorumResponsePartitionData(0, code, code.message))])
    me, controller = broker.node_id, image.controller_id
    partition = DescribeQuorumResponsePartitionData(
        leader_id=controller,
        leader_epoch=image.key_revision(keys.CONTROLLER) & _EPOCH_MASK,
        high_watermark=image.revision,
        current_voters=[_replica(image, me, controller)],
        observers=[_replica(image, me, other) for other in sorted(image.brokers) if other != controller],
    )
    nodes = _nodes(image, controller) if context.api_version >= _NODES_VERSION else []
    return DescribeQuorumResponse(topics=[_answered(partition)], nodes=nodes)


def _replica(image: ClusterImage, me: int, broker_id: int) -> ReplicaState:
    return ReplicaState(broker_id, log_end_offset=image.revision if broker_id == me else UNKNOWN_OFFSET)


def _nodes(image: ClusterImage, broker_id: int) -> list[Node]:
    """The voters, under the addresses that their clients use."""
    node = image.brokers.get(broker_id)
    if node is None:
        return []
    return [Node(broker_id, [Listener(name, host, port) for name, (host, port) in sorted(node.endpoints.items())])]


def _answered(partition: DescribeQuorumResponsePartitionData) -> DescribeQuorumResponseTopicData:
    return DescribeQuorumResponseTopicData(METADATA_TOPIC, [partition])


def _refused(topic: DescribeQuorumRequestTopicData) -> DescribeQuorumResponseTopicData:
    code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    partitions = [
        DescribeQuorumResponsePartitionData(partition.partition_index, code, code.message)
        for partition in topic.partitions
    ]
    return DescribeQuorumResponseTopicData(topic.topic_name, partitions)
