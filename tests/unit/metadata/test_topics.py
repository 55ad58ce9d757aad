from __future__ import annotations

from collections import Counter

import pytest

from bytemq.metadata import keys, topics, values
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.store import Event, check_limits
from bytemq.metadata.topics import TopicChange, TopicDefaults, TopicSpec
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from tests.support.metadata import image_of, topic_id, topic_puts

T1 = topic_id(1)
DEFAULTS = TopicDefaults(partitions=2, replication_factor=3)


def create(image: ClusterImage, spec: TopicSpec) -> TopicChange:
    return topics.create(image, spec, T1, DEFAULTS, Counter(dict.fromkeys(image.brokers, 0)))


def applied(image: ClusterImage, change: TopicChange) -> ClusterImage:
    check_limits(change.compares, change.puts, change.deletes)
    for key, revision in change.compares:
        assert image.key_revision(key) == revision
    image.apply([Event(put.key, put.value, 2) for put in change.puts] + [Event(key, None, 2) for key in change.deletes])
    return image


def refusal(image: ClusterImage, spec: TopicSpec) -> tuple[ErrorCode, str]:
    with pytest.raises(KafkaError) as caught:
        create(image, spec)
    return caught.value.code, caught.value.message


def test_create__assigns_every_partition_in_the_same_transaction() -> None:
    image = image_of([0, 1, 2])
    applied(image, create(image, TopicSpec("t", 600)))
    counts = Counter(partition.assigned for partition in image.topics["t"].partitions)
    assert counts == {0: 200, 1: 200, 2: 200}


def test_create__takes_the_defaults_and_any_replication_factor() -> None:
    image = image_of([0])
    assert create(image, TopicSpec("t")).topic.partitions == 2
    assert create(image, TopicSpec("t")).topic.replication_factor == 3
    assert create(image, TopicSpec("t", 1, 50)).topic.replication_factor == 50


def test_create__without_a_live_broker_leaves_the_partitions_to_the_planner() -> None:
    image = ClusterImage()
    applied(image, create(image, TopicSpec("t", 1)))
    assert image.topics["t"].partitions[0].assigned == values.NO_BROKER


def test_create__refuses_numbers_that_make_no_sense() -> None:
    image = image_of([0])
    assert refusal(image, TopicSpec("t", 0))[0] is ErrorCode.INVALID_PARTITIONS
    assert refusal(image, TopicSpec("t", -2))[0] is ErrorCode.INVALID_PARTITIONS
    assert refusal(image, TopicSpec("t", 1, 0)) == (
        ErrorCode.INVALID_REPLICATION_FACTOR,
        "Replication factor must be larger than 0, or -1 to use the default value.",
    )


def test_create__refuses_names_as_kafka_does() -> None:
    image = image_of([0], topic_puts("a.b", topic_id(9), [0]))
    assert refusal(image, TopicSpec("a_b")) == (
        ErrorCode.INVALID_TOPIC_EXCEPTION,
        "Topic 'a_b' collides with existing topic: a.b",
    )
    assert refusal(image, TopicSpec("a.b"))[0] is ErrorCode.TOPIC_ALREADY_EXISTS
    assert refusal(image, TopicSpec("__cluster_metadata"))[0] is ErrorCode.INVALID_REQUEST
    for name in ("", ".", "..", "x" * 250, "a b", "é", "a\n"):
        assert refusal(image, TopicSpec(name))[0] is ErrorCode.INVALID_TOPIC_EXCEPTION, name
    create(image, TopicSpec("x" * 249))


def test_create__marks_internal_topics() -> None:
    assert create(image_of([0]), TopicSpec("__consumer_offsets")).topic.is_internal
    assert not create(image_of([0]), TopicSpec("__other")).topic.is_internal


def test_create__places_partitions_by_hand() -> None:
    image = image_of([0, 1])
    applied(image, create(image, TopicSpec("t", assignments=[(1, [0]), (0, [1])])))
    assert [partition.assigned for partition in image.topics["t"].partitions] == [1, 0]


