"""Spreads new partitions over brokers: the rule shared by whoever creates a topic and by the planner. Pure."""

from __future__ import annotations

import heapq
from collections import Counter

from bytemq.metadata.image import ClusterImage
from bytemq.metadata.values import NO_BROKER


def load_of_live_brokers(image: ClusterImage) -> Counter[int]:
    """How many partitions are assigned to each live broker, for `spread` to count up."""
    return Counter({broker: image.assigned_counts[broker] for broker in image.brokers})


def spread(count: int, load: Counter[int]) -> list[int]:
    """A broker of `load` for each of `count` partitions of one topic; `load` is counted up.

    The partitions of a topic differ by one at most between brokers; within that, those with the least load come first.
    Without a broker all stay unassigned until the planner sees one.
    """
    heap = [(0, load[broker], broker) for broker in load]
    if not heap:
        return [NO_BROKER] * count
    heapq.heapify(heap)
    chosen: list[int] = []
    for _ in range(count):
        of_topic, total, broker = heap[0]
        chosen.append(broker)
        load[broker] += 1
        heapq.heapreplace(heap, (of_topic + 1, total + 1, broker))
    return chosen
