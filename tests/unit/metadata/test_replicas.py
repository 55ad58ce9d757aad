"""What clients are told of a partition's replicas: live brokers, the owner first, zones spread."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bytemq.metadata import keys, values
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.replicas import replicas
from bytemq.metadata.store import Event
from bytemq.types import Role
from tests.support.metadata import broker_value, image_of, topic_id, topic_puts, with_roles

TOPIC = topic_id(1)


def cluster(zones: list[str | None], assigned: list[int], factor: int) -> ClusterImage:
    """Brokers 0, 1, ... in these zones; a topic whose partitions belong to `assigned`."""
    owners = values.OwnersValue(assigned, [1000 + broker for broker in assigned], [1] * len(assigned))
    image = image_of([], topic_puts("t", TOPIC, assigned, owners, factor))
    for broker, zone in enumerate(zones):
        value = values.encode_broker(replace(broker_value(), zone=zone))
        image.apply([Event(keys.broker(broker), value, 1000 + broker)])
    return image


def all_replicas(image: ClusterImage) -> list[list[int]]:
    topic = image.topics["t"]
    return [replicas(image, topic, index) for index in range(len(topic.partitions))]


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5, 50])
def test_replicas__are_as_many_different_brokers_as_the_factor_and_the_cluster_allow(factor: int) -> None:
    for index, named in enumerate(all_replicas(cluster([None] * 4, [0, 1, 2, 3, 0, 1], factor))):
        assert named[0] == index % 4, "the owner comes first"
        assert len(named) == len(set(named)) == min(factor, 4)


@pytest.mark.parametrize("owner", range(6))
def test_replicas__are_in_as_many_zones_as_there_are(owner: int) -> None:
    zones: list[str | None] = ["a", "a", "a", "a", "b", "c"]
    for factor, in_zones in ((2, 2), (3, 3), (4, 3)):
        [named] = all_replicas(cluster(zones, [owner], factor))
        assert named[0] == owner and len(set(named)) == factor
        assert len({zones[broker] for broker in named}) == in_zones


@pytest.mark.parametrize("zones", [[None] * 4, ["a", "a", "b", "b"], ["a", "b", "c", "d"]])
def test_replicas__of_many_partitions_take_turns(zones: list[str | None]) -> None:
    named = all_replicas(cluster(zones, [index % 4 for index in range(240)], 2))
    for broker in range(4):
        assert sum(broker in each[1:] for each in named) >= 40


def test_replicas__are_alive_while_the_partition_has_no_owner() -> None:
    image = cluster([None] * 3, [2], 2)
    image.apply([Event(keys.broker(2), None, 5000)])
    [named] = all_replicas(image)
    assert len(set(named)) == 2 and set(named) <= {0, 1}
    for broker in (0, 1):
        image.apply([Event(keys.broker(broker), None, 5001 + broker)])
    assert all_replicas(image) == [[2]], "nobody is alive: the one that is to own it"
    image.apply([Event(keys.broker(1), values.encode_broker(broker_value()), 5003)])
    assert all_replicas(image) == [[1]]


def test_replicas__are_brokers_that_serve_readers() -> None:
    image = cluster(["a", "b", "c", "c"], [0, 1], 3)
    with_roles(image, 2, Role.WRITE, Role.COORDINATE, zone="c")
    assert all_replicas(image) == [[0, 1, 3], [1, 0, 3]]


def test_replicas__of_an_owner_that_does_not_serve_readers_name_somebody_who_does() -> None:
    image = cluster(["a", "b"], [0], 1)
    with_roles(image, 0, Role.WRITE, zone="a")
    assert all_replicas(image) == [[0, 1]]
    with_roles(image, 1, Role.WRITE, zone="b")
    assert all_replicas(image) == [[0]]
