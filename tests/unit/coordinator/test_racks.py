"""From brokers' zones and consumers' client.rack to who reads what."""

from __future__ import annotations

from dataclasses import replace

from bytemq.broker.coordinator.group_coordinators import ImageTopics
from bytemq.metadata import keys, values
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.store import Event
from tests.support.metadata import broker_value, image_of, topic_id, topic_puts
from tests.unit.coordinator.consumer_world import Consumer, ConsumerWorld

TOPIC = topic_id(1)


def cluster(zones: list[str | None], owners: list[int], factor: int) -> ClusterImage:
    owned = values.OwnersValue(owners, [1000 + broker for broker in owners], [1] * len(owners))
    image = image_of([], topic_puts("t", TOPIC, owners, owned, factor))
    for broker, zone in enumerate(zones):
        value = values.encode_broker(replace(broker_value(), zone=zone))
        image.apply([Event(keys.broker(broker), value, 1000 + broker)])
    return image


def racks(image: ClusterImage) -> list[set[str]]:
    return [set(each) for each in ImageTopics(lambda: image).racks(TOPIC)]


def test_racks__of_a_partition_are_the_zones_of_its_replicas() -> None:
    assert racks(cluster(["a", "b", "c"], [0, 1, 2], 1)) == [{"a"}, {"b"}, {"c"}]
    assert racks(cluster(["a", "b", "c"], [0, 1, 2], 3)) == [{"a", "b", "c"}] * 3
    assert racks(cluster(["a", None], [0, 1], 1)) == [{"a"}, set()]


def test_racks__of_dead_brokers_and_unknown_topics_are_none() -> None:
    image = cluster(["a"], [0], 1)
    image.apply([Event(keys.broker(0), None, 5000)])
    assert racks(image) == [set()]
    assert ImageTopics(lambda: image).racks(topic_id(2)) == []


def test_consumers__with_a_rack_read_what_is_near() -> None:
    world = ConsumerWorld(t=6)
    world.topics.rack_names = ("a", "b", "c")
    consumers = [Consumer(world, f"in-{rack}") for rack in "cab"]
    for consumer in consumers:
        consumer.rack = consumer.name[-1]
        consumer.heartbeat()
    for _ in range(5):
        world.advance(2_000)
        for consumer in consumers:
            consumer.heartbeat()
    read = {consumer.rack: {index % 3 for _, index in consumer.named()} for consumer in consumers}
    assert read == {"a": {0}, "b": {1}, "c": {2}}
