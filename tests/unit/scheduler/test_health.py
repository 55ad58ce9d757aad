"""When a broker is taken for sick: compared with the others, after a while, and never all at once."""

from __future__ import annotations

from bytemq.metadata.loads import IDLE, LoadReport
from bytemq.scheduler.health import SICK_AFTER_LOOKS, WELL_AFTER_LOOKS, HealthWatch

WELL = LoadReport(0, IDLE, lag_ms=3, commit_ms=20)
SLOW = LoadReport(0, IDLE, lag_ms=3, commit_ms=3000)
LATE = LoadReport(0, IDLE, lag_ms=900, commit_ms=20)
ERRING = LoadReport(0, IDLE, problem="no space")


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
