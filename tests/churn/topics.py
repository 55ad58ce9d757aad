"""The kinds of topics, each by how its records go, and what of each is known to have been acknowledged."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import NamedTuple

from tests.churn.ledger import Ledger, Newest

RETENTION_MS = "45000"
CUT = "cut"
COMPACTED = "compact"
AS_TABLE = {
    "bytemq.table.enable": "true",
    "bytemq.table.after.ms": "10000",
    "bytemq.table.target.file.bytes": "2097152",
    "bytemq.table.row.group.bytes": "262144",
}
COMPACT = {
    "min.cleanable.dirty.ratio": "0.1",
    "delete.retention.ms": "5000",
    "max.compaction.lag.ms": "20000",
}


class Kind(NamedTuple):
    name: str
    partitions: int
    share: float
    """Of all bytes that are produced."""
    config: Mapping[str, str]
    is_transactional: bool = False
    groups: tuple[str, ...] = ()
    """Protocols of groups that follow it."""


KINDS = (
    Kind("kept", 3, 0.05, {**AS_TABLE, "bytemq.table.value.format": "json"}),
    Kind("expiring", 4, 0.2, {"retention.ms": RETENTION_MS, "bytemq.table.enable": "false"}, groups=("classic",)),
    Kind("expiring-tables", 2, 0.1, {"retention.ms": RETENTION_MS, **AS_TABLE}, groups=("consumer",)),
    Kind("sized", 2, 0.2, {"retention.bytes": "4194304", "bytemq.table.enable": "false"}),
    Kind("sized-tables", 2, 0.1, {"retention.bytes": "6291456", **AS_TABLE}),
    Kind(CUT, 2, 0.1, AS_TABLE),
    Kind("compacted", 2, 0.05, {"cleanup.policy": COMPACTED, **COMPACT, "bytemq.table.enable": "false"}),
    Kind("compacted-tables", 2, 0.05, {"cleanup.policy": COMPACTED, **COMPACT, **AS_TABLE}),
    Kind("transactions", 3, 0.1, {"retention.ms": RETENTION_MS, **AS_TABLE}, True, ("classic",)),
)
"""Those that are there all the time."""
PASSING = (
    Kind("passing", 3, 0.05, {"bytemq.table.enable": "false"}),
    Kind("passing-tables", 2, 0.05, AS_TABLE),
    Kind("passing-transactions", 2, 0.05, AS_TABLE, True),
    Kind("passing-compacted", 1, 0.05, {"cleanup.policy": COMPACTED, **COMPACT, **AS_TABLE}),
)
"""Made and deleted over and over."""
SHARED_CONFIG = {"segment.bytes": "1048576"}


class Topic:
    """What was acknowledged of it goes to all its ledgers."""

    def __init__(self, kind: Kind, name: str) -> None:
        self.kind = kind
        self.name = name
        self.partitions = kind.partitions
        self.ledgers: list[Ledger] = []
        """Add them before anything is written."""
        self.newest = Newest() if kind.config.get("cleanup.policy") == COMPACTED else None
        """Of compacted ones, which have no ledgers."""
        self.is_complete = False
        """Its writer has ended."""
        self.is_gone = False
        """It was deleted, or is about to be."""
        self.acknowledged_count = self.acknowledged_bytes = 0
        self._all: list[tuple[int, int, int]] = []
        self._lock = Lock()

    @property
    def config(self) -> dict[str, str]:
        return {**SHARED_CONFIG, **self.kind.config}

    @property
    def is_kept(self) -> bool:
        return self.kind.name == "kept"

    def acknowledged(self, partition: int, offset: int, key: bytes, number: int, size_bytes: int) -> None:
        with self._lock:
            self.acknowledged_count += 1
            self.acknowledged_bytes += size_bytes
            if self.is_kept:
                self._all.append((partition, offset, number))
        if self.newest is not None:
            self.newest.acknowledged(key, number)
        for ledger in self.ledgers:
            ledger.acknowledged(partition, offset, number)

    def uncertain(self, key: bytes, number: int) -> None:
        if self.newest is not None:
            self.newest.uncertain(key, number)
        for ledger in self.ledgers:
            ledger.uncertain(number)

    def ledger_from_the_beginning(self) -> Ledger:
        """Of a reader that is given everything that was ever acknowledged. Only of what is kept."""
        ledger = Ledger(f"{self.name}, from the beginning")
        for partition, offset, number in self._all:
            ledger.acknowledged(partition, offset, number)
        return ledger
