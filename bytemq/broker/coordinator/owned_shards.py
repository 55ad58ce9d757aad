"""The shards of one kind of coordinator that this broker runs: one for each partition that it owns of their topic.

Owns: which there are, and finding the one that has a key. Must not: know what a shard decides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from bytemq.broker.coordinator.placement import partition_for
from bytemq.broker.coordinator.runtime import Machine, ShardRuntime
from bytemq.broker.log.partition import Partition
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.standing import Standing
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.runtime.tasks import Supervisor

M = TypeVar("M", bound=Machine)


class OwnedShards(Generic[M]):
    """`own` and `release` follow the ownership of the partitions of `topic`; `start` makes the runtime of one."""

    def __init__(
        self,
        topic: str,
        image: Callable[[], ClusterImage],
        supervisor: Supervisor,
        standing: Standing,
        start: Callable[[Partition], ShardRuntime[M]],
    ) -> None:
        self._topic = topic
        self._image = image
        self._supervisor = supervisor
        self._standing = standing
        self._start = start
        self._shards: dict[int, ShardRuntime[M]] = {}

    def own(self, partition: Partition) -> None:
        """This broker is the coordinator of `partition` from now on. Loading goes on behind."""
        index = partition.pid.index
        self.release(index)
        runtime = self._shards[index] = self._start(partition)
        self._supervisor.start(f"load {self._topic}-{index}", runtime.load())

    def release(self, index: int) -> None:
        """Not the coordinator any more; who waits is told so. Unknown indexes are fine."""
        runtime = self._shards.pop(index, None)
        if runtime is not None:
            runtime.close()

    def close(self) -> None:
        for index in list(self._shards):
            self.release(index)

    def shards(self) -> list[ShardRuntime[M]]:
        """Every shard of this broker, loaded or not."""
        return list(self._shards.values()) if self._standing.holds() else []

    def shard_if_owned(self, key: str) -> ShardRuntime[M] | None:
        """The shard that has the group or transactional id; None where another broker has it, or may have it."""
        return self.shard_here(key) if self._standing.holds() else None

    def shard_here(self, key: str) -> ShardRuntime[M] | None:
        """As `shard_if_owned`, also while another broker may have it: for what was decided before, and would be
        forgotten when the session turns out to be alive."""
        topic = self._image().topics.get(self._topic)
        return None if topic is None else self._shards.get(partition_for(key, len(topic.partitions)))

    def shard_of(self, key: str) -> ShardRuntime[M]:
        """As `shard_if_owned`, raising KafkaError NOT_COORDINATOR. What the shard is up to, its methods tell."""
        return _required(self.shard_if_owned(key))

    def shard_at(self, index: int) -> ShardRuntime[M]:
        """The shard of a partition. Raises KafkaError NOT_COORDINATOR."""
        return _required(self._shards.get(index) if self._standing.holds() else None)


def _required(runtime: ShardRuntime[M] | None) -> ShardRuntime[M]:
    if runtime is None:
        raise KafkaError(ErrorCode.NOT_COORDINATOR)
    return runtime
