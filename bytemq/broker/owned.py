"""Finds an open partition for the handlers that can wait for one."""

from __future__ import annotations

from bytemq.broker.context import Broker
from bytemq.broker.log.partition import Partition
from bytemq.protocol.error_codes import ErrorCode, KafkaError


async def open_owned(broker: Broker, topic: str, index: int) -> Partition:
    """Raises KafkaError: UNKNOWN_TOPIC_OR_PARTITION, NOT_LEADER_OR_FOLLOWER, KAFKA_STORAGE_ERROR."""
    image = broker.image.topics.get(topic)
    if image is None or not 0 <= index < len(image.partitions):
        raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    return await broker.partitions.open(topic, index)
