"""Which partitions should move to other brokers, and why. Pure: measured loads in, moves out.

Owns: the balance of bytes in, bytes out, requests and number of partitions between brokers, evacuation of brokers that
are drained or sick, zones that a topic is pinned to, the spread of a topic over zones, and rest: nothing moves while
the load is even enough, a partition that has moved stays for a while, and so many move at a time. Must not: know
metadata, or place partitions that have no live broker (`planner.py` does, at once).

A partition's load is one number, its share of what the cluster does: the weighed mean of its shares of bytes in, bytes
out, requests and partitions, as far as there are any. A broker's load is the sum of its partitions', over its capacity.
The broker furthest above the mean gives to the one furthest below the partition that evens both out best.

Traffic counts from a floor on, little for a broker: below it nothing is gained by a move, and each costs its clients a
pause; then only the numbers of partitions are evened out. Once traffic has counted, a lull of some minutes moves
nothing: what comes and goes must not move partitions to and fro.

A plan over a hundred thousand partitions takes some tenths of a second. So it is made in steps, of a few milliseconds
each, with something else in between; what it is made from must stay as it is meanwhile.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from bytemq.metadata.loads import IDLE, Rates
from bytemq.types import ALL_ROLES, PartitionId, Role

WEIGHTS = (0.45, 0.3, 0.2)
"""Of bytes in, bytes out and requests; what nobody does has none."""
WEIGHT_OF_BEING = 0.05
"""Of the number of partitions: little, it must not make up for traffic."""
STEP_PARTITIONS = 2_000

_T = TypeVar("_T")
Steps = Generator[None, None, _T]
"""Work that may be left alone for a while between any two of its steps."""


class PlacedPartition(NamedTuple):
    partition: PartitionId
    broker: int
    """Where it is, or is wished to be already."""
    rates: Rates
    zones: frozenset[str] | None = None
    """Those that its topic is pinned to; None: any."""
    is_coordinator: bool = False
    """Of an internal topic: these are spread by number, whatever their load."""

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
    lull_s: float = 300.0
    """How long traffic that counted may be gone before the numbers of partitions count instead."""


class Balancer:
    """Remembers what moved lately, and whether the load is being evened out."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._moved_at: dict[PartitionId, float] = {}
        self._uneven_looks = 0
        self._is_working = False
        self._carriers: frozenset[int] | None = None
        """Between which load was evened out at the last look."""
        self._traffic = _Traffic(self._limits)

    def plan(
        self, now_s: float, partitions: Sequence[PlacedPartition], brokers: Mapping[int, BrokerState]
    ) -> list[Move]:
        """Moves for now; more may follow at the next look. Each partition moves once at most."""
        return finished(self.plan_in_steps(now_s, partitions, brokers))

    def plan_in_steps(
        self, now_s: float, partitions: Sequence[PlacedPartition], brokers: Mapping[int, BrokerState]
    ) -> Steps[list[Move]]:
        """As `plan`."""
        usable = [broker for broker, state in brokers.items() if not state.evacuated]
        if not usable or not partitions:
            return []
        weigh = yield from self._traffic.look(now_s, partitions, len(usable))
        board = _Board(brokers)
        yield from board.place(partitions, weigh)
        moves = yield from _evacuate(board)
        moves += yield from _spread_coordinators(board)
        if moves:
            return moves  # load is looked at when these have shown what they do
        self._moved_at = {partition: at for partition, at in self._moved_at.items() if now_s - at < self._limits.stay_s}
        if self._may_move(board) and not self._traffic.is_lull:
            moves = _even_out(board, self._limits, self._moved_at)
            self._moved_at.update((move.partition, now_s) for move in moves)
        return moves

    def _may_move(self, board: _Board) -> bool:
        limits = self._limits
        uneven = board.highest > limits.start_ratio or board.lowest < limits.start_below
        self._uneven_looks = self._uneven_looks + 1 if uneven else 0
        was_added = self._carriers is not None and not self._carriers.issuperset(board.carriers)
        self._carriers = frozenset(board.carriers)
        if uneven and was_added:
            self._uneven_looks = limits.patience
            self._traffic.end_lull()  # a broker that was added would have nothing for minutes
        if board.is_even(limits):
            self._is_working = False
        elif self._uneven_looks >= self._limits.patience:
            self._is_working = True
        return self._is_working


