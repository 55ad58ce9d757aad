from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from bytemq.errors import Corrupt
from bytemq.metadata import keys, values
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.loads import IDLE, LoadReport, decode_load, encode_load
from bytemq.metadata.pools import PoolUse, PoolValue, encode_pool
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
    assert change.topics == {T1} and change.deleted == {"a.b"}
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


def test_image__builds_only_what_is_of_a_session_that_has_begun_or_ended() -> None:
    """With a hundred thousand partitions it is the longest step that the end of a session has."""
    size = keys.CHUNK_PARTITIONS
    image = image_of([0, 1], topic_puts("t", T1, [1] * 3 * size, owned(1, 1001, [5] * size)))
    others = values.OwnersValue([0] + [1] * (size - 1), [1000] + [1001] * (size - 1), [2] * size)
    image.apply([Event(keys.owners(T1, 1), values.encode_owners(others), 9)])
    before = image.topics["t"].partitions
    image.apply([Event(keys.broker(0), None, 2000)])
    after = image.topics["t"].partitions
    assert [p.owner for p in after] == [1] * size + [-1] + [1] * (size - 1) + [-1] * size
    built = [index for index, (one, other) in enumerate(zip(before, after, strict=True)) if one is not other]
    assert built == [size]


@pytest.mark.parametrize("seed", range(4))
def test_image__is_what_its_keys_say_however_it_came_to_that(seed: int) -> None:
    random, image = Random(seed), ClusterImage()
    size = keys.CHUNK_PARTITIONS
    entries: dict[str, tuple[bytes, int]] = {}
    for revision in range(1, 200):
        number = random.randrange(3)
        chunk = random.randrange(3)
        count = random.choice([1, size, size + 1, 3 * size])
        brokers = random.choices(range(3), k=random.randint(1, size))
        alive = [entries.get(keys.broker(one), (b"", 7))[1] for one in brokers]
        value: bytes | None
        key, value = random.choice(
            [
                (keys.broker(number), values.encode_broker(broker_value())),
                (keys.topic(f"t{number}"), values.encode_topic(values.TopicValue(topic_id(number), count, 1, {}))),
                (keys.assignments(topic_id(number), chunk), values.encode_assignments(brokers)),
                (
                    keys.owners(topic_id(number), chunk),
                    values.encode_owners(values.OwnersValue(brokers, alive, [revision] * len(brokers), {0: revision})),
                ),
            ]
        )
        if random.random() < 0.2:
            value = None
            entries.pop(key, None)
        else:
            entries[key] = (value, revision)
        image.apply([Event(key, value, revision)])
        fresh = ClusterImage()
        fresh.apply(Event(key, value, at) for key, (value, at) in entries.items())
        assert {name: topic.partitions for name, topic in image.topics.items()} == {
            name: topic.partitions for name, topic in fresh.topics.items()
        }
        assert +image.assigned_counts == +fresh.assigned_counts
        assert image.assigned_counts == Counter(p.assigned for t in image.topics.values() for p in t.partitions)


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


def test_image__tells_of_pools() -> None:
    image = image_of([0], topic_puts("t", T1, [0]))
    pool = PoolValue("s3://other/prefix", PoolUse.DRAINED)
    change = image.apply([Event(keys.pool("b"), encode_pool(pool), 5)])
    assert image.pools == {"b": pool} and change.pools and not change.topics
    assert image.apply([Event(keys.pool("b"), None, 6)]).pools and image.pools == {}
    assert not image.apply([Event(keys.config("broker", ""), values.encode_configs({"a": "b"}), 7)]).pools


def test_load__tells_how_stores_are_and_an_older_one_tells_nothing_of_them() -> None:
    report = LoadReport(1, IDLE, pools={"b": "slow: a write took 1.5 s"})
    assert decode_load(encode_load(report)) == report
    fields = json.loads(encode_load(report))
    del fields["pools"]
    assert decode_load(json.dumps(fields).encode()).pools == {}
    assert report.differs_from(replace(report, pools={"b": "well"}))
    assert not report.differs_from(replace(report, pools={"b": "slow: a write took 1.7 s"})), (
        "reasons change all the time"
    )


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


def doubted(image: ClusterImage, broker: int, stage: values.DoubtStage, session: int) -> None:
    value = values.DoubtValue(session, 2, stage)
    image.apply([Event(keys.doubt(broker), values.encode_doubt(value), image.revision + 1)])


def test_missed__broker_is_not_where_clients_are_sent() -> None:
    facts = values.OwnersValue([1, 1], [1001, 1001], [4, 4])
    image = image_of([1, 2], topic_puts("t", topic_id(1), [2, 1], facts))

    def leaders() -> list[tuple[int, int]]:
        return [image.leader_of(partition) for partition in image.topics["t"].partitions]

    for stage, leads in (
        (values.DoubtStage.RAISED, (1, 4)),
        (values.DoubtStage.FINAL, (1, 4)),
        (values.DoubtStage.MISSED, (2, 5)),
        (values.DoubtStage.ENDING, (2, 5)),
    ):
        doubted(image, 1, stage, 1001)
        assert leaders() == [leads, (1, 4)], "nobody else is to have the other one yet"
        assert image.is_missed(1) is (leads == (2, 5))
    doubted(image, 1, values.DoubtStage.MISSED, 7)
    assert leaders() == [(1, 4), (1, 4)] and not image.is_missed(1), "it was another session that was missed"
    doubted(image, 1, values.DoubtStage.MISSED, 1001)
    image.apply([Event(keys.doubt(1), None, image.revision + 1)])
    assert leaders() == [(1, 4), (1, 4)]
