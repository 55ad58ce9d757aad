"""Which broker should own which partition. Pure: an image in, the wishes that change out.

Keeps: a partition stays with its broker while that broker lives. Spreads: others go to live brokers, evenly within each
topic, to those with the fewest partitions first. The same image always gives the same plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from bytemq.metadata import keys
from bytemq.metadata.image import ClusterImage, TopicImage
from bytemq.metadata.spread import load_of_live_brokers, spread
from bytemq.types import TopicId


class Wishes(NamedTuple):
    """One chunk of a topic's partitions, whole: brokers in partition order."""

    topic_id: TopicId
    chunk: int
    brokers: list[int]


def plan(image: ClusterImage, topics: Iterable[TopicId]) -> list[Wishes]:
    """The chunks of these topics whose wishes must change; none when each partition is assigned to a live broker."""
    if not image.brokers:
        return []
    wishes: list[Wishes] = []
    load = load_of_live_brokers(image)
    for topic_id in sorted(topics):
        topic = image.topics_by_id.get(topic_id)
        if topic is not None and any(partition.assigned not in image.brokers for partition in topic.partitions):
            wishes.extend(_plan_topic(topic, image, load))
    return wishes


def _plan_topic(topic: TopicImage, image: ClusterImage, load: Counter[int]) -> list[Wishes]:
    assigned = [partition.assigned for partition in topic.partitions]
    homeless = [index for index, broker in enumerate(assigned) if broker not in image.brokers]
    for index, broker in zip(homeless, spread(len(homeless), load), strict=True):
        assigned[index] = broker
    chunks = sorted({keys.chunk_of(index) for index in homeless})
    size = keys.CHUNK_PARTITIONS
    return [Wishes(topic.topic_id, chunk, assigned[chunk * size : (chunk + 1) * size]) for chunk in chunks]
