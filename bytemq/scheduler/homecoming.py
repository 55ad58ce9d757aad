"""Partitions come to the zones that produce most of them, as far as the load stays even. Pure.

Owns: which of those that are elsewhere, and that a few of them do so at a time. Must not: even out the load, which
comes first (`balance.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import nlargest

from bytemq.scheduler.board import Board, Limits, Move, PlacedPartition, load_of
from bytemq.types import PartitionId

HOME_LOOKS = 50
"""Partitions that are not in the zone that produces them, and may be brought there, in one plan."""


class Homecoming:
    """Remembers what could not be brought to its zone: it is looked at again later, for others are waiting, too."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._left_at: dict[PartitionId, float] = {}

    def plan(self, now_s: float, board: Board, resting: Mapping[PartitionId, float]) -> list[Move]:
        """Moves for now. Those that are `resting` stay where they are."""
        limits = self._limits
        self._left_at = {partition: at for partition, at in self._left_at.items() if now_s - at < limits.stay_s}
        waiting = [
            entry
            for entry in board.away
            if entry[1].partition not in resting and entry[1].partition not in self._left_at
        ]
        moves, left = _bring_home(board, limits, nlargest(HOME_LOOKS, waiting, key=load_of), resting)
        self._left_at.update(dict.fromkeys(left, now_s))
        return moves


def _bring_home(
    board: Board,
    limits: Limits,
    away: Sequence[tuple[float, PlacedPartition]],
    resting: Mapping[PartitionId, float],
) -> tuple[list[Move], list[PartitionId]]:
    """Each alone where the load stays even, else in exchange for one that is no better off where it is. That a topic's
    partitions are spread over zones counts less: its producers are. Also those for which neither can be.
    """
    moves: list[Move] = []
    left: list[PartitionId] = []
    moved = set(resting)
    for load, placed in away:
        if len(moves) >= limits.home_moves_at_once:
            break
        if placed.partition in moved:
            continue
        for target in sorted(board.carriers, key=board.load):
            if board.zone(target) != placed.home or not board.allows(placed, target):
                continue
            exchanged = _exchanged(board, limits, load, placed, target, moved)
            if exchanged is None:
                continue
            source, home = placed.broker, placed.home
            in_exchange = f"in exchange for one that zone {home} produces most of"
            for its_load, one, to, why in (
                (load, placed, target, f"zone {home} produces most of it"),
                *((its, other, source, in_exchange) for its, other in exchanged),
            ):
                board.held[one.broker].remove((its_load, one))
                moves.append(board.move(its_load, one, to, why))
                moved.add(one.partition)
            break
        else:
            left.append(placed.partition)
    return moves, left


def _exchanged(
    board: Board, limits: Limits, load: float, placed: PlacedPartition, target: int, moved: set[PartitionId]
) -> list[tuple[float, PlacedPartition]] | None:
    """What goes the other way: nothing where it need not, one partition; None: it would not be even."""
    source = placed.broker

    def stays_even(difference: float) -> bool:
        return board.load_with(target, difference) <= limits.rest_ratio and (
            board.load_with(source, -difference) >= limits.rest_below
        )

    if stays_even(load):
        return []
    zone, home = board.zone(source), board.zone(target)
    others = [
        entry
        for entry in board.held[target]
        if entry[1].home != home
        and entry[1].partition not in moved
        and not entry[1].is_coordinator
        and board.allows(entry[1], source)
        and stays_even(load - entry[0])
        and board.load_with(source, entry[0] - load) <= limits.rest_ratio
    ]
    best = min(others, key=lambda entry: (entry[1].home != zone, abs(entry[0] - load)), default=None)
    return None if best is None else [best]
