"""The transaction coordinators of one broker: a shard for each partition of `__transaction_state` that it owns.

Owns: which shard serves a transactional id, starting shards when partitions come and closing them when they go, and
getting producer ids for the steps that need one. Must not know the protocol (transaction/) or how records are written
(runtime.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from bytemq.broker.coordinator.outcome import Outcome
from bytemq.broker.coordinator.placement import partition_for
from bytemq.broker.coordinator.runtime import ShardRuntime
from bytemq.broker.coordinator.timers import Timers
from bytemq.broker.coordinator.transaction.environment import (
    EndedTransaction,
    Markers,
    NeedsProducerId,
    TransactionSettings,
)
from bytemq.broker.coordinator.transaction.shard import TransactionShard
from bytemq.broker.coordinator.transaction.transaction import TopicPartition
from bytemq.broker.log.partition import Partition
from bytemq.config import BrokerConfig
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.producer_ids import ProducerIds
from bytemq.metadata.topic_names import TRANSACTION_TOPIC
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.runtime.clock import Clock
from bytemq.runtime.tasks import Supervisor

TransactionRuntime = ShardRuntime[TransactionShard]
R = TypeVar("R")


class TransactionCoordinators:
    """All shards of this broker. `own` and `release` follow the ownership of partitions."""

    def __init__(
        self,
        *,
        config: Callable[[], BrokerConfig],
        image: Callable[[], ClusterImage],
        producer_ids: ProducerIds,
        markers: Callable[[TransactionCoordinators], Markers],
        clock: Clock,
        supervisor: Supervisor,
    ) -> None:
        self._config = config
        self._image = image
        self._producer_ids = producer_ids
        self._markers = markers(self)
        self._clock = clock
        self._supervisor = supervisor
        self._shards: dict[int, TransactionRuntime] = {}

    # -- ownership

    def own(self, partition: Partition) -> None:
        """This broker coordinates the transactional ids of `partition` from now on. Loading goes on behind."""
        index = partition.pid.index
        self.release(index)

        def make(timers: Timers) -> TransactionShard:
            settings = transaction_settings(self._config())
            return TransactionShard(settings, timers, self._clock.wall_ms, self._markers, partition.leader_epoch)

        runtime = ShardRuntime(partition, make, self._clock)
        self._shards[index] = runtime
        self._supervisor.start(f"load transaction coordinator {index}", runtime.load())

    def release(self, index: int) -> None:
        """Not the coordinator any more; who waits is told so. Unknown indexes are fine."""
        runtime = self._shards.pop(index, None)
        if runtime is not None:
            runtime.close()

    def close(self) -> None:
        for index in list(self._shards):
            self.release(index)

    # -- requests

    def shard_of(self, transactional_id: str) -> TransactionRuntime:
        """The shard that has the id. Raises KafkaError NOT_COORDINATOR; what the shard itself is up to, its methods
        tell.
        """
        runtime = self.shard_if_owned(transactional_id)
        if runtime is None:
            raise KafkaError(ErrorCode.NOT_COORDINATOR)
        return runtime

    def shard_if_owned(self, transactional_id: str) -> TransactionRuntime | None:
        """As `shard_of`; None where another broker has it."""
        topic = self._image().topics.get(TRANSACTION_TOPIC)
        return None if topic is None else self._shards.get(partition_for(transactional_id, len(topic.partitions)))

    def shards(self) -> list[TransactionRuntime]:
        """Every shard of this broker, loaded or not."""
        return list(self._shards.values())

    async def write(self, transactional_id: str, operation: Callable[[TransactionShard, int | None], Outcome[R]]) -> R:
        """As the shard's `write`, for an operation that may need a producer id that nobody had. Raises KafkaError."""
        shard = self.shard_of(transactional_id)
        try:
            return await shard.write(lambda machine: operation(machine, None))
        except NeedsProducerId:
            producer_id = await self._producer_ids.allocate()
        return await shard.write(lambda machine: operation(machine, producer_id))

    def marker_written(self, ended: EndedTransaction, partition: TopicPartition) -> None:
        """See `Ending.marker_written`. A shard that is gone has a successor, which sends the markers again."""
        shard = self.shard_if_owned(ended.transactional_id)
        if shard is not None and shard.is_active and shard.partition.leader_epoch == ended.coordinator_epoch:
            shard.run(lambda machine: machine.ending.marker_written(ended, partition))

    def is_current(self, ended: EndedTransaction) -> bool:
        """Whether the coordinator that decided this is still the one."""
        shard = self.shard_if_owned(ended.transactional_id)
        return shard is not None and shard.partition.leader_epoch == ended.coordinator_epoch


def transaction_settings(config: BrokerConfig) -> TransactionSettings:
    """The broker's settings as the machine takes them."""
    return TransactionSettings(
        max_timeout_ms=config.transaction_max_timeout_ms,
        id_expiration_ms=config.transactional_id_expiration_ms,
        remove_expired_interval_ms=config.transaction_remove_expired_transaction_cleanup_interval_ms,
        two_phase_commit_enable=config.transaction_two_phase_commit_enable,
    )