class _Traffic:
    """Which of bytes in, bytes out and requests count."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._looks = [0, 0, 0]
        """How many in a row were not below the floor, or below half of it where the traffic counts."""
        self._counted_at = float("-inf")
        self.is_lull = False
        """There is no traffic that counts, and was until lately."""

    def end_lull(self) -> None:
        """From now on the numbers of partitions count."""
        self.is_lull, self._counted_at = False, float("-inf")

    def look(self, now_s: float, partitions: Sequence[PlacedPartition], broker_count: int) -> Steps[_Weigher]:
        totals = [0.0, 0.0, 0.0]
        for some in _slices(partitions):
            for placed in some:
                if placed.rates is not IDLE:
                    for at, rate in enumerate(placed.rates):
                        totals[at] += rate
            yield
        weights = [0.0, 0.0, 0.0]
        for at, floor in enumerate(self._limits.floors):
            counts = self._looks[at] >= self._limits.patience
            is_loud = totals[at] / broker_count >= (floor / 2 if counts else floor)
            self._looks[at] = self._looks[at] + 1 if is_loud else 0
            if self._looks[at] >= self._limits.patience:
                weights[at] = WEIGHTS[at]
                self._counted_at = now_s
        self.is_lull = not any(weights) and now_s - self._counted_at < self._limits.lull_s
        return _Weigher(weights, totals, len(partitions))


class _Board:
    """The placement as the moves decided so far make it. First `place` all partitions."""

    def __init__(self, brokers: Mapping[int, BrokerState]) -> None:
        self.brokers = brokers
        self.usable = sorted(broker for broker, state in brokers.items() if not state.evacuated)
        self.zones = sorted({brokers[broker].zone or "" for broker in self.usable})
        self.held: dict[int, list[tuple[float, PlacedPartition]]] = {broker: [] for broker in brokers}
        self._sums = dict.fromkeys(brokers, 0.0)
        self._in_zone: Counter[tuple[bytes, str]] = Counter()
        self._of_topic: Counter[bytes] = Counter()
        self.carriers = [broker for broker in self.usable if Role.WRITE in brokers[broker].roles] or self.usable
        """Between these load is evened out: the others own nothing, or coordinators' partitions only."""
        self.mean = 0.0
        """Load for each unit of capacity, if all were even."""

    def place(self, partitions: Sequence[PlacedPartition], weigh: _Weigher) -> Steps[None]:
        for some in _slices(partitions):
            for placed in some:
                if placed.broker in self.held:
                    load = weigh(placed.rates)
                    self.held[placed.broker].append((load, placed))
                    self._sums[placed.broker] += load
                    self._in_zone[placed.partition.topic_id, self._zone(placed.broker)] += 1
                    self._of_topic[placed.partition.topic_id] += 1
            yield
        beside = set(self.usable).difference(self.carriers)
        capacity = sum(self.brokers[broker].capacity for broker in self.carriers)
        self.mean = sum(load for broker, load in self._sums.items() if broker not in beside) / capacity

    def load(self, broker: int) -> float:
        """1 is the mean."""
        return self._sums[broker] / (self.brokers[broker].capacity * self.mean) if self.mean else 1.0

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
        self._in_zone[topic, self._zone(source)] -= 1
        self._in_zone[topic, self._zone(target)] += 1
        self.held[target].append((load, placed._replace(broker=target)))
        return Move(placed.partition, source, target, reason)

    def allows(self, placed: PlacedPartition, broker: int) -> bool:
        """Whether its topic may be on the broker. A pin that no usable broker meets is void."""
        if placed.owning_role not in self.brokers[broker].roles:
            return False
        zones = placed.zones
        return zones is None or self._zone(broker) in zones or zones.isdisjoint(self.zones)

    def keeps_spread(self, placed: PlacedPartition, target: int) -> bool:
        """Whether the topic's partitions stay about evenly spread over the zones that it may be in."""
        source_zone, target_zone = self._zone(placed.broker), self._zone(target)
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
        return self._in_zone[placed.partition.topic_id, self._zone(broker)]

    def _zone(self, broker: int) -> str:
        return self.brokers[broker].zone or ""


class _Weigher:
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


