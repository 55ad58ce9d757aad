"""What all partitions of a broker share. Data only."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING

from bytemq.broker.log.batch_opener import DEFAULT_MEMORY_BYTES, BatchOpener
from bytemq.broker.log.guard import RefuseTransactions, TransactionGuard
from bytemq.broker.log.producer_budget import ProducerBudget
from bytemq.runtime.budget import MemoryBudget
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import LogGate

if TYPE_CHECKING:
    from bytemq.storage.logs import Logs

LOOKUPS_AT_ONCE = 8
KAFKA_PRODUCER_ID_EXPIRATION_MS = 86_400_000


@dataclass(slots=True)
class LogServices:
    """`executor` opens record batches, with so much memory."""

    storage: Logs
    clock: Clock
    executor: InitVar[Executor]
    opening_memory_bytes: InitVar[int] = DEFAULT_MEMORY_BYTES
    guard: TransactionGuard = field(default_factory=RefuseTransactions)
    producers: ProducerBudget = field(default_factory=ProducerBudget)
    producer_id_expiration_ms: int = KAFKA_PRODUCER_ID_EXPIRATION_MS
    """producer.id.expiration.ms; may change while partitions are open."""
    opener: BatchOpener = field(init=False)
    lookups: asyncio.Semaphore = field(init=False)
    """Holds back searches for timestamps: each has a batch in memory."""
    unreadable: LogGate = field(init=False)
    """For telling of reads that found damage: consumers ask for the same bytes over and over."""

    def __post_init__(self, executor: Executor, opening_memory_bytes: int) -> None:
        self.opener = BatchOpener(executor, MemoryBudget(opening_memory_bytes))
        self.lookups = asyncio.Semaphore(LOOKUPS_AT_ONCE)
        self.unreadable = LogGate(self.clock.monotonic, burst=1, interval_s=60.0)
