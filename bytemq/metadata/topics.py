"""Creating, growing, deleting and configuring topics: transactions built from an image, with Kafka's checks. Pure.

Owns: what may be done to a topic and what is written for it. Must not: check the values of configs (the registry of
configs does) or wait. Every transaction compares the topic's key, so of two that were built from one image, one fails.

A new topic gets its first assignments in the same transaction as its name, so that nobody waits for the planner.
Any replication factor is accepted: the replicas are the store's, and tools ask for three.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from bytemq.metadata import keys, values
from bytemq.metadata.image import ClusterImage, TopicImage
from bytemq.metadata.spread import allowed, load_of_live_brokers, owning_role, spread, zones_of
from bytemq.metadata.store import MAX_TXN_OPERATIONS, Compare, Put
from bytemq.metadata.topic_names import (
    CLUSTER_METADATA_TOPIC,
    INTERNAL_TOPICS,
    check_topic_name,
    has_collision_characters,
    unify_collision_characters,
)
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.types import TopicId

MAX_PARTITIONS_PER_REQUEST = 10_000
MAX_PARTITIONS_PER_TOPIC = 60 * keys.CHUNK_PARTITIONS
"""Deleting a topic is one transaction: its key, and two keys a chunk."""
USE_DEFAULT = -1

assert 1 + 2 * keys.chunk_count(MAX_PARTITIONS_PER_TOPIC) <= MAX_TXN_OPERATIONS


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as asked for. -1 in the numbers: the broker's default, or given by `assignments`."""

    name: str
    partitions: int = USE_DEFAULT
    replication_factor: int = USE_DEFAULT
    assignments: Sequence[tuple[int, Sequence[int]]] = ()
    """(partition, broker ids): the first of them that lives owns the partition. Empty: spread."""
    configs: Mapping[str, str] = field(default_factory=dict)


class TopicDefaults(NamedTuple):
    partitions: int
    replication_factor: int


class TopicChange(NamedTuple):
    """A transaction, and the topic's value once it is applied."""

    topic: values.TopicValue
    compares: list[Compare]
    puts: list[Put]
    deletes: list[str]


def check_request_size(specs: Sequence[TopicSpec], defaults: TopicDefaults) -> None:
    """Raises POLICY_VIOLATION when the topics of one request have too many partitions together."""
    total = 0
    for spec in specs:
        if spec.assignments:
            total += len(spec.assignments)
        else:
            total += defaults.partitions if spec.partitions == USE_DEFAULT else max(0, spec.partitions)
    if total > MAX_PARTITIONS_PER_REQUEST:
        raise KafkaError(ErrorCode.POLICY_VIOLATION, "Excessively large number of partitions per request.")


def create(
    image: ClusterImage, spec: TopicSpec, topic_id: TopicId, defaults: TopicDefaults, load: Counter[int]
) -> TopicChange:
    """Raises KafkaError with Kafka's code and message when the topic cannot be created so.

    `load`: see `spread`; one for all topics of a request, so that they are spread together.
    """
    _check_new_name(image, spec.name)
    if spec.assignments:
        brokers, replication_factor = _manual_assignments(image, spec)
    else:
        count, replication_factor = _sizes(spec, defaults)
        role = owning_role(is_internal=spec.name in INTERNAL_TOPICS)
        chosen = allowed(image, load, zones_of(spec.configs), role)
        brokers = spread(count, chosen)
        load.update({broker: chosen[broker] - load[broker] for broker in chosen})
    topic = values.TopicValue(
        topic_id, len(brokers), replication_factor, dict(spec.configs), spec.name in INTERNAL_TOPICS
    )
    key = keys.topic(spec.name)
    puts = [Put(key, values.encode_topic(topic)), *_assignment_puts(topic_id, brokers, 0)]
    return TopicChange(topic, [Compare(key, 0)], puts, [])


def add_partitions(
    image: ClusterImage, topic: TopicImage, count: int, assignments: Sequence[Sequence[int]] | None
) -> TopicChange:
    """Grows the topic to `count` partitions; `assignments` are the brokers of the new ones, None: spread.

    Raises KafkaError.
    """
    existing = len(topic.partitions)
    if count == existing:
        raise KafkaError(ErrorCode.INVALID_PARTITIONS, f"Topic already has {existing} partition(s).")
    if count < existing:
        raise KafkaError(
            ErrorCode.INVALID_PARTITIONS,
            f"The topic {topic.name} currently has {existing} partition(s); {count} would not be an increase.",
        )
    additional = count - existing
    if additional > MAX_PARTITIONS_PER_REQUEST:
        raise KafkaError(ErrorCode.POLICY_VIOLATION, "Excessively large number of partitions per request.")
    _check_partition_count(count)
    if assignments is None:
        role = owning_role(is_internal=topic.is_internal)
        new = spread(additional, allowed(image, load_of_live_brokers(image), zones_of(topic.configs), role))
    else:
        if len(assignments) != additional:
            raise KafkaError(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                f"Attempted to add {additional} additional partition(s), but only {len(assignments)} assignment(s) "
                "were specified.",
            )
        for replicas in assignments:
            check_manual_replicas(image, replicas, None)
        new = [replicas[0] for replicas in assignments]
    brokers = [partition.assigned for partition in topic.partitions] + new
    puts = _assignment_puts(topic.topic_id, brokers, keys.chunk_of(existing))
    compares = [Compare(put.key, image.key_revision(put.key)) for put in puts]
    return _change_of(image, topic, replace(_value_of(topic), partitions=count), compares, puts)


