"""The balance of load between brokers, in virtual time: it comes about soon, stays, and costs few moves."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable

import pytest

from bytemq.metadata.loads import IDLE, Rates
from bytemq.runtime.steps import STEP_ITEMS
from bytemq.scheduler.balance import Balancer
from bytemq.scheduler.board import BrokerState, Move, PlacedPartition
from bytemq.types import PartitionId, Role
from tests.support.metadata import topic_id

LOOK_S = 1.0
SMOOTHING_S = 3.0
"""How slowly measured rates follow the true ones."""


def zipf(count: int, chance: random.Random) -> list[float]:
    """Bytes a second of `count` partitions, in random order."""
    rates = [30e6 / rank for rank in range(1, count + 1)]
    chance.shuffle(rates)
    return rates


class Simulation:
    """Partitions with true rates, measured with noise and delay; moves happen at once."""

    def __init__(self, rates: list[float], brokers: int, *, zones: int = 1, per_topic: int = 10, seed: int = 1) -> None:
        self.chance = random.Random(seed)
        self.true = rates
        self.measured = [0.0] * len(rates)
        self.brokers = {broker: BrokerState("abc"[broker % zones]) for broker in range(brokers)}
        self.ids = [PartitionId(topic_id(1 + at // per_topic), at % per_topic) for at in range(len(rates))]
        self.at = {one: at for at, one in enumerate(self.ids)}
        self.where = [at % brokers for at in range(len(rates))]
        self.balancer = Balancer()
        self.now_s = 0.0
        self.moves: list[tuple[float, Move]] = []

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds / LOOK_S)):
            self.now_s += LOOK_S
            for at, rate in enumerate(self.true):
                noisy = rate * self.chance.uniform(0.8, 1.2)
                self.measured[at] += (noisy - self.measured[at]) * min(1.0, LOOK_S / SMOOTHING_S)
            for move in self.balancer.plan(self.now_s, self.placed(), self.brokers):
                assert self.where[self.at[move.partition]] == move.source != move.target
                self.where[self.at[move.partition]] = move.target
                self.moves.append((self.now_s, move))

    def placed(self) -> list[PlacedPartition]:
        return [
            PlacedPartition(one, broker, Rates(rate, 2 * rate, rate / 1e4))
            for one, broker, rate in zip(self.ids, self.where, self.measured, strict=True)
        ]

    @property
    def max_over_mean(self) -> float:
        sums = dict.fromkeys(self.brokers, 0.0)
        for broker, rate in zip(self.where, self.true, strict=True):
            sums[broker] += rate
        return max(sums.values()) / (sum(sums.values()) / len(sums))

    def moves_since(self, start_s: float) -> int:
        return sum(at > start_s for at, _ in self.moves)


@pytest.mark.parametrize("zones", [1, 3])
@pytest.mark.parametrize("seed", range(2))
def test_balance__of_skewed_load_comes_within_30_s_and_then_rests(seed: int, zones: int) -> None:
    chance = random.Random(seed)
    cluster = Simulation(zipf(300, chance), 3, zones=zones, seed=seed)
    cluster.run(30)
    assert cluster.max_over_mean < 1.15
    before = cluster.now_s
    cluster.run(300)
    assert cluster.max_over_mean < 1.15
    assert cluster.moves_since(before) <= 5, "at most one a minute"


@pytest.mark.parametrize("seed", range(3))
def test_balance__absorbs_a_new_hot_set_without_going_back_and_forth(seed: int) -> None:
    cluster = Simulation(zipf(300, random.Random(seed)), 3, zones=3, seed=seed)
    cluster.run(120)
    cluster.true = zipf(300, random.Random(100 + seed))
    changed_at = cluster.now_s
    cluster.run(30)
    assert cluster.max_over_mean < 1.15
    moved = Counter(move.partition for at, move in cluster.moves if at > changed_at)
    assert max(moved.values(), default=0) == 1
    settled_at = cluster.now_s
    cluster.run(300)
    assert cluster.moves_since(settled_at) <= 5


def test_balance__uses_a_broker_that_was_added_within_10_s() -> None:
    cluster = Simulation([100_000.0] * 300, 3)
    cluster.run(30)
    cluster.brokers[3] = BrokerState("a")
    cluster.run(10)
    assert cluster.max_over_mean < 1.15
    assert cluster.where.count(3) >= 60


def streams(chance: random.Random) -> list[float]:
    """A topology of small topics that each have bursts of their own."""
    return [chance.paretovariate(1.0) * 10_000 for _ in range(24)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_balance__of_a_small_noisy_load_is_left_alone(share: float, seed: int) -> None:
    """Every few seconds something else is busy; all together are `share` of what makes a move worth its pause."""
    chance = random.Random(seed)
    cluster = Simulation([0.0] * 24, 3, per_topic=4, seed=seed)
    for _ in range(120):
        rates = streams(chance)
        cluster.true = [rate * share * 1.5e6 / sum(rates) for rate in rates]  # twice as much is read
        cluster.run(5)
    assert len(cluster.moves) <= 10, "at most one a minute"
    assert set(Counter(cluster.where).values()) == {8}, "spread by number"


def test_balance__of_traffic_that_comes_and_goes_does_not_go_back_and_forth() -> None:
    cluster = Simulation(zipf(24, random.Random(1)), 3, per_topic=4)
    cluster.run(120)
    settled_at = cluster.now_s
    for _ in range(20):
        cluster.true = [rate / 1000 for rate in cluster.true]
        cluster.run(60)
        cluster.true = [rate * 1000 for rate in cluster.true]
        cluster.run(60)
    assert cluster.moves_since(settled_at) <= 40, "at most one a minute"
    assert cluster.max_over_mean < 1.15


def test_balance__forgets_traffic_that_is_over() -> None:
    cluster = Simulation([10e6] * 3 + [0.0] * 21, 3, per_topic=24)
    cluster.where = [0, 1, 2] + [0] * 21
    cluster.run(60)
    cluster.true = [0.0] * 24
    cluster.run(290)
    heeded = cluster.moves_since(60)
    cluster.run(60)
    assert heeded == 0
    assert set(Counter(cluster.where).values()) == {8}, "spread by number"


def test_balance__of_an_idle_cluster_is_by_number() -> None:
    brokers = {broker: BrokerState(None) for broker in range(3)}
    where = {PartitionId(topic_id(1), index): 0 for index in range(90)}
    balancer = Balancer()
    for look in range(10):
        for move in balancer.plan(look, [PlacedPartition(one, at, IDLE) for one, at in where.items()], brokers):
            where[move.partition] = move.target
    assert max(Counter(where.values()).values()) <= 32


def test_balance__gives_a_broker_that_was_added_its_share_at_once() -> None:
    cluster = Simulation([1e6] * 48, 3)
    cluster.run(20)
    before = len(cluster.moves)
    cluster.brokers[3] = BrokerState("a")
    cluster.run(2)
    assert Counter(cluster.where)[3] >= 10, cluster.where
    cluster.run(60)
    assert len(cluster.moves) - before <= 16


def test_balance__gives_a_broker_that_was_added_its_share_when_traffic_has_just_paused() -> None:
    cluster = Simulation([1e6] * 48, 3)
    cluster.run(20)
    cluster.true = [0.0] * 48
    cluster.run(20)
    cluster.brokers[3] = BrokerState("a")
    cluster.run(10)
    assert Counter(cluster.where)[3] >= 10, cluster.where


def test_balance__of_many_partitions_is_planned_in_small_steps() -> None:
    """And comes to the same as in one go."""
    brokers = {broker: BrokerState(None) for broker in range(3)}
    placed = partitions(9 * STEP_ITEMS, 0)
    steps, count = Balancer().plan_in_steps(0.0, placed, {**brokers, 0: BrokerState(None, evacuated="drained")}), 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            moves = end.value
            break
        count += 1
    assert count >= 4 * 9
    assert moves == Balancer().plan(0.0, placed, {**brokers, 0: BrokerState(None, evacuated="drained")})


def test_balance__leaves_a_load_alone_that_cannot_be_split() -> None:
    cluster = Simulation([50e6, 1e5, 1e5], 3, per_topic=3)
    cluster.run(60)
    assert len(cluster.moves) <= 2
    assert cluster.moves_since(20) == 0


def partitions(count: int, broker: int, zones: frozenset[str] | None = None) -> list[PlacedPartition]:
    return [PlacedPartition(PartitionId(topic_id(1), index), broker, IDLE, zones) for index in range(count)]


def targets(moves: Iterable[Move]) -> Counter[int]:
    return Counter(move.target for move in moves)


def test_balance__empties_a_broker_at_once_and_says_why() -> None:
    brokers = {0: BrokerState("a", evacuated="broker 0 is drained"), 1: BrokerState("b"), 2: BrokerState("c")}
    moves = Balancer().plan(0, partitions(1000, 0), brokers)
    assert targets(moves) == {1: 500, 2: 500}
    assert {move.reason for move in moves} == {"broker 0 is drained"}


def test_balance__of_one_broker_that_is_drained_has_nowhere_to_go() -> None:
    assert Balancer().plan(0, partitions(3, 0), {0: BrokerState("a", evacuated="drained")}) == []


def test_balance__keeps_a_topic_in_the_zones_it_is_pinned_to() -> None:
    brokers = {0: BrokerState("a"), 1: BrokerState("b"), 2: BrokerState("b")}
    moves = Balancer().plan(0, partitions(10, 0, frozenset("b")), brokers)
    assert targets(moves) == {1: 5, 2: 5}
    pinned = [placed._replace(broker=1 + placed.partition.index % 2) for placed in partitions(10, 0, frozenset("b"))]
    balancer = Balancer()
    assert all(balancer.plan(look, pinned, brokers) == [] for look in range(20))
    assert Balancer().plan(0, partitions(10, 0, frozenset("x")), brokers) == [], "nobody lives there: void"


def test_balance__spreads_coordinators_by_number_and_not_by_load() -> None:
    brokers = {broker: BrokerState(None) for broker in range(3)}
    placed = [
        PlacedPartition(PartitionId(topic_id(9), index), 0 if index < 40 else 1, Rates(1e7), is_coordinator=True)
        for index in range(50)
    ]
    moves = Balancer().plan(0, placed, brokers)
    where = {one.partition: one.broker for one in placed} | {move.partition: move.target for move in moves}
    assert sorted(Counter(where.values()).values()) == [16, 17, 17]


def test_balance__gives_a_broker_of_twice_the_capacity_twice_the_load() -> None:
    cluster = Simulation([1e5] * 300, 3)
    cluster.brokers[0] = BrokerState("a", capacity=2.0)
    cluster.run(60)
    assert cluster.where.count(0) == pytest.approx(150, rel=0.1)


def test_balance__keeps_a_small_topic_spread_over_the_zones() -> None:
    brokers = {0: BrokerState("a"), 1: BrokerState("b"), 2: BrokerState("c"), 3: BrokerState("a")}
    placed = [PlacedPartition(PartitionId(topic_id(1), index), index, Rates(1e6 * 10**index)) for index in range(3)]
    balancer = Balancer()
    for look in range(20):
        for move in balancer.plan(look * 100, placed, brokers):
            placed = [one._replace(broker=move.target) if one.partition == move.partition else one for one in placed]
    assert {brokers[one.broker].zone for one in placed} == {"a", "b", "c"}


def test_balance__plans_100000_partitions_on_100_brokers_within_2_s() -> None:
    chance = random.Random(3)
    brokers = {broker: BrokerState("abc"[broker % 3]) for broker in range(100)}
    placed = [
        PlacedPartition(
            PartitionId(topic_id(1 + at // 100), at % 100), at % 100, Rates(chance.paretovariate(1.2) * 1e4, 1e4, 10)
        )
        for at in range(100_000)
    ]

    balancer = Balancer()
    started = time.process_time()
    moves = [move for look in range(10) for move in balancer.plan(look, placed, brokers)]
    took_s = (time.process_time() - started) / 10
    assert moves, "there is something to do"
    print(f"100,000 partitions on 100 brokers: {took_s:.2f} s a plan")
    assert took_s < 2


def test_balance__moves_off_a_broker_what_it_has_no_role_for() -> None:
    def placed(number: int, broker: int, *, is_coordinator: bool = False) -> PlacedPartition:
        return PlacedPartition(
            PartitionId(topic_id(2 if is_coordinator else 1), number), broker, IDLE, None, is_coordinator
        )

    roles = {0: Role.WRITE, 1: Role.COORDINATE, 2: Role.READ}
    brokers = {broker: BrokerState("a", roles=frozenset({role})) for broker, role in roles.items()}
    partitions = [placed(number, number % 3) for number in range(9)]
    partitions += [placed(number, number % 3, is_coordinator=True) for number in range(9)]
    moves = Balancer().plan(0.0, partitions, brokers)
    assert len(moves) == 12
    assert {(move.partition.topic_id == topic_id(2), move.target) for move in moves} == {(False, 0), (True, 1)}
    assert "has not the role write" in next(move.reason for move in moves if move.target == 0)


def test_balance__is_even_between_those_who_write_however_many_only_read() -> None:
    simulation = Simulation(zipf(120, random.Random(3)), 3)
    for reader in range(3, 9):
        simulation.brokers[reader] = BrokerState("a", roles=frozenset({Role.READ}))
    simulation.run(60)
    settled = len(simulation.moves)
    loads = Counter[int]()
    for rate, broker in zip(simulation.true, simulation.where, strict=True):
        loads[broker] += round(rate)
    assert set(simulation.where) == {0, 1, 2}
    assert max(loads.values()) / (sum(loads.values()) / 3) < 1.15
    simulation.run(120)
    assert len(simulation.moves) - settled <= 2, "a broker that only reads is no reason to move"


class Homes(Simulation):
    """Each partition is mostly produced in one zone."""

    def __init__(self, rates: list[float], homes: list[str], brokers: int = 3) -> None:
        super().__init__(rates, brokers, zones=3)
        self.homes = homes

    def placed(self) -> list[PlacedPartition]:
        return [one._replace(home=home) for one, home in zip(super().placed(), self.homes, strict=True)]

    @property
    def at_home(self) -> float:
        """Share of the bytes that come from the owner's zone."""
        owned_at_home = sum(
            rate
            for rate, broker, home in zip(self.true, self.where, self.homes, strict=True)
            if self.brokers[broker].zone == home
        )
        return owned_at_home / sum(self.true)


