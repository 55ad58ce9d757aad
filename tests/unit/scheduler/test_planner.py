from __future__ import annotations

from collections import Counter

from bytemq.metadata import keys, values
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.store import Event
from bytemq.runtime.steps import STEP_ITEMS, finished
from bytemq.scheduler.board import Move
from bytemq.scheduler.planner import Wishes, plan, wishes_of
from bytemq.types import PartitionId, Role, TopicId
from tests.support.metadata import image_of, topic_id, topic_puts, with_roles

T1, T2 = topic_id(1), topic_id(2)


def planned(image: ClusterImage, topics: list[TopicId]) -> list[Wishes]:
    return finished(plan(image, topics)).wishes


def carried_out(image: ClusterImage) -> ClusterImage:
    wishes = planned(image, list(image.topics_by_id))
    image.apply(
        Event(keys.assignments(wish.topic_id, wish.chunk), values.encode_assignments(wish.brokers), 50)
        for wish in wishes
    )
    return image


def test_plan__gives_every_partition_a_live_broker_and_then_rests() -> None:
    image = carried_out(image_of([0, 1], topic_puts("t", T1, [-1] * 300)))
    assert Counter(p.assigned for p in image.topics["t"].partitions) == {0: 150, 1: 150}
    assert planned(image, [T1]) == []


def test_plan__keeps_what_lives_and_moves_only_what_does_not() -> None:
    image = carried_out(image_of([0, 1], topic_puts("t", T1, [0, 7, 0, 7])))
    assert [p.assigned for p in image.topics["t"].partitions][0::2] == [0, 0]
    assert {p.assigned for p in image.topics["t"].partitions[1::2]} <= {0, 1}


def test_plan__writes_only_the_chunks_that_change() -> None:
    image = image_of([0], topic_puts("t", T1, [0] * 256 + [9] + [0] * 300))
    assert [(wish.chunk, wish.brokers[0], len(wish.brokers)) for wish in planned(image, [T1])] == [(1, 0, 256)]


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
    assert planned(image, [T1]) == []


def test_plan__with_nobody_who_is_not_missed_changes_nothing() -> None:
    image = image_of([0, 1], topic_puts("t", T1, [0, 1]))
    missed(image, 0)
    missed(image, 1)
    assert planned(image, [T1]) == []


def test_plan__without_brokers_or_for_deleted_topics_is_empty() -> None:
    assert planned(image_of([], topic_puts("t", T1, [0])), [T1]) == []
    assert planned(image_of([0]), [T1]) == []


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
    assert planned(image, [T1]) == []
    with_roles(image, 1, Role.WRITE)
    assert carried_out(image).topics["t"].partitions[0].assigned == 1


def test_plan__of_many_partitions_is_made_in_steps_and_says_what_it_was_made_from() -> None:
    image = image_of([0, 1], topic_puts("t", T1, [9] * 3 * STEP_ITEMS))
    steps = plan(image, [T1])
    next(steps)
    image.apply([Event(keys.assignments(T1, 0), values.encode_assignments([0]), 8)])
    made = finished(steps)
    assert {wish.revision for wish in made.wishes} == {1}, "the store refuses what was changed meanwhile"
    assert len(made.moves) == 3 * STEP_ITEMS and made.moves[0].reason == "broker 9 is gone"
    assert sum(1 for _ in plan(image, [T1])) >= 6


def test_wishes__of_moves_leave_alone_what_is_assigned_otherwise_by_now() -> None:
    image = image_of([0, 1], topic_puts("t", T1, [0, 1] * 200))
    moves = [Move(PartitionId(T1, index), 0, 1, "") for index in (0, 1, 2, 256, 500)]
    made = finished(wishes_of(image, [*moves, Move(PartitionId(T2, 0), 0, 1, "")]))
    assert [(wish.chunk, wish.brokers[:4], wish.revision) for wish in made] == [
        (0, [1, 1, 1, 1], 1),
        (1, [1, 1, 0, 1], 1),
    ]


def test_plan__goes_on_when_a_broker_dies_in_the_middle_of_it() -> None:
    image = image_of([0, 1, 2], topic_puts("t", T1, [9] * 3 * STEP_ITEMS))
    steps = plan(image, [T1])
    next(steps)
    image.apply([Event(keys.broker(2), None, 3000)])
    assert {broker for wish in finished(steps).wishes for broker in wish.brokers} == {0, 1}


def test_wishes__of_a_chunk_that_no_move_changes_are_not_written_again() -> None:
    image = image_of([0, 1, 2], topic_puts("t", T1, [0, 1] * 200))
    assert finished(wishes_of(image, [Move(PartitionId(T1, 300), 2, 1, "")])) == []
