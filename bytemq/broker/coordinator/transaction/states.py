"""The states of a transactional id, under Kafka's names and stored numbers (KIP-98)."""

from __future__ import annotations

from enum import IntEnum


class TransactionState(IntEnum):
    """As stored in `__transaction_state`. DEAD and PREPARE_EPOCH_FENCE are never stored; tools know their names."""

    EMPTY = 0
    ONGOING = 1
    PREPARE_COMMIT = 2
    PREPARE_ABORT = 3
    COMPLETE_COMMIT = 4
    COMPLETE_ABORT = 5
    DEAD = 6
    PREPARE_EPOCH_FENCE = 7

    @property
    def label(self) -> str:
        """As clients see it: "PrepareCommit"."""
        return "".join(word.capitalize() for word in self.name.split("_"))


BY_LABEL = {state.label: state for state in TransactionState}

PREPARED = frozenset({TransactionState.PREPARE_COMMIT, TransactionState.PREPARE_ABORT})
"""Decided, markers on their way."""

AT_REST = frozenset({TransactionState.EMPTY, TransactionState.COMPLETE_COMMIT, TransactionState.COMPLETE_ABORT})
"""No transaction is open: the next may begin, or the id may expire."""
