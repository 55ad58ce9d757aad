from __future__ import annotations

from bytemq.runtime.steps import STEP_ITEMS, finished
from bytemq.scheduler.lateness import RELEASE_TIMEOUT_S, Lateness
from bytemq.types import PartitionId
from tests.support.metadata import topic_id

T1 = topic_id(1)


def of_owner_1(*indexes: int) -> dict[PartitionId, int]:
    return dict.fromkeys((PartitionId(T1, index) for index in indexes), 1)


def looks(lateness: Lateness, first: int, last: int, late: dict[PartitionId, int]) -> dict[int, int]:
    """What the last of them tells, one a second."""
    overdue: dict[int, int] = {}
    for now_s in range(first, last + 1):
        overdue = finished(lateness.look(float(now_s), late))
    return overdue


def test_lateness__is_told_of_who_releases_nothing() -> None:
    lateness = Lateness()
    assert looks(lateness, 0, int(RELEASE_TIMEOUT_S), of_owner_1(0, 1)) == {}
    assert finished(lateness.look(RELEASE_TIMEOUT_S + 1, of_owner_1(0, 1))) == {1: 2}
    lateness.forget()
    assert finished(lateness.look(RELEASE_TIMEOUT_S + 2, of_owner_1(0, 1))) == {}


def test_lateness__begins_anew_with_each_release_of_what_was_asked_at_the_same_time() -> None:
    lateness = Lateness()
    left = list(range(20))
    for now_s in range(0, 200, 10):  # 20 partitions, one of them in ten seconds
        assert finished(lateness.look(float(now_s), of_owner_1(*left))) == {}
        left.pop(0)
    lateness = Lateness()
    looks(lateness, 0, 20, of_owner_1(0, 1))
    assert looks(lateness, 21, 51, of_owner_1(1)) == {}
    assert finished(lateness.look(52.0, of_owner_1(1))) == {1: 1}


def test_lateness__of_one_that_is_stuck_is_told_whatever_was_asked_later_and_is_released() -> None:
    lateness = Lateness()
    looks(lateness, 0, 9, of_owner_1(0))
    for now_s in range(10, 31):
        assert finished(lateness.look(float(now_s), of_owner_1(0, now_s))) == {}
    assert finished(lateness.look(31.0, of_owner_1(0, 31))) == {1: 1}


def test_lateness__is_of_the_owner_of_now() -> None:
    lateness = Lateness()
    looks(lateness, 0, 20, of_owner_1(0))
    assert looks(lateness, 21, 40, {PartitionId(T1, 0): 2}) == {}


def test_lateness__of_many_is_found_in_steps() -> None:
    lateness = Lateness()
    late = of_owner_1(*range(3 * STEP_ITEMS))
    assert len(list(lateness.look(0.0, late))) == 3
    assert len(list(lateness.look(1.0, late))) == 6
