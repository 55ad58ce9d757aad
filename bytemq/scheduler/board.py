"""The placement of partitions on brokers as a plan sees it, and as each move of it makes it. Pure.

Owns: what a plan is made from and what it is made of, the load of partitions and brokers, and what of a topic may be
where. Must not: decide what moves.

A partition's load is one number, its share of what the cluster does: the weighed mean of its shares of bytes in, bytes
out, requests and partitions, as far as there are any. A broker's load is the sum of its partitions', over its capacity.

A plan over a hundred thousand partitions takes some tenths of a second: it is made in steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bytemq.metadata.loads import IDLE, Rates
from bytemq.runtime.steps import Steps, slices
from bytemq.types import ALL_ROLES, PartitionId, Role

WEIGHTS = (0.45, 0.3, 0.2)
"""Of bytes in, bytes out and requests; what nobody does has none."""
WEIGHT_OF_BEING = 0.05
"""Of the number of partitions: little, it must not make up for traffic."""


class PlacedPartition(NamedTuple):
    partition: PartitionId
    broker: int
    """Where it is, or is wished to be already."""
    rates: Rates
    zones: frozenset[str] | None = None
    """Those that its topic is pinned to; None: any."""
    is_coordinator: bool = False
    """Of an internal topic: these are spread by number, whatever their load."""
    home: str = ""
    """The zone that produces most of it; "" where there is none, or it is not known."""

    @property
    def owning_role(self) -> Role:
        return Role.COORDINATE if self.is_coordinator else Role.WRITE


class BrokerState(NamedTuple):
    zone: str | None
    capacity: float = 1.0
    evacuated: str = ""
    """Why nothing shall be on it; empty: it takes part."""
    roles: frozenset[Role] = ALL_ROLES


class Move(NamedTuple):
    partition: PartitionId
    source: int
    target: int
    reason: str


class Limits(NamedTuple):
    start_ratio: float = 1.12
    """Load is moved once the most loaded broker is so far above the mean, ..."""
    rest_ratio: float = 1.05
    """... until it is not above this."""
    start_below: float = 0.7
    """The same when the least loaded one is so far below it: capacity was added."""
    rest_below: float = 0.85
    patience: int = 5
    """How many looks in a row must show it: a passing burst is no reason. A broker that was added is one at once."""
    moves_at_once: int = 50
    """Or a hundredth of all partitions, if that is more."""
    stay_s: float = 60.0
    """How long a partition that was moved for its load stays at least."""
    floors: Rates = Rates(1_000_000.0, 1_000_000.0, 300.0)
    """Of the mean broker: traffic that has not reached this is no reason to move anything. Half of it is the end."""
    home_moves_at_once: int = 10
    """To the zones that produce them, each look."""
    lull_s: float = 300.0
    """How long traffic that counted may be gone before the numbers of partitions count instead."""


class Board:
    """The placement as the moves decided so far make it. First `place` all partitions."""

    def __init__(self, brokers: Mapping[int, BrokerState]) -> None:
        self.brokers = brokers
        self.usable = sorted(broker for broker, state in brokers.items() if not state.evacuated)
        self.zones = sorted({brokers[broker].zone or "" for broker in self.usable})
        self.held: dict[int, list[tuple[float, PlacedPartition]]] = {broker: [] for broker in brokers}
        self._sums = dict.fromkeys(brokers, 0.0)
        self.away: list[tuple[float, PlacedPartition]] = []
        """Not in the zone that produces them, where there is a broker."""
        self._in_zone: Counter[tuple[bytes, str]] = Counter()
        self._of_topic: Counter[bytes] = Counter()
        self.carriers = [broker for broker in self.usable if Role.WRITE in brokers[broker].roles] or self.usable
        """Between these load is evened out: the others own nothing, or coordinators' partitions only."""
        self.mean = 0.0
        """Load for each unit of capacity, if all were even."""

    def place(self, partitions: Sequence[PlacedPartition], weigh: Weigher) -> Steps[None]:
        for some in slices(partitions):
            for placed in some:
                if placed.broker in self.held:
                    load = weigh(placed.rates)
                    self.held[placed.broker].append((load, placed))
                    self._sums[placed.broker] += load
                    self._in_zone[placed.partition.topic_id, self.zone(placed.broker)] += 1
                    self._of_topic[placed.partition.topic_id] += 1
                    if placed.home and placed.home != self.zone(placed.broker) and not placed.is_coordinator:
                        self.away.append((load, placed))
            yield
        beside = set(self.usable).difference(self.carriers)
        capacity = sum(self.brokers[broker].capacity for broker in self.carriers)
        self.mean = sum(load for broker, load in self._sums.items() if broker not in beside) / capacity

    def load(self, broker: int) -> float:
        """1 is the mean."""
        return self._sums[broker] / (self.brokers[broker].capacity * self.mean) if self.mean else 1.0

    def load_with(self, broker: int, more: float) -> float:
        """As `load`, with so much more of the whole."""
        return self.load(broker) + (more / (self.brokers[broker].capacity * self.mean) if self.mean else 0.0)

    @property
    def highest(self) -> float:
        return max(map(self.load, self.carriers))

    @property
    def lowest(self) -> float:
        return min(map(self.load, self.carriers))

    def is_even(self, limits: Limits) -> bool:
        return self.highest <= limits.rest_ratio and self.lowest >= limits.rest_below

    def move(self, load: float, placed: PlacedPartition, target: int, reason: str) -> Move:
        """The caller takes it off the source's list."""
        topic, source = placed.partition.topic_id, placed.broker
        self._sums[source] -= load
        self._sums[target] += load
        self._in_zone[topic, self.zone(source)] -= 1
        self._in_zone[topic, self.zone(target)] += 1
        self.held[target].append((load, placed._replace(broker=target)))
        return Move(placed.partition, source, target, reason)

    def allows(self, placed: PlacedPartition, broker: int) -> bool:
        """Whether its topic may be on the broker. A pin that no usable broker meets is void."""
        if placed.owning_role not in self.brokers[broker].roles:
            return False
        zones = placed.zones
        return zones is None or self.zone(broker) in zones or zones.isdisjoint(self.zones)

    def keeps_spread(self, placed: PlacedPartition, target: int) -> bool:
        """Whether the topic's partitions stay about evenly spread over the zones that it may be in."""
        source_zone, target_zone = self.zone(placed.broker), self.zone(target)
        if source_zone == target_zone:
            return True
        topic = placed.partition.topic_id
        zones = [zone for zone in self.zones if placed.zones is None or zone in placed.zones] or self.zones
        share = self._of_topic[topic] / len(zones)
        slack = 0.5 * share if share >= 2 else 0.0
        in_target, in_source = self._in_zone[topic, target_zone], self._in_zone[topic, source_zone]
        return (in_target + 1 <= share + 0.999 + slack and in_source - 1 >= share - 0.999 - slack) or (
            in_target + 1 < in_source  # it gets better at least
        )

    def in_zone(self, placed: PlacedPartition, broker: int) -> int:
        """How much of the topic is in the broker's zone."""
        return self._in_zone[placed.partition.topic_id, self.zone(broker)]

    def zone(self, broker: int) -> str:
        return self.brokers[broker].zone or ""


class Weigher:
    """From a partition's rates to its load; all of them together are 1."""

    __slots__ = ("_for_being", "_in", "_out", "_requests")

    def __init__(self, weights: Sequence[float], totals: Sequence[float], count: int) -> None:
        whole = sum(weights) + WEIGHT_OF_BEING
        self._in, self._out, self._requests = (
            weight / whole / max(total, 1.0) for weight, total in zip(weights, totals, strict=True)
        )
        self._for_being = WEIGHT_OF_BEING / whole / max(count, 1)

    def __call__(self, rates: Rates) -> float:
        if rates is IDLE:
            return self._for_being
        return (
            rates.bytes_in * self._in + rates.bytes_out * self._out + rates.requests * self._requests + self._for_being
        )


def load_of(entry: tuple[float, PlacedPartition]) -> float:
    return entry[0]