def set_configs(image: ClusterImage, topic: TopicImage, configs: Mapping[str, str]) -> TopicChange:
    """Replaces all configs of the topic; they have been validated."""
    return _change_of(image, topic, replace(_value_of(topic), configs=dict(configs)), [], [])


def delete(image: ClusterImage, topic: TopicImage) -> TopicChange:
    """Removes every key of the topic under `cluster/`; its data goes after that."""
    deletes = [keys.topic(topic.name)]
    for chunk in range(keys.chunk_count(len(topic.partitions))):
        deletes += [keys.assignments(topic.topic_id, chunk), keys.owners(topic.topic_id, chunk)]
    return TopicChange(_value_of(topic), [_unchanged(image, topic)], [], deletes)


def _check_new_name(image: ClusterImage, name: str) -> None:
    if name == CLUSTER_METADATA_TOPIC:
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"Creation of internal topic {name} is prohibited.")
    check_topic_name(name)
    if name in image.topics:
        raise KafkaError(ErrorCode.TOPIC_ALREADY_EXISTS, f"Topic '{name}' already exists.")
    if has_collision_characters(name):
        other = image.collision(unify_collision_characters(name))
        if other is not None:
            raise KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic '{name}' collides with existing topic: {other}")


def _sizes(spec: TopicSpec, defaults: TopicDefaults) -> tuple[int, int]:
    """Partitions and replication factor."""
    if spec.replication_factor < USE_DEFAULT or spec.replication_factor == 0:
        raise KafkaError(
            ErrorCode.INVALID_REPLICATION_FACTOR,
            "Replication factor must be larger than 0, or -1 to use the default value.",
        )
    if spec.partitions < USE_DEFAULT or spec.partitions == 0:
        raise KafkaError(ErrorCode.INVALID_PARTITIONS, "Number of partitions was set to an invalid non-positive value.")
    count = defaults.partitions if spec.partitions == USE_DEFAULT else spec.partitions
    factor = defaults.replication_factor if spec.replication_factor == USE_DEFAULT else spec.replication_factor
    _check_partition_count(count)
    return count, factor


def _check_partition_count(count: int) -> None:
    if count > MAX_PARTITIONS_PER_TOPIC:
        raise KafkaError(
            ErrorCode.INVALID_PARTITIONS, f"A topic has at most {MAX_PARTITIONS_PER_TOPIC} partitions here."
        )


def _manual_assignments(image: ClusterImage, spec: TopicSpec) -> tuple[list[int], int]:
    """The owner of each partition, and the replication factor."""
    for value, name in ((spec.replication_factor, "replication factor"), (spec.partitions, "numPartitions")):
        if value != USE_DEFAULT:
            raise KafkaError(
                ErrorCode.INVALID_REQUEST,
                f"A manual partition assignment was specified, but {name} was not set to -1.",
            )
    owners: dict[int, int] = {}
    factor: int | None = None
    for partition, replicas in spec.assignments:
        if partition in owners:
            raise KafkaError(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                f"Found multiple manual partition assignments for partition {partition}",
            )
        check_manual_replicas(image, replicas, factor)
        factor = len(replicas)
        owners[partition] = replicas[0]
    if any(partition not in owners for partition in range(len(owners))):
        raise KafkaError(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT, "partitions should be a consecutive 0-based integer sequence"
        )
    return [owners[partition] for partition in range(len(owners))], len(spec.assignments[0][1])


def check_manual_replicas(image: ClusterImage, replicas: Sequence[int], factor: int | None) -> None:
    """Raises INVALID_REPLICA_ASSIGNMENT unless these are `factor` (None: any number of) different live brokers."""
    prefix = "The manual partition assignment includes"
    if not replicas:
        raise KafkaError(ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"{prefix} an empty replica list.")
    seen: set[int] = set()
    for broker in sorted(replicas):
        if broker not in image.brokers:
            raise KafkaError(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"{prefix} broker {broker}, but no such broker is registered."
            )
        if broker in seen:
            raise KafkaError(ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"{prefix} the broker {broker} more than once.")
        seen.add(broker)
    if factor is not None and len(replicas) != factor:
        raise KafkaError(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            f"{prefix} a partition with {len(replicas)} replica(s), but this is not consistent with previous "
            f"partitions, which have {factor} replica(s).",
        )


def _assignment_puts(topic_id: TopicId, brokers: Sequence[int], first_chunk: int) -> list[Put]:
    size = keys.CHUNK_PARTITIONS
    return [
        Put(keys.assignments(topic_id, chunk), values.encode_assignments(brokers[chunk * size : (chunk + 1) * size]))
        for chunk in range(first_chunk, keys.chunk_count(len(brokers)))
    ]


def _value_of(topic: TopicImage) -> values.TopicValue:
    return values.TopicValue(
        topic.topic_id, len(topic.partitions), topic.replication_factor, topic.configs, topic.is_internal
    )


def _change_of(
    image: ClusterImage, topic: TopicImage, value: values.TopicValue, compares: list[Compare], puts: list[Put]
) -> TopicChange:
    put = Put(keys.topic(topic.name), values.encode_topic(value))
    return TopicChange(value, [_unchanged(image, topic), *compares], [put, *puts], [])


def _unchanged(image: ClusterImage, topic: TopicImage) -> Compare:
    key = keys.topic(topic.name)
    return Compare(key, image.key_revision(key))
