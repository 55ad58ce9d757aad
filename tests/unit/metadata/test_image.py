from __future__ import annotations

import pytest

from bytemq.errors import Corrupt
from bytemq.metadata import keys, values
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.store import Event, KeyValue
from tests.support.metadata import broker_value, image_of, topic_id, topic_puts

T1, T2 = topic_id(1), topic_id(2)


def owned(broker: int, session: int, epochs: list[int]) -> values.OwnersValue:
    return values.OwnersValue([broker] * len(epochs), [session] * len(epochs), epochs)


def test_image__shows_a_topic_with_wishes_and_facts() -> None:
    image = image_of([0, 1], topic_puts("t", T1, [0, 1], owned(0, 1000, [3, 4])))
    topic = image.topics["t"]
    assert topic is image.topics_by_id[T1]
    assert [(p.assigned, p.owner, p.leader_epoch) for p in topic.partitions] == [(0, 0, 3), (1, 0, 4)]


def test_image__does_not_depend_on_the_order_of_the_keys() -> None:
    puts = topic_puts("t", T1, [0] * 300, owned(0, 1000, [1] * 256))
    one, other = image_of([0], puts), image_of([0], reversed(puts))
    assert one.topics["t"].partitions == other.topics["t"].partitions
    assert len(one.topics["t"].partitions) == 300


def test_image__has_no_owner_whose_session_ended() -> None:
    image = image_of([0], topic_puts("t", T1, [0], owned(0, 1000, [3])))
    assert image.topics["t"].partitions[0].owner == 0
    change = image.apply([Event(keys.broker(0), None, 2000)])
    assert image.topics["t"].partitions[0][:2] == (-1, 3)
    assert change.brokers and T1 in change.topics
    image.apply([Event(keys.broker(0), values.encode_broker(broker_value()), 2001)])
    assert image.topics["t"].partitions[0].owner == -1, "the same broker under another session owns nothing"


def test_image__forgets_a_deleted_topic_completely() -> None:
    puts = topic_puts("a.b", T1, [0], owned(0, 1000, [3]))
    image = image_of([0], puts)
    change = image.apply([Event(put.key, None, 5) for put in puts])
    assert change.topics == {T1}
    assert (image.topics, image.topics_by_id, image.collision("a_b")) == ({}, {}, None)
    assert image.assigned_counts[0] == 0
    assert all(image.key_revision(put.key) == 0 for put in puts)


def test_image__takes_a_topic_deleted_and_created_again_under_its_name() -> None:
    old, new = topic_puts("t", T1, [0]), topic_puts("t", T2, [0, 0])
    image = image_of([0], old)
    events = [Event(put.key, None, 5) for put in old] + [Event(put.key, put.value, 6) for put in new]
    assert image.apply(events).topics == {T1, T2}
    assert image.topics["t"].topic_id == T2 and T1 not in image.topics_by_id


def test_image__keeps_untouched_topics_as_they_are() -> None:
    image = image_of([0], [*topic_puts("a", T1, [0]), *topic_puts("b", T2, [0])])
    before = image.topics["a"]
    image.apply([Event(put.key, put.value, 9) for put in topic_puts("b", T2, [0, 0])])
    assert image.topics["a"] is before
    assert image.assigned_counts[0] == 3


def test_image__comes_from_a_listing_to_the_same_state_as_from_events() -> None:
    puts = [*topic_puts("a", T1, [0]), *topic_puts("b", T2, [0])]
    image = image_of([0], puts)
    image.apply([Event(keys.config("group", "g/1"), b'{"x":"1"}', 7)])
    listing = [KeyValue(put.key, put.value, 1) for put in topic_puts("b", T2, [0])]
    events = image.events_from_listing(listing, 2000)
    image.apply(events, 2000)
    fresh = ClusterImage()
    fresh.apply(fresh.events_from_listing(listing, 2000), 2000)
    assert image.topics.keys() == fresh.topics.keys() == {"b"}
    assert image.brokers == fresh.brokers == {}
    assert image.configs == fresh.configs == {}
    assert image.revision == fresh.revision == 2000


def test_image__tells_which_configs_changed() -> None:
    image = ClusterImage()
    change = image.apply([Event(keys.config("broker", ""), b'{"log.retention.ms":"5"}', 1)])
    assert change.configs == {("broker", "")}
    assert image.broker_default_configs == {"log.retention.ms": "5"}
    assert image.broker_configs(3) == {} and image.group_configs("g") == {}


def test_image__refuses_what_it_cannot_read_by_name_of_the_key() -> None:
    for key, value in (
        (keys.topic("t"), b"not json"),
        (keys.topic("t"), b"{}"),
        (keys.owners(T1, 0), b'{"owners":[],"owner":[4],"epoch":[0]}'),
        (keys.ASSIGNMENTS + "short/0", b"[]"),
    ):
        with pytest.raises(Corrupt):
            ClusterImage().apply([Event(key, value, 1)])


def test_owners_value__of_a_chunk_is_small_and_comes_back() -> None:
    value = values.OwnersValue([i % 3 for i in range(256)], [2**40 + i % 3 for i in range(256)], [999] * 256)
    encoded = values.encode_owners(value)
    assert len(encoded) < 4 * 1024
    decoded = values.decode_owners(encoded)
    assert (list(decoded.brokers), list(decoded.sessions)) == (value.brokers, value.sessions)
    assert list(decoded.leader_epochs) == value.leader_epochs