def test_balance__brings_partitions_to_the_zones_that_produce_them_and_keeps_the_load_even() -> None:
    chance = random.Random(1)
    cluster = Homes(zipf(300, chance), [chance.choice("abc") for _ in range(300)])
    before = cluster.at_home
    cluster.run(120)
    assert before < 0.6 < 0.8 < cluster.at_home
    assert cluster.max_over_mean < 1.15
    settled_at = cluster.now_s
    cluster.run(300)
    assert cluster.moves_since(settled_at) <= 5, "it comes to rest"


def test_balance__of_what_one_zone_produces_stays_even() -> None:
    cluster = Homes([200_000.0] * 90, ["a"] * 90)
    cluster.run(200)
    assert cluster.max_over_mean < 1.15
    settled_at = cluster.now_s
    cluster.run(200)
    assert cluster.moves_since(settled_at) == 0


def test_balance__says_that_a_partition_comes_to_the_zone_that_produces_it() -> None:
    cluster = Homes([200_000.0] * 6, ["b", "a", "c", "", "", ""])
    cluster.run(60)
    assert [cluster.where[at] for at in range(3)] == [1, 0, 2]
    assert {move.reason for _, move in cluster.moves} <= {
        *(f"zone {zone} produces most of it" for zone in "ab"),
        *(f"in exchange for one that zone {zone} produces most of" for zone in "ab"),
    }