def finished(steps: Steps[_T]) -> _T:
    """What comes of it, all at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: _T = end.value
            return result


def _slices(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), STEP_PARTITIONS):
        yield items[start : start + STEP_PARTITIONS]


def _evacuate(board: _Board) -> Steps[list[Move]]:
    """From brokers that shall be empty, and out of zones that a topic is not pinned to."""
    moves: list[Move] = []
    for broker, state in board.brokers.items():
        stay: list[tuple[float, PlacedPartition]] = []
        for some in _slices(board.held[broker]):
            for load, placed in some:
                target = _refuge(board, placed, broker)
                if target is None:
                    stay.append((load, placed))
                else:
                    why = state.evacuated or _why_not_there(placed, state)
                    moves.append(board.move(load, placed, target, why))
            yield
        board.held[broker] = stay
    return moves


def _refuge(board: _Board, placed: PlacedPartition, broker: int) -> int | None:
    """Where the partition goes if it may not stay; None: it stays."""
    if not board.brokers[broker].evacuated and board.allows(placed, broker):
        return None
    allowed = [target for target in board.usable if target != broker and board.allows(placed, target)]
    return min(allowed, key=lambda one: (board.in_zone(placed, one), board.load(one), one), default=None)


def _why_not_there(placed: PlacedPartition, state: BrokerState) -> str:
    if placed.owning_role not in state.roles:
        return f"its broker has not the role {placed.owning_role}"
    return f"its topic is pinned to {', '.join(sorted(placed.zones or ()))}"


def _spread_coordinators(board: _Board) -> Steps[list[Move]]:
    """Coordinators' partitions of each topic: at most one more on one broker than on another."""
    able = [broker for broker in board.usable if Role.COORDINATE in board.brokers[broker].roles]
    by_topic: dict[bytes, dict[int, list[PlacedPartition]]] = defaultdict(lambda: {one: [] for one in able})
    loads: dict[PartitionId, float] = {}
    for broker in able:
        for some in _slices(board.held[broker]):
            for load, placed in some:
                if placed.is_coordinator:
                    by_topic[placed.partition.topic_id][broker].append(placed)
                    loads[placed.partition] = load
            yield
    moves: list[Move] = []
    for holders in by_topic.values():
        while True:
            most = max(holders, key=lambda one: (len(holders[one]), one))
            least = min(holders, key=lambda one: (len(holders[one]), one))
            if len(holders[most]) - len(holders[least]) < 2:
                break
            placed = holders[most].pop()
            holders[least].append(placed._replace(broker=least))
            board.held[most] = [entry for entry in board.held[most] if entry[1].partition != placed.partition]
            reason = f"broker {most} coordinates more than broker {least}"
            moves.append(board.move(loads[placed.partition], placed, least, reason))
    return moves


def _even_out(board: _Board, limits: Limits, resting: Mapping[PartitionId, float]) -> list[Move]:
    moves: list[Move] = []
    moved: set[PartitionId] = set()
    stuck: set[int] = set()
    lists: dict[int, list[tuple[float, PlacedPartition]]] = {}
    most_moves = max(limits.moves_at_once, sum(map(len, board.held.values())) // 100)
    while len(moves) < most_moves and not board.is_even(limits):
        givers = [broker for broker in board.carriers if broker not in stuck]
        if not givers:
            break
        source = max(givers, key=board.load)
        if source not in lists:
            lists[source] = sorted(
                (entry for entry in board.held[source] if not entry[1].is_coordinator), key=lambda entry: entry[0]
            )
        found = _best(board, lists[source], source, moved, resting)
        if found is None:
            stuck.add(source)
            continue
        at, target = found
        load, placed = lists[source].pop(at)
        reason = (
            f"broker {source} carries {board.load(source):.2f} of the mean load, "
            f"broker {target} {board.load(target):.2f}; this partition {load / board.mean:.2f}"
        )
        moves.append(board.move(load, placed, target, reason))
        moved.add(placed.partition)
        lists.pop(target, None)
    return moves


def _best(
    board: _Board,
    candidates: Sequence[tuple[float, PlacedPartition]],
    source: int,
    moved: set[PartitionId],
    resting: Mapping[PartitionId, float],
) -> tuple[int, int] | None:
    """Place in `candidates`, by load, and target of the move that helps most; None: none helps."""
    for target in sorted(board.carriers, key=board.load)[:4]:
        gap = (board.load(source) - board.load(target)) * board.mean
        if target == source or gap <= 0:
            continue
        # Moving half of the gap evens both out; whatever is below the gap is better than nothing.
        first, middle, last = (bisect_right(candidates, part * gap, key=_load_of) for part in (0.0005, 0.5, 0.95))
        for at in (*range(middle - 1, first - 1, -1), *range(middle, last)):
            placed = candidates[at][1]
            if placed.partition in moved or placed.partition in resting:
                continue
            if board.allows(placed, target) and board.keeps_spread(placed, target):
                return at, target
    return None


def _load_of(entry: tuple[float, PlacedPartition]) -> float:
    return entry[0]
