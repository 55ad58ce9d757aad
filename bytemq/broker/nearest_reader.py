"""Where a consumer should read a partition: from a broker of its own zone (KIP-392). Pure.

Owns: the choice. Must not: know how far a reader has come; one that lags lets its clients wait.
"""

from __future__ import annotations

from bytemq.metadata.image import ClusterImage, TopicImage
from bytemq.metadata.replicas import replicas
from bytemq.types import Role, TopicId

MAX_KEPT = 100_000


class NearestReaders:
    """One per broker. Each answer is kept until the topic, or any broker, changes: a topic's image is new then."""

    def __init__(self) -> None:
        self._kept: dict[tuple[TopicId, int, str], tuple[TopicImage, int]] = {}

    def choose(self, image: ClusterImage, topic: TopicImage, index: int, rack: str) -> int:
        """The broker to read from; the owner where none is better."""
        key = (topic.topic_id, index, rack)
        known = self._kept.get(key)
        if known is not None and known[0] is topic:
            return known[1]
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
        chosen = nearest_reader(image, topic, index, rack)
        self._kept[key] = topic, chosen
        return chosen


def nearest_reader(image: ClusterImage, topic: TopicImage, index: int, rack: str) -> int:
    """Of those that Metadata shows as replicas: the owner if it is in that zone, else another one there, else the
    owner. An owner without the role `read` sends everybody on, if there is somebody.
    """
    owner, *others = replicas(image, topic, index)
    known = image.brokers.get(owner)
    owner_reads = known is None or Role.READ in known.roles
    if not rack and owner_reads:
        return owner
    if known is not None and owner_reads and known.zone == rack:
        return owner
    near = [broker for broker in others if image.brokers[broker].zone == rack]
    if near:
        return near[index % len(near)]
    return owner if owner_reads or not others else others[index % len(others)]


def serves_readers(image: ClusterImage, topic: TopicImage, index: int, broker_id: int, rack: str) -> bool:
    """Whether a broker that does not own the partition answers a reader: one that has asked for its own zone, or that
    the owner sends on, and Metadata shows the broker as a replica.
    """
    owner, *others = replicas(image, topic, index)
    if broker_id not in others:
        return False
    known = image.brokers.get(owner)
    return bool(rack) or (known is not None and Role.READ not in known.roles)
