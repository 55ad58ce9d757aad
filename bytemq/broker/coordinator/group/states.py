"""The states of a classic group and the moves between them, as a table."""

from __future__ import annotations

from enum import Enum


class GroupState(Enum):
    """The value is the name that clients see."""

    EMPTY = "Empty"
    """No members; maybe committed offsets."""
    PREPARING_REBALANCE = "PreparingRebalance"
    """Members are being collected: JoinGroup requests are parked."""
    COMPLETING_REBALANCE = "CompletingRebalance"
    """The generation is fixed; its leader's assignment is awaited: SyncGroup requests are parked."""
    STABLE = "Stable"
    """Every member can have its assignment."""
    DEAD = "Dead"
    """Removed, or handed over to another coordinator."""


PREVIOUS_STATES: dict[GroupState, frozenset[GroupState]] = {
    GroupState.EMPTY: frozenset({GroupState.PREPARING_REBALANCE}),
    GroupState.PREPARING_REBALANCE: frozenset({GroupState.STABLE, GroupState.COMPLETING_REBALANCE, GroupState.EMPTY}),
    GroupState.COMPLETING_REBALANCE: frozenset({GroupState.PREPARING_REBALANCE}),
    GroupState.STABLE: frozenset({GroupState.COMPLETING_REBALANCE}),
    GroupState.DEAD: frozenset(GroupState),
}
"""From where each state can be reached."""
