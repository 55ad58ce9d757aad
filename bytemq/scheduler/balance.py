"""Which partitions should move to other brokers, and why. Pure: measured loads in, moves out.

Owns: the balance of bytes in, bytes out, requests and number of partitions between brokers, evacuation of brokers that
are drained or sick, zones that a topic is pinned to, the spread of a topic over zones, and rest: nothing else moves
while the load is even enough, a partition that has moved stays for a while, and so many move at a time. Must not: know
metadata, place partitions that have no live broker (`planner.py` does, at once), or choose what comes to the zone that
produces it (`homecoming.py`), for which there is time while the load is even.

The broker furthest above the mean gives to the one furthest below the partition that evens both out best.

Traffic counts from a floor on, little for a broker: below it nothing is gained by a move, and each costs its clients a
pause; then only the numbers of partitions are evened out. Once traffic has counted, a lull of some minutes moves
nothing: what comes and goes must not move partitions to and fro.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence

from bytemq.metadata.loads import IDLE
from bytemq.runtime.steps import Steps, finished, slices
from bytemq.scheduler.board import (
    WEIGHTS,
    Board,
    BrokerState,
    Limits,
    Move,
    PlacedPartition,
    Weigher,
    load_of,
)
from bytemq.scheduler.homecoming import Homecoming
from bytemq.types import PartitionId, Role


class Balancer:
    """Remembers what moved lately, and whether the load is being evened out."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._moved_at: dict[PartitionId, float] = {}
        self._homecoming = Homecoming(self._limits)
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
        board = Board(brokers)
        yield from board.place(partitions, weigh)
        moves = yield from _evacuate(board)
        moves += yield from _spread_coordinators(board)
        if moves:
            return moves  # load is looked at when these have shown what they do
        self._moved_at = {partition: at for partition, at in self._moved_at.items() if now_s - at < self._limits.stay_s}
        if self._may_move(board) and not self._traffic.is_lull:
            moves = _even_out(board, self._limits, self._moved_at)
        elif not self._uneven_looks:
            moves = self._homecoming.plan(now_s, board, self._moved_at)
        self._moved_at.update((move.partition, now_s) for move in moves)
        return moves

    def _may_move(self, board: Board) -> bool:
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

    def look(self, now_s: float, partitions: Sequence[PlacedPartition], broker_count: int) -> Steps[Weigher]:
        totals = [0.0, 0.0, 0.0]
        for some in slices(partitions):
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
        return Weigher(weights, totals, len(partitions))


def _evacuate(board: Board) -> Steps[list[Move]]:
    """From brokers that shall be empty, and out of zones that a topic is not pinned to."""
    moves: list[Move] = []
    for broker, state in board.brokers.items():
        stay: list[tuple[float, PlacedPartition]] = []
        for some in slices(board.held[broker]):
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


def _refuge(board: Board, placed: PlacedPartition, broker: int) -> int | None:
    """Where the partition goes if it may not stay; None: it stays."""
    if not board.brokers[broker].evacuated and board.allows(placed, broker):
        return None
    allowed = [target for target in board.usable if target != broker and board.allows(placed, target)]
    return min(allowed, key=lambda one: (board.in_zone(placed, one), board.load(one), one), default=None)


def _why_not_there(placed: PlacedPartition, state: BrokerState) -> str:
    if placed.owning_role not in state.roles:
        return f"its broker has not the role {placed.owning_role}"
    return f"its topic is pinned to {', '.join(sorted(placed.zones or ()))}"


def _spread_coordinators(board: Board) -> Steps[list[Move]]:
    """Coordinators' partitions of each topic: at most one more on one broker than on another."""
    able = [broker for broker in board.usable if Role.COORDINATE in board.brokers[broker].roles]
    by_topic: dict[bytes, dict[int, list[PlacedPartition]]] = defaultdict(lambda: {one: [] for one in able})
    loads: dict[PartitionId, float] = {}
    for broker in able:
        for some in slices(board.held[broker]):
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


def _even_out(board: Board, limits: Limits, resting: Mapping[PartitionId, float]) -> list[Move]:
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
    board: Board,
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
        first, middle, last = (bisect_right(candidates, part * gap, key=load_of) for part in (0.0005, 0.5, 0.95))
        for at in (*range(middle - 1, first - 1, -1), *range(middle, last)):
            placed = candidates[at][1]
            if placed.partition in moved or placed.partition in resting:
                continue
            if board.allows(placed, target) and board.keeps_spread(placed, target):
                return at, target
    return None
