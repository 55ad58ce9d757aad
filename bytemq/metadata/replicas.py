"""Which brokers stand as a partition's replicas where the protocol asks for some. Pure.

The replicas are the store's, so any broker can serve: clients are told min(replication factor, live brokers) of them,
the owner first, all in sync.
"""

from __future__ import annotations

from bytemq.metadata.image import ClusterImage, TopicImage
from bytemq.metadata.values import NO_BROKER


def replicas(image: ClusterImage, topic: TopicImage, index: int) -> list[int]:
    """Broker ids, the owner first (while there is none, the broker that is to own it). Never empty."""
    partition = topic.partitions[index]
    first = partition.owner if partition.owner != NO_BROKER else partition.assigned
    if len(image.brokers) <= 1 or topic.replication_factor <= 1:
        return [first]
    others = sorted(broker for broker in image.brokers if broker != first)
    start = index % len(others) if others else 0
    rotated = others[start:] + others[:start]
    return [first, *rotated[: topic.replication_factor - 1]]
