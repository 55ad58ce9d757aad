"""What all partitions of a broker share. Data only."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bytemq.broker.log.guard import RefuseTransactions, TransactionGuard
from bytemq.broker.log.producer_budget import ProducerBudget
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import LogGate

if TYPE_CHECKING:
    from bytemq.storage.logs import Logs

KAFKA_PRODUCER_ID_EXPIRATION_MS = 86_400_000


@dataclass(slots=True)
class LogServices:
    """`executor` runs what would keep the event loop busy: opening compressed batches, compressing them otherwise."""

    storage: Logs
    clock: Clock
    executor: Executor
    guard: TransactionGuard = field(default_factory=RefuseTransactions)
    producers: ProducerBudget = field(default_factory=ProducerBudget)
    producer_id_expiration_ms: int = KAFKA_PRODUCER_ID_EXPIRATION_MS
    """producer.id.expiration.ms; may change while partitions are open."""
    unreadable: LogGate = field(init=False)
    """For telling of reads that found damage: consumers ask for the same bytes over and over."""

    def __post_init__(self) -> None:
        self.unreadable = LogGate(self.clock.monotonic, burst=1, interval_s=60.0)
