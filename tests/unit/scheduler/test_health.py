"""When a broker is taken for sick: compared with the others, after a while, and never all at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bytemq.metadata.loads import IDLE, LoadReport, Rates
from bytemq.scheduler.health import EASY, SICK_AFTER_LOOKS, WELL_AFTER_LOOKS, HealthWatch

SOME = Rates(200_000, 200_000, 100)
FLOOD = Rates(80_000_000, 0, 4_000)
WELL = LoadReport(0, SOME, lag_ms=3, commit_ms=20)
SLOW = LoadReport(0, SOME, lag_ms=3, commit_ms=3000)
LATE = LoadReport(0, SOME, lag_ms=900, commit_ms=20)
ERRING = LoadReport(0, SOME, problem="no space")
AT_REST = LoadReport(0, IDLE, lag_ms=3)


def test_health__takes_its_time_both_ways() -> None:
    watch = HealthWatch()
    looks = [watch.look({0: WELL, 1: WELL, 2: SLOW}) for _ in range(SICK_AFTER_LOOKS)]
    assert looks[-2] == {} and list(looks[-1]) == [2]
    looks = [watch.look({0: WELL, 1: WELL, 2: WELL}) for _ in range(WELL_AFTER_LOOKS)]
    assert list(looks[-2]) == [2] and looks[-1] == {}


def test_health__tells_what_is_wrong() -> None:
    for report, word in ((SLOW, "3000 ms for a produce"), (LATE, "900 ms late"), (ERRING, "no space")):
        watch = HealthWatch()
        for _ in range(SICK_AFTER_LOOKS):
            sick = watch.look({0: WELL, 1: WELL, 2: report})
        assert word in sick[2]


def test_health__of_everybody_is_nobodys_sickness() -> None:
    watch = HealthWatch()
    for _ in range(2 * SICK_AFTER_LOOKS):
        assert watch.look({0: ERRING, 1: ERRING, 2: WELL}) == {}


def test_health__of_many_that_are_slow_alike_is_no_sickness() -> None:
    watch = HealthWatch()
    for _ in range(2 * SICK_AFTER_LOOKS):
        assert watch.look({0: SLOW, 1: SLOW, 2: SLOW}) == {}


def test_health__forgets_who_is_gone() -> None:
    watch = HealthWatch()
    for _ in range(SICK_AFTER_LOOKS):
        watch.look({0: WELL, 1: WELL, 2: SLOW})
    assert watch.look({0: WELL, 1: WELL}) == {}


def looked(*reports: LoadReport) -> dict[int, str]:
    """Who is sick when it has been so for long."""
    watch = HealthWatch()
    for _ in range(2 * SICK_AFTER_LOOKS):
        sick = watch.look(dict(enumerate(reports)))
    return sick


@pytest.mark.parametrize("slow", [LATE, SLOW, replace(LATE, commit_ms=3000)])
def test_health__of_the_only_broker_that_has_load_is_not_told_by_those_that_have_none(slow: LoadReport) -> None:
    flooded = replace(slow, total=FLOOD)
    assert looked(flooded, AT_REST, AT_REST) == {}
    assert looked(flooded, WELL, replace(WELL, total=Rates(*(rate / 3 for rate in FLOOD)))) == {}


@pytest.mark.parametrize("slow", [LATE, SLOW])
def test_health__of_a_broker_under_a_flood_is_told_by_those_that_stand_the_same(slow: LoadReport) -> None:
    assert list(looked(replace(slow, total=FLOOD), replace(WELL, total=FLOOD), AT_REST)) == [0]
    assert list(looked(replace(slow, total=FLOOD), *(replace(WELL, total=Rates(*(2 * r for r in FLOOD))),) * 2)) == [0]


def test_health__of_a_broker_that_is_late_with_next_to_nothing_is_bad_whatever_others_do() -> None:
    assert list(looked(LATE, AT_REST, AT_REST)) == [0]
    assert list(looked(replace(LATE, total=EASY), AT_REST, WELL)) == [0]


def test_health__a_slow_store_is_not_the_sickness_of_who_alone_writes_to_it() -> None:
    assert looked(SLOW, AT_REST, AT_REST) == {}
