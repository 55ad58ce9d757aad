"""Spreads new partitions over brokers: the rule shared by whoever creates a topic and by the planner. Pure."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice

from bytemq.metadata.image import ClusterImage
from bytemq.metadata.values import NO_BROKER
from bytemq.types import Role

PINNED_ZONES = "bytemq.zones"
"""The topic config that names the zones whose brokers may own the topic's partitions."""


def load_of_live_brokers(image: ClusterImage) -> Counter[int]:
    """How many partitions are assigned to each live broker, for `spread` to count up.

    Without those that are missed, and those that are drained, as far as there are others.
    """
    there = {broker for broker in image.brokers if not image.is_missed(broker)} or image.brokers.keys()
    usable = there - image.drained or there
    return Counter({broker: image.assigned_counts[broker] for broker in usable})


def zones_of(configs: Mapping[str, str]) -> frozenset[str] | None:
    """The zones that a topic's configs pin it to; None: any."""
    zones = frozenset(zone.strip() for zone in configs.get(PINNED_ZONES, "").split(",") if zone.strip())
    return zones or None


def owning_role(*, is_internal: bool) -> Role:
    """What a broker must be there for to own partitions of such a topic."""
    return Role.COORDINATE if is_internal else Role.WRITE


def allowed(image: ClusterImage, load: Counter[int], zones: frozenset[str] | None, role: Role) -> Counter[int]:
    """The brokers of `load` with this role, in these zones; in any zone when none is there. Maybe none at all."""
    able = Counter({broker: count for broker, count in load.items() if role in image.brokers[broker].roles})
    if zones is None:
        return able
    return Counter({broker: count for broker, count in able.items() if image.brokers[broker].zone in zones}) or able


def spread(count: int, load: Counter[int]) -> list[int]:
    """A broker of `load` for each of `count` partitions of one topic; `load` is counted up.

    Without a broker all stay unassigned until the planner sees one.
    """
    return list(islice(spread_endlessly(load), count)) if load else [NO_BROKER] * count


def spread_endlessly(load: Counter[int]) -> Iterator[int]:
    """A broker of `load`, which has some, for each partition of one topic that is asked for; `load` is counted up.

    The partitions of a topic differ by one at most between brokers; within that, those with the least load come first.
    """
    heap = [(0, load[broker], broker) for broker in load]
    heapq.heapify(heap)
    while True:
        of_topic, total, broker = heap[0]
        load[broker] += 1
        heapq.heapreplace(heap, (of_topic + 1, total + 1, broker))
        yield broker
