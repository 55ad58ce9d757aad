"""Which broker should own which partition: an image in, the wishes that change out; and the image as the balancer sees
it, its moves as wishes. Pure.

Keeps: a partition stays with its broker while that broker lives. Spreads: others go to live brokers, evenly within each
topic, to those with the fewest partitions first. The same image always gives the same plan.

All of it is done in steps, and the image may change between them: wishes carry the revision of the chunk that they were
made from, so that whoever writes them never undoes what was not seen here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import islice
from typing import NamedTuple

from bytemq.metadata import keys
from bytemq.metadata.image import ClusterImage, TopicImage
from bytemq.metadata.loads import IDLE, Rates
from bytemq.metadata.spread import allowed, load_of_live_brokers, owning_role, spread_endlessly, zones_of
from bytemq.metadata.values import NO_BROKER
from bytemq.runtime.steps import Pace, Steps, slices
from bytemq.scheduler.board import BrokerState, Move, PlacedPartition
from bytemq.types import PartitionId, TopicId


class Wishes(NamedTuple):
    """One chunk of a topic's partitions, whole: brokers in partition order."""

    topic_id: TopicId
    chunk: int
    brokers: list[int]
    revision: int
    """Of the chunk's wishes that these were made from."""


class Plan(NamedTuple):
    wishes: list[Wishes]
    moves: list[Move]
    """What the wishes change, with a reason."""


def plan(image: ClusterImage, topics: Iterable[TopicId], awaited: Set[int] = frozenset()) -> Steps[Plan]:
    """The chunks of these topics whose wishes must change; none when each partition is assigned to a live broker, or to
    one that is awaited.
    """
    made = Plan([], [])
    if not image.brokers:
        return made
    load = load_of_live_brokers(image)
    pace = Pace()
    for topic_id in sorted(topics):
        topic = image.topics_by_id.get(topic_id)
        if topic is None:
            continue
        revisions = _revisions(image, topic)
        homeless: list[int] = []
        partitions = topic.partitions
        for some in slices(range(len(partitions))):
            homes = homes_of(image, awaited)
            homeless += [index for index in some if partitions[index].assigned not in homes]
            if pace.is_over(len(some)):
                yield
        if homeless:
            yield from _place(topic, homeless, image, load, revisions, made)
    return made


def wishes_of(image: ClusterImage, moves: Sequence[Move]) -> Steps[list[Wishes]]:
    """The chunks in which these moves change something. What is assigned otherwise by now is left alone."""
    read: dict[tuple[TopicId, int], Wishes] = {}
    changed: dict[tuple[TopicId, int], Wishes] = {}
    size = keys.CHUNK_PARTITIONS
    for some in slices(moves):
        for (topic_id, index), source, target, _ in some:
            chunk, place = divmod(index, size)
            wishes = read.get((topic_id, chunk))
            if wishes is None:
                topic = image.topics_by_id.get(topic_id)
                if topic is None:
                    continue
                brokers = [one.assigned for one in topic.partitions[chunk * size : (chunk + 1) * size]]
                wishes = Wishes(topic_id, chunk, brokers, image.key_revision(keys.assignments(topic_id, chunk)))
                read[topic_id, chunk] = wishes
            if place < len(wishes.brokers) and wishes.brokers[place] == source:
                wishes.brokers[place] = target
                changed[topic_id, chunk] = wishes
        yield
    return list(changed.values())


def late_owners(image: ClusterImage) -> Steps[dict[PartitionId, int]]:
    """Partitions that a live broker owns and that are wished to be on another live one, with their owners."""
    late: dict[PartitionId, int] = {}
    pace = Pace()
    for topic in list(image.topics.values()):
        for some in slices(range(len(topic.partitions))):
            for index in some:
                partition = topic.partitions[index]
                if partition.owner not in (NO_BROKER, partition.assigned) and partition.assigned in image.brokers:
                    late[PartitionId(topic.topic_id, index)] = partition.owner
            if pace.is_over(len(some)):
                yield
    return late


def placed_partitions(
    image: ClusterImage, rates: Mapping[PartitionId, Rates], homes: Mapping[PartitionId, str]
) -> Steps[list[PlacedPartition]]:
    """Every partition where it is wished to be."""
    placed: list[PlacedPartition] = []
    pace = Pace()
    for topic in list(image.topics.values()):
        zones = zones_of(topic.configs)
        topic_id, is_internal = topic.topic_id, topic.is_internal
        for some in slices(range(len(topic.partitions))):
            for index in some:
                pid, assigned = PartitionId(topic_id, index), topic.partitions[index].assigned
                home = homes.get(pid, "")
                placed.append(PlacedPartition(pid, assigned, rates.get(pid, IDLE), zones, is_internal, home))
            if pace.is_over(len(some)):
                yield
    return placed


def homes_of(image: ClusterImage, awaited: Set[int] = frozenset()) -> set[int]:
    """Brokers that keep what is assigned to them: they live, as far as others can tell, or are awaited."""
    return {broker for broker in {*image.brokers, *awaited} if not image.is_missed(broker)}


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


def _revisions(image: ClusterImage, topic: TopicImage) -> list[int]:
    """Of the wishes of each of its chunks."""
    chunks = range(keys.chunk_count(len(topic.partitions)))
    return [image.key_revision(keys.assignments(topic.topic_id, chunk)) for chunk in chunks]


def _place(
    topic: TopicImage,
    homeless: Sequence[int],
    image: ClusterImage,
    load: Counter[int],
    revisions: Sequence[int],
    made: Plan,
) -> Steps[None]:
    """Adds to what is `made`. `load` is counted up."""
    for gone in load.keys() - image.brokers.keys():  # since the plan began
        del load[gone]
    chosen = allowed(image, load, zones_of(topic.configs), owning_role(is_internal=topic.is_internal))
    if not chosen:  # nobody may: they wait where they are for somebody who does
        return
    before = Counter(chosen)
    brokers = spread_endlessly(chosen)
    size = keys.CHUNK_PARTITIONS
    changed: dict[int, list[int]] = {}
    for some in slices(homeless):
        for index, broker in zip(some, islice(brokers, len(some)), strict=True):
            was = topic.partitions[index].assigned
            if was == broker:
                continue
            chunk, place = divmod(index, size)
            if chunk not in changed:
                changed[chunk] = [one.assigned for one in topic.partitions[chunk * size : (chunk + 1) * size]]
            changed[chunk][place] = broker
            made.moves.append(Move(PartitionId(topic.topic_id, index), was, broker, _why_moved(image, was)))
        yield
    load.update({broker: count - before[broker] for broker, count in chosen.items()})
    made.wishes.extend(Wishes(topic.topic_id, chunk, changed[chunk], revisions[chunk]) for chunk in sorted(changed))


def _why_moved(image: ClusterImage, before: int) -> str:
    if before == NO_BROKER:
        return "it had no broker"
    return f"broker {before} does not answer" if before in image.brokers else f"broker {before} is gone"
