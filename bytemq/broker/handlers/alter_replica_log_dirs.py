"""AlterReplicaLogDirs v1-2: a broker has one log directory, so a partition may "move" to where it is, and only there.

LOG_DIR_NOT_FOUND for any other directory, UNKNOWN_TOPIC_OR_PARTITION for a partition that there is not.
"""

from __future__ import annotations

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.log_directory import log_directory
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.alter_replica_log_dirs import (
    AlterReplicaLogDirPartitionResult,
    AlterReplicaLogDirsRequest,
    AlterReplicaLogDirsResponse,
    AlterReplicaLogDirTopicResult,
)


def handle(broker: Broker, context: RequestContext, request: AlterReplicaLogDirsRequest) -> AlterReplicaLogDirsResponse:
    ours = log_directory(broker.config)
    results: dict[str, dict[int, ErrorCode]] = {}
    for asked in request.dirs:
        for topic in asked.topics:
            for index in topic.partitions:
                results.setdefault(topic.name, {})[index] = _answer(broker, asked.path == ours, topic.name, index)
    return AlterReplicaLogDirsResponse(
        results=[
            AlterReplicaLogDirTopicResult(
                name, [AlterReplicaLogDirPartitionResult(index, code) for index, code in partitions.items()]
            )
            for name, partitions in results.items()
        ]
    )


def _answer(broker: Broker, is_ours: bool, topic: str, index: int) -> ErrorCode:
    if not is_ours:
        return ErrorCode.LOG_DIR_NOT_FOUND
    known = broker.image.topics.get(topic)
    if known is None or not 0 <= index < len(known.partitions):
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    return ErrorCode.NONE
