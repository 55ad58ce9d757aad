"""Which broker should own which partition: an image in, the wishes that change out; and the image as the balancer sees
it, its moves as wishes. Pure.

Keeps: a partition stays with its broker while that broker lives. Spreads: others go to live brokers, evenly within each
topic, to those with the fewest partitions first. The same image always gives the same plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

from bytemq.metadata import keys
from bytemq.metadata.image import ClusterImage, PartitionImage, TopicImage
from bytemq.metadata.loads import IDLE, Rates
from bytemq.metadata.spread import allowed, load_of_live_brokers, owning_role, spread, zones_of
from bytemq.metadata.values import NO_BROKER
from bytemq.scheduler.board import STEP_PARTITIONS, BrokerState, Move, PlacedPartition, Steps
from bytemq.types import PartitionId, TopicId


class Wishes(NamedTuple):
    """One chunk of a topic's partitions, whole: brokers in partition order."""

    topic_id: TopicId
    chunk: int
    brokers: list[int]


def plan(image: ClusterImage, topics: Iterable[TopicId], awaited: Set[int] = frozenset()) -> list[Wishes]:
    """The chunks of these topics whose wishes must change; none when each partition is assigned to a live broker, or to
    one that is awaited.
    """
    if not image.brokers:
        return []
    wishes: list[Wishes] = []
    load = load_of_live_brokers(image)
    for topic_id in sorted(topics):
        topic = image.topics_by_id.get(topic_id)
        if topic is not None and any(_is_homeless(partition, image, awaited) for partition in topic.partitions):
            wishes.extend(_plan_topic(topic, image, load, awaited))
    return wishes


def wishes_of(image: ClusterImage, moves: Iterable[Move]) -> list[Wishes]:
    """The chunks in which these moves change something. What is assigned otherwise by now is left alone."""
    changed: dict[tuple[TopicId, int], list[int]] = {}
    size = keys.CHUNK_PARTITIONS
    for (topic_id, index), source, target, _ in moves:
        topic = image.topics_by_id.get(topic_id)
        if topic is None or index >= len(topic.partitions) or topic.partitions[index].assigned != source:
            continue
        first = keys.chunk_of(index) * size
        brokers = changed.setdefault(
            (topic_id, keys.chunk_of(index)),
            [partition.assigned for partition in topic.partitions[first : first + size]],
        )
        brokers[index - first] = target
    return [Wishes(topic_id, chunk, brokers) for (topic_id, chunk), brokers in changed.items()]


def homeless_moves(image: ClusterImage, wishes: Iterable[Wishes]) -> list[Move]:
    """What these wishes change, as moves with a reason."""
    moves: list[Move] = []
    for topic_id, chunk, brokers in wishes:
        first = chunk * keys.CHUNK_PARTITIONS
        partitions = image.topics_by_id[topic_id].partitions
        for index, broker in enumerate(brokers, first):
            before = partitions[index].assigned
            if before != broker:
                reason = "it had no broker" if before == NO_BROKER else f"broker {before} is gone"
                if before in image.brokers:
                    reason = f"broker {before} does not answer"
                moves.append(Move(PartitionId(topic_id, index), before, broker, reason))
    return moves


def late_owners(image: ClusterImage) -> dict[PartitionId, int]:
    """Partitions that a live broker owns and that are wished to be on another live one, with their owners."""
    return {
        PartitionId(topic.topic_id, index): partition.owner
        for topic in image.topics.values()
        for index, partition in enumerate(topic.partitions)
        if partition.owner not in (NO_BROKER, partition.assigned) and partition.assigned in image.brokers
    }


def placed_partitions(
    image: ClusterImage, rates: Mapping[PartitionId, Rates], homes: Mapping[PartitionId, str]
) -> Steps[list[PlacedPartition]]:
    """Every partition where it is wished to be."""
    placed: list[PlacedPartition] = []
    looked_at = 0
    for topic in list(image.topics.values()):
        if len(placed) - looked_at >= STEP_PARTITIONS:
            looked_at = len(placed)
            yield
        zones = zones_of(topic.configs)
        topic_id, is_internal = topic.topic_id, topic.is_internal
        for index, partition in enumerate(topic.partitions):
            pid = PartitionId(topic_id, index)
            home = homes.get(pid, "")
            placed.append(PlacedPartition(pid, partition.assigned, rates.get(pid, IDLE), zones, is_internal, home))
    return placed


def broker_states(image: ClusterImage, sick: Mapping[int, str]) -> dict[int, BrokerState]:
    """Every live broker, and why it shall be empty."""
    return {
        broker.id: BrokerState(
            broker.zone,
            broker.capacity,
            _why_empty(image, broker.id) or sick.get(broker.id, ""),
            broker.roles,
        )
        for broker in image.brokers.values()
    }


def _why_empty(image: ClusterImage, broker: int) -> str:
    if image.is_missed(broker):
        return f"broker {broker} does not answer"
    return f"broker {broker} is drained" if broker in image.drained else ""


def _is_homeless(partition: PartitionImage, image: ClusterImage, awaited: Set[int]) -> bool:
    assigned = partition.assigned
    return image.is_missed(assigned) or (assigned not in image.brokers and assigned not in awaited)


def _plan_topic(topic: TopicImage, image: ClusterImage, load: Counter[int], awaited: Set[int]) -> list[Wishes]:
    assigned = [partition.assigned for partition in topic.partitions]
    homeless = [i for i, partition in enumerate(topic.partitions) if _is_homeless(partition, image, awaited)]
    chosen = allowed(image, load, zones_of(topic.configs), owning_role(is_internal=topic.is_internal))
    if not chosen:  # nobody may: they wait where they are for somebody who does
        return []
    for index, broker in zip(homeless, spread(len(homeless), chosen), strict=True):
        assigned[index] = broker
    load.update({broker: chosen[broker] - load[broker] for broker in chosen})
    chunks = sorted({keys.chunk_of(i) for i in homeless if assigned[i] != topic.partitions[i].assigned})
    size = keys.CHUNK_PARTITIONS
    return [Wishes(topic.topic_id, chunk, assigned[chunk * size : (chunk + 1) * size]) for chunk in chunks]
