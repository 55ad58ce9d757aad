"""Which brokers stand as a partition's replicas where the protocol asks for some. Pure.

The replicas are the store's, so any live broker with the role `read` can serve: clients are told min(replication
factor, live brokers) of them, the owner first, then as many zones as there are, all in sync.
"""

from __future__ import annotations

from collections import Counter

from bytemq.metadata.image import ClusterImage, TopicImage
from bytemq.metadata.values import NO_BROKER
from bytemq.types import Role


def replicas(image: ClusterImage, topic: TopicImage, index: int) -> list[int]:
    """Different live brokers, the owner first; while there is none, the one that is to own the partition.

    Never empty: without any live broker it is that one, alive or not. Partitions take turns with whom they name, so
    that clients that read from the nearest replica are spread.
    """
    partition = topic.partitions[index]
    first = partition.owner if partition.owner != NO_BROKER else partition.assigned
    live = sorted(image.brokers)
    if first not in image.brokers and live:
        first = live[index % len(live)]
    others = [broker for broker in live if broker != first and Role.READ in image.brokers[broker].roles]
    wanted = min(max(topic.replication_factor - 1, _least_others(image, first)), len(others))
    if wanted <= 0:
        return [first]
    start = index // len(live) % len(others)
    others = others[start:] + others[:start]
    return [first, *(others if wanted == len(others) else _spread(image, first, others, wanted))]


def _least_others(image: ClusterImage, owner: int) -> int:
    """An owner that does not serve readers names somebody who does, whatever the replication factor."""
    known = image.brokers.get(owner)
    return 0 if known is None or Role.READ in known.roles else 1


def _spread(image: ClusterImage, first: int, others: list[int], wanted: int) -> list[int]:
    """`wanted` of `others`: always one of the zones that have the fewest so far, the first of them in that order."""
    taken = Counter([image.brokers[first].zone])
    chosen: list[int] = []
    for _ in range(wanted):
        following = min(others, key=lambda broker: taken[image.brokers[broker].zone])
        others.remove(following)
        taken[image.brokers[following].zone] += 1
        chosen.append(following)
    return chosen
