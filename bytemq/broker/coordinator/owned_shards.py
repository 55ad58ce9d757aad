"""The shards of one kind of coordinator that this broker runs: one for each partition that it owns of their topic.

Owns: which there are, finding the one that has a key, and waiting for one that comes or goes. Must not: know what a
shard decides.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from bytemq.broker.coordinator.placement import partition_for
from bytemq.broker.coordinator.runtime import Machine, ShardRuntime, ShardState
from bytemq.broker.coordinator.shard_line import ShardLine
from bytemq.broker.log.partition import Partition
from bytemq.metadata.image import ClusterImage, ImageChange
from bytemq.metadata.standing import Standing
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.runtime.clock import Clock
from bytemq.runtime.tasks import Supervisor

M = TypeVar("M", bound=Machine)


class OwnedShards(Generic[M]):
    """`own`, `leave` and `release` follow the ownership of the partitions of `topic`; `start` makes one's runtime."""

    def __init__(
        self,
        topic: str,
        broker_id: int,
        image: Callable[[], ClusterImage],
        clock: Clock,
        supervisor: Supervisor,
        standing: Standing,
        start: Callable[[Partition], ShardRuntime[M]],
    ) -> None:
        self._topic = topic
        self._broker_id = broker_id
        self._image = image
        self._clock = clock
        self._supervisor = supervisor
        self._standing = standing
        self._start = start
        self._shards: dict[int, ShardRuntime[M]] = {}
        self._lines: dict[int, ShardLine] = {}
        """Of those that somebody waits for, or has waited for in vain."""
        self._expects = True

    # -- ownership

    def own(self, partition: Partition) -> None:
        """This broker is the coordinator of `partition` from now on. Loading goes on behind."""
        index = partition.pid.index
        self.release(index)
        runtime = self._shards[index] = self._start(partition)
        self._supervisor.keep_running(f"load {self._topic}-{index}", partial(self._load, index, runtime))

    async def _load(self, index: int, runtime: ShardRuntime[M]) -> None:
        await runtime.load()
        self._look_at_line(index)

    async def leave(self, index: int) -> None:
        """As `release`, when all that was decided here is committed or given up. Nothing new is decided meanwhile."""
        runtime = self._shards.pop(index, None)
        if runtime is not None:
            try:
                await runtime.drained()
            finally:
                runtime.close()

    def release(self, index: int) -> None:
        """Not the coordinator any more; who waits is told so. Unknown indexes are fine."""
        runtime = self._shards.pop(index, None)
        if runtime is not None:
            runtime.close()
        self._look_at_line(index)

    def expect_nothing(self) -> None:
        """This broker leaves: nobody waits for what is not here."""
        self._expects = False
        for index in list(self._lines):
            self._look_at_line(index)

    def close(self) -> None:
        self.expect_nothing()
        for index in list(self._shards):
            self.release(index)

    def on_image_change(self, change: ImageChange) -> None:
        """What is waited for may go elsewhere."""
        if change.topics or change.brokers or change.doubts:
            for index in list(self._lines):
                self._look_at_line(index)

    # -- requests

    def shards(self) -> list[ShardRuntime[M]]:
        """Every shard of this broker, loaded or not. Raises KafkaError COORDINATOR_LOAD_IN_PROGRESS, upon which clients
        ask again, while others may have them: to list nothing would be to say that there is nothing.
        """
        if self._shards and not self._standing.holds():
            raise KafkaError(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
        return list(self._shards.values())

    @property
    def damaged_count(self) -> int:
        """Shards that refuse their keys because their log is damaged."""
        return sum(runtime.state is ShardState.DAMAGED for runtime in self._shards.values())

    def shard_if_owned(self, key: str) -> ShardRuntime[M] | None:
        """The shard that has the group or transactional id; None where another broker has it, or may have it."""
        return self.shard_here(key) if self._standing.holds() else None

    def shard_here(self, key: str) -> ShardRuntime[M] | None:
        """As `shard_if_owned`, also while another broker may have it: for what was decided before, and would be
        forgotten when the session turns out to be alive."""
        topic = self._image().topics.get(self._topic)
        return None if topic is None else self._shards.get(partition_for(key, len(topic.partitions)))

    def check(self, key: str) -> None:
        """Raises KafkaError for a key that nobody's can be."""

    def shard_of(self, key: str) -> ShardRuntime[M]:
        """As `shard_if_owned`, raising KafkaError NOT_COORDINATOR, or COORDINATOR_LOAD_IN_PROGRESS for one that is not
        here yet, or was here a moment ago. What the shard is up to, its methods tell.
        """
        self.check(key)
        return self.shard_at(self._index_of(key))

    def shard_at(self, index: int) -> ShardRuntime[M]:
        """The shard of a partition. Raises as `shard_of`."""
        if not self._standing.holds():
            raise KafkaError(ErrorCode.NOT_COORDINATOR)
        runtime = self._shards.get(index)
        if runtime is None:
            is_between = self._is_between(index)
            raise KafkaError(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS if is_between else ErrorCode.NOT_COORDINATOR)
        return runtime

    async def awaited_shard_of(self, key: str) -> ShardRuntime[M]:
        """As `shard_of`. One that is between two brokers, or being loaded, is waited for, a moment; those who wait go
        on in the order in which they came, before anybody who comes later.
        """
        self.check(key)
        index = self._index_of(key)
        line = self._lines.get(index)
        if line is None and self._standing.holds() and self._is_between(index):
            line = self._lines[index] = ShardLine(self._clock)
        if line is not None and (line.is_patient or not line.is_empty):
            await line.turn()
            if line.is_empty and line.is_patient:
                self._lines.pop(index, None)
        return self.shard_at(index)

    # -- within

    def _index_of(self, key: str) -> int:
        """Raises KafkaError NOT_COORDINATOR while there is no such topic."""
        topic = self._image().topics.get(self._topic)
        if topic is None:
            raise KafkaError(ErrorCode.NOT_COORDINATOR)
        return partition_for(key, len(topic.partitions))

    def _is_between(self, index: int) -> bool:
        """Whether the shard is being loaded, or is not here yet, or is gone from here and not elsewhere yet."""
        runtime = self._shards.get(index)
        if runtime is not None:
            return runtime.state is ShardState.LOADING
        topic = self._image().topics.get(self._topic)
        if topic is None or not self._expects or not index < len(topic.partitions):
            return False
        partition = topic.partitions[index]
        return partition.owner == self._broker_id or self._image().comes_soon(partition, self._broker_id)

    def _look_at_line(self, index: int) -> None:
        line = self._lines.get(index)
        if line is not None and not self._is_between(index):
            line.move()
            if line.is_empty:
                del self._lines[index]