@pytest.mark.parametrize(
    ("spec", "code", "message"),
    [
        (TopicSpec("t", 1, -1, [(0, [0])]), ErrorCode.INVALID_REQUEST, "numPartitions was not set to -1"),
        (TopicSpec("t", -1, 1, [(0, [0])]), ErrorCode.INVALID_REQUEST, "replication factor was not set to -1"),
        (TopicSpec("t", assignments=[(0, [7])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT, "no such broker is registered"),
        (TopicSpec("t", assignments=[(0, [])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT, "empty replica list"),
        (TopicSpec("t", assignments=[(0, [0, 0])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT, "more than once"),
        (TopicSpec("t", assignments=[(0, [0]), (0, [1])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT, "multiple manual"),
        (TopicSpec("t", assignments=[(0, [0]), (2, [1])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT, "consecutive 0-based"),
        (TopicSpec("t", assignments=[(0, [0]), (1, [0, 1])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT, "not consistent"),
    ],
)
def test_create__refuses_placements_that_contradict_themselves(spec: TopicSpec, code: ErrorCode, message: str) -> None:
    refused, why = refusal(image_of([0, 1]), spec)
    assert refused is code
    assert message in why


def test_check_request_size__counts_all_topics_of_a_request() -> None:
    topics.check_request_size([TopicSpec("a", 5000), TopicSpec("b", 5000), TopicSpec("c", -7)], DEFAULTS)
    with pytest.raises(KafkaError) as caught:
        topics.check_request_size([TopicSpec("a", 9_999), TopicSpec("b")], DEFAULTS)
    assert caught.value.code is ErrorCode.POLICY_VIOLATION


def test_add_partitions__keeps_the_old_ones_where_they_are() -> None:
    image = image_of([0, 1], topic_puts("t", T1, [1] * 256))
    change = applied(image, topics.add_partitions(image, image.topics["t"], 258, None)).topics["t"]
    assert [p.assigned for p in change.partitions[:256]] == [1] * 256
    assert sorted(p.assigned for p in change.partitions[256:]) == [0, 1]


def test_add_partitions__does_not_touch_full_chunks() -> None:
    image = image_of([0], topic_puts("t", T1, [0] * 512))
    change = topics.add_partitions(image, image.topics["t"], 513, None)
    assert {put.key for put in change.puts} == {keys.topic("t"), keys.assignments(T1, 2)}


def test_add_partitions__refuses_what_kafka_refuses() -> None:
    image = image_of([0], topic_puts("t", T1, [0] * 3))
    topic = image.topics["t"]
    for count, assignments, code, message in (
        (3, None, ErrorCode.INVALID_PARTITIONS, "Topic already has 3 partition(s)."),
        (2, None, ErrorCode.INVALID_PARTITIONS, "currently has 3 partition(s); 2 would not be an increase."),
        (5, [[0]], ErrorCode.INVALID_REPLICA_ASSIGNMENT, "add 2 additional partition(s), but only 1 assignment(s)"),
        (4, [[9]], ErrorCode.INVALID_REPLICA_ASSIGNMENT, "no such broker"),
        (10_004, None, ErrorCode.POLICY_VIOLATION, "Excessively large"),
    ):
        with pytest.raises(KafkaError) as caught:
            topics.add_partitions(image, topic, count, assignments)
        assert caught.value.code is code
        assert message in caught.value.message


def test_delete__removes_every_key_of_the_topic() -> None:
    puts = topic_puts("t", T1, [0] * 300, values.OwnersValue([0] * 256, [1000] * 256, [0] * 256))
    image = image_of([0], puts)
    applied(image, topics.delete(image, image.topics["t"]))
    assert image.topics == {}
    assert not any(image.key_revision(put.key) for put in puts)


def test_delete__of_the_largest_topic_is_one_transaction() -> None:
    image = image_of([0], topic_puts("t", T1, [0] * topics.MAX_PARTITIONS_PER_TOPIC))
    applied(image, topics.delete(image, image.topics["t"]))
    assert image.topics == {}


def test_set_configs__changes_nothing_else() -> None:
    image = image_of([0], topic_puts("t", T1, [0, 0], factor=3))
    before = image.topics["t"]
    applied(image, topics.set_configs(image, before, {"retention.ms": "5"}))
    after = image.topics["t"]
    assert after.configs == {"retention.ms": "5"}
    assert (after.partitions, after.replication_factor, after.topic_id) == (before.partitions, 3, T1)
