from __future__ import annotations

from collections import Counter

from bytemq.metadata import keys, values
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.store import Event
from bytemq.scheduler.planner import plan
from bytemq.types import Role
from tests.support.metadata import image_of, topic_id, topic_puts, with_roles

T1, T2 = topic_id(1), topic_id(2)


def carried_out(image: ClusterImage) -> ClusterImage:
    wishes = plan(image, list(image.topics_by_id))
    image.apply(
        Event(keys.assignments(wish.topic_id, wish.chunk), values.encode_assignments(wish.brokers), 50)
        for wish in wishes
    )
    return image


def test_plan__gives_every_partition_a_live_broker_and_then_rests() -> None:
    image = carried_out(image_of([0, 1], topic_puts("t", T1, [-1] * 300)))
    assert Counter(p.assigned for p in image.topics["t"].partitions) == {0: 150, 1: 150}
    assert plan(image, [T1]) == []


def test_plan__keeps_what_lives_and_moves_only_what_does_not() -> None:
    image = carried_out(image_of([0, 1], topic_puts("t", T1, [0, 7, 0, 7])))
    assert [p.assigned for p in image.topics["t"].partitions][0::2] == [0, 0]
    assert {p.assigned for p in image.topics["t"].partitions[1::2]} <= {0, 1}


def test_plan__writes_only_the_chunks_that_change() -> None:
    image = image_of([0], topic_puts("t", T1, [0] * 256 + [9] + [0] * 300))
    assert [(wish.chunk, wish.brokers[0], len(wish.brokers)) for wish in plan(image, [T1])] == [(1, 0, 256)]


def test_plan__prefers_the_broker_with_fewer_partitions() -> None:
    image = carried_out(image_of([0, 1], [*topic_puts("a", T1, [0] * 10), *topic_puts("b", T2, [-1])]))
    assert image.topics["b"].partitions[0].assigned == 1


def missed(image: ClusterImage, broker: int) -> None:
    value = values.DoubtValue(1000 + broker, 0, values.DoubtStage.MISSED)
    image.apply([Event(keys.doubt(broker), values.encode_doubt(value), 40)])


def test_plan__gives_what_a_missed_broker_has_to_others_and_then_rests() -> None:
    image = image_of([0, 1, 2], topic_puts("t", T1, [0, 1, 2, 1]))
    missed(image, 1)
    carried_out(image)
    assert Counter(p.assigned for p in image.topics["t"].partitions) == {0: 2, 2: 2}
    assert plan(image, [T1]) == []


def test_plan__with_nobody_who_is_not_missed_changes_nothing() -> None:
    image = image_of([0, 1], topic_puts("t", T1, [0, 1]))
    missed(image, 0)
    missed(image, 1)
    assert plan(image, [T1]) == []


def test_plan__without_brokers_or_for_deleted_topics_is_empty() -> None:
    assert plan(image_of([], topic_puts("t", T1, [0])), [T1]) == []
    assert plan(image_of([0]), [T1]) == []


def test_plan__gives_partitions_to_brokers_with_the_role_for_them() -> None:
    topics = [*topic_puts("t", T1, [-1] * 8), *topic_puts("__consumer_offsets", T2, [-1] * 8, is_internal=True)]
    image = image_of([0, 1, 2, 3], topics)
    with_roles(image, 1, Role.WRITE)
    with_roles(image, 2, Role.COORDINATE)
    with_roles(image, 3, Role.READ, Role.CONTROL)
    carried_out(image)
    assert Counter(p.assigned for p in image.topics["t"].partitions) == {0: 4, 1: 4}
    assert Counter(p.assigned for p in image.topics["__consumer_offsets"].partitions) == {0: 4, 2: 4}


def test_plan__leaves_what_nobody_may_own_until_somebody_may() -> None:
    image = image_of([0], topic_puts("t", T1, [7]))
    with_roles(image, 0, Role.READ)
    assert plan(image, [T1]) == []
    with_roles(image, 1, Role.WRITE)
    assert carried_out(image).topics["t"].partitions[0].assigned == 1
