"""How a pool is judged: by what its writes take, with patience both ways."""

from __future__ import annotations

import itertools

import pytest

from bytemq.storage.pools.health import (
    FIRST_REST_S,
    LONGEST_REST_S,
    PROBE_EVERY_S,
    REST_PROBE_EVERY_S,
    PoolHealth,
    Rank,
    best_pool,
)

LATE_S = 1.0


class Watched:
    """A pool's health, and the time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.health = PoolHealth(LATE_S)
        self.health.opened(self.now)

    def write(self, took_s: float, *, size_bytes: int = 1000) -> Rank:
        write = self.health.began(self.now, size_bytes)
        self.now += took_s
        self.health.succeeded(write, self.now)
        return self.health.rank

    def fail(self, took_s: float = 0.5) -> Rank:
        write = self.health.began(self.now, 1000)
        self.now += took_s
        self.health.failed(write, self.now, "503 SlowDown")
        return self.health.rank

    def probe(self, took_s: float = 0.02) -> bool:
        """A probe, if one is due."""
        if due := self.health.probe_is_due(self.now):
            self.write(took_s)
        return due

    def recover(self) -> float:
        """Probes in time until it is well; how long that took."""
        began = self.now
        while self.health.rank is not Rank.WELL:
            self.probe()
            self.now += 0.1
        return self.now - began


def test_health__one_late_answer_is_forgiven_and_two_are_not() -> None:
    pool = Watched()
    assert pool.write(1.5) is Rank.WELL
    for _ in range(4):
        assert pool.write(0.05) is Rank.WELL
    assert pool.write(1.5) is Rank.WELL
    assert pool.write(1.5) is Rank.SLOW
    assert pool.health.reason == "a write took 1.5 s"


def test_health__more_than_a_third_of_late_answers_is_too_many_and_less_is_not() -> None:
    pool = Watched()
    for _ in range(50):
        assert [pool.write(1.2), pool.write(0.1), pool.write(0.1), pool.write(0.1)] == [Rank.WELL] * 4
    pool = Watched()
    ranks = [rank for _ in range(5) for rank in (pool.write(1.2), pool.write(0.1))]
    assert ranks[-1] is Rank.SLOW


def test_health__what_came_to_nothing_is_enough_at_once() -> None:
    pool = Watched()
    pool.write(0.05)
    assert pool.fail() is Rank.FAILING
    assert pool.health.reason == "503 SlowDown"


def test_health__silence_is_noticed_within_twice_the_time_that_is_late() -> None:
    pool = Watched()
    for _ in range(8):
        pool.health.began(pool.now, 1000)
    seen = {}
    for tenth in range(1, 50):
        pool.health.look(pool.now + tenth / 10)
        seen.setdefault(pool.health.rank, tenth / 10)
    assert seen[Rank.SLOW] == pytest.approx(2 * LATE_S, abs=0.11)
    assert seen[Rank.FAILING] == pytest.approx(3 * LATE_S, abs=0.11)


def test_health__a_pause_of_this_process_is_not_taken_for_the_pools() -> None:
    pool = Watched()
    writes = [pool.health.began(pool.now, 1000) for _ in range(8)]
    pool.now += 1.9
    pool.health.look(pool.now)
    assert pool.health.rank is Rank.WELL
    pool.health.succeeded(writes[0], pool.now)
    assert pool.health.rank is Rank.WELL, "one late answer"


def test_health__large_writes_may_take_longer() -> None:
    pool = Watched()
    for _ in range(10):
        assert pool.write(2.8, size_bytes=8 * 1024 * 1024) is Rank.WELL
    assert [pool.write(3.2, size_bytes=8 * 1024 * 1024) for _ in range(2)][-1] is Rank.SLOW


def test_health__is_well_again_after_a_rest_and_some_good_answers_and_not_before() -> None:
    pool = Watched()
    pool.fail()
    assert not pool.probe(), "not at once"
    pool.now += PROBE_EVERY_S
    assert pool.probe() and pool.health.rank is Rank.SLOW, "it answers"
    assert pool.recover() + PROBE_EVERY_S == pytest.approx(FIRST_REST_S, abs=PROBE_EVERY_S)
    pool.fail()
    pool.now += LONGEST_REST_S
    assert pool.probe() and pool.health.rank is Rank.SLOW, "one good answer is not enough, however long it rested"


def test_health__a_bad_answer_begins_the_row_of_good_ones_anew() -> None:
    pool = Watched()
    pool.fail()
    pool.now += FIRST_REST_S
    for _ in range(4):
        assert pool.probe()
        pool.now += PROBE_EVERY_S
    pool.probe(took_s=5.0)
    pool.now += PROBE_EVERY_S
    for _ in range(4):
        assert pool.probe() and pool.health.rank is not Rank.WELL
        pool.now += PROBE_EVERY_S
    assert pool.probe() and pool.health.rank is Rank.WELL


def test_health__who_falls_sick_again_soon_rests_twice_as_long_each_time() -> None:
    pool = Watched()
    rests = []
    for _ in range(8):
        pool.fail()
        rests.append(pool.recover())
        pool.now += 1.0
    for before, after in itertools.pairwise(rests[:6]):
        assert after == pytest.approx(2 * before, rel=0.2)
    assert max(rests) <= LONGEST_REST_S * 1.1
    pool.now += 10 * LONGEST_REST_S
    pool.fail()
    assert pool.recover() == pytest.approx(rests[0], rel=0.2), "that is long ago"


def test_health__probes_are_rare_while_it_is_well_and_none_while_it_is_used() -> None:
    pool = Watched()
    probes = 0
    for _ in range(600):
        probes += pool.probe()
        pool.now += 1.0
    assert probes == pytest.approx(600 / REST_PROBE_EVERY_S, abs=2)
    for _ in range(600):
        pool.write(0.1)
        assert not pool.health.probe_is_due(pool.now)


def test_health__what_is_left_alone_tells_as_much_as_it_was_late() -> None:
    pool = Watched()
    write = pool.health.began(pool.now, 1000)
    pool.health.abandoned(write, pool.now + 0.5)
    assert pool.health.rank is Rank.WELL
    write = pool.health.began(pool.now, 1000)
    pool.health.abandoned(write, pool.now + 2.5)
    assert pool.health.rank is Rank.SLOW


def test_best_pool__is_the_first_of_the_best_that_are_not_drained() -> None:
    ranks = {"": Rank.WELL, "b": Rank.WELL, "c": Rank.SLOW}
    assert best_pool(ranks, ()) == ""
    assert best_pool({**ranks, "": Rank.SLOW}, ()) == "b"
    assert best_pool({**ranks, "": Rank.FAILING}, ["b"]) == "c"
    assert best_pool(ranks, (), tried=["", "b"]) == "c"
    assert best_pool(ranks, (), tried=["", "b", "c"]) is None
    assert best_pool(dict.fromkeys(ranks, Rank.FAILING), ()) == "", "where all are sick nothing is better elsewhere"
    assert best_pool(ranks, ["b", "c"], tried=[""]) is None, (
        "what is drained takes nothing, however sick the others are"
    )
    assert best_pool(ranks, ["", "b", "c"]) == ""
