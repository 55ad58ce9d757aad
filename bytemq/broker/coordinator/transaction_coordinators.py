"""The transaction coordinators of one broker: a shard for each partition of `__transaction_state` that it owns.

Owns: which shard serves a transactional id, starting shards when partitions come and closing them when they go, and
getting producer ids for the steps that need one. Must not know the protocol (transaction/) or how records are written
(runtime.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from bytemq.broker.coordinator.outcome import Outcome
from bytemq.broker.coordinator.owned_shards import OwnedShards
from bytemq.broker.coordinator.runtime import ShardRuntime
from bytemq.broker.coordinator.timers import Timers
from bytemq.broker.coordinator.transaction.environment import (
    EndedTransaction,
    Markers,
    NeedsProducerId,
    TransactionSettings,
)
from bytemq.broker.coordinator.transaction.shard import TransactionShard
from bytemq.broker.coordinator.transaction.states import TransactionState
from bytemq.broker.coordinator.transaction.transaction import TopicPartition
from bytemq.broker.log.partition import Partition
from bytemq.config import BrokerConfig
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.producer_ids import ProducerIds
from bytemq.metadata.standing import Standing
from bytemq.metadata.topic_names import TRANSACTION_TOPIC
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.runtime.clock import Clock
from bytemq.runtime.tasks import Supervisor

TransactionRuntime = ShardRuntime[TransactionShard]
R = TypeVar("R")


class TransactionCoordinators(OwnedShards[TransactionShard]):
    """All shards of this broker. `own` and `release` follow the ownership of partitions."""

    def __init__(
        self,
        *,
        broker_id: int,
        config: Callable[[], BrokerConfig],
        image: Callable[[], ClusterImage],
        producer_ids: ProducerIds,
        markers: Callable[[TransactionCoordinators], Markers],
        clock: Clock,
        supervisor: Supervisor,
        standing: Standing,
    ) -> None:
        super().__init__(TRANSACTION_TOPIC, broker_id, image, clock, supervisor, standing, self._make_runtime)
        self._config = config
        self._producer_ids = producer_ids
        self._markers = markers(self)
        self.timeouts = 0
        """Transactions aborted here because their time was over."""

    # -- figures

    def state_counts(self) -> Counter[TransactionState]:
        """Transactional ids by state, of the loaded shards."""
        counts: Counter[TransactionState] = Counter()
        for runtime in self._shards.values():
            if runtime.is_active:
                counts.update(runtime.machine.environment.state_counts)
        return counts

    @property
    def unmarked_count(self) -> int:
        """Markers that are to be written."""
        return sum(runtime.machine.environment.unmarked_count for runtime in self._shards.values())

    @property
    def damaged_records(self) -> int:
        """Records of __transaction_state that loading left out because they make no sense."""
        return sum(runtime.damaged_records for runtime in self._shards.values())

    # -- requests

    def check(self, key: str) -> None:
        """The empty id is nobody's: INVALID_REQUEST, whoever would coordinate it."""
        if not key:
            raise KafkaError(ErrorCode.INVALID_REQUEST)

    async def write(self, transactional_id: str, operation: Callable[[TransactionShard, int | None], Outcome[R]]) -> R:
        """As the shard's `write`, of one that is waited for, for an operation that may need a producer id that nobody
        had. Raises KafkaError.
        """
        shard = await self.awaited_shard_of(transactional_id)
        try:
            return await shard.write(lambda machine: operation(machine, None))
        except NeedsProducerId:
            producer_id = await self._producer_ids.allocate()
        return await shard.write(lambda machine: operation(machine, producer_id))

    def marker_written(self, ended: EndedTransaction, partition: TopicPartition) -> None:
        """See `Ending.marker_written`. A shard that is gone has a successor, which sends the markers again; one whose
        session is in doubt may have none."""
        shard = self.shard_here(ended.transactional_id)
        if shard is None or not shard.is_active or shard.partition.is_closed:
            return
        if shard.partition.leader_epoch == ended.coordinator_epoch:
            shard.go_on(lambda machine: machine.ending.marker_written(ended, partition))

    def is_current(self, ended: EndedTransaction) -> bool:
        """Whether the coordinator that decided this is still the one, for all that is known here. Where its successor
        has written its own markers, they are refused: their epoch is older."""
        shard = self.shard_here(ended.transactional_id)
        return shard is not None and shard.partition.leader_epoch == ended.coordinator_epoch

    def _note_timeout(self) -> None:
        self.timeouts += 1

    def _make_runtime(self, partition: Partition) -> TransactionRuntime:
        def make(timers: Timers) -> TransactionShard:
            settings = transaction_settings(self._config())
            return TransactionShard(
                settings, timers, self._clock.wall_ms, self._markers, partition.leader_epoch, self._note_timeout
            )

        return ShardRuntime(partition, make, self._clock)


def transaction_settings(config: BrokerConfig) -> TransactionSettings:
    """The broker's settings as the machine takes them."""
    return TransactionSettings(
        max_timeout_ms=config.transaction_max_timeout_ms,
        id_expiration_ms=config.transactional_id_expiration_ms,
        remove_expired_interval_ms=config.transaction_remove_expired_transaction_cleanup_interval_ms,
        two_phase_commit_enable=config.transaction_two_phase_commit_enable,
    )
