"""Transaction markers into the partitions of this broker: the local half of WriteTxnMarkers (KIP-98).

Owns: finding the partition, and the one difference between them: markers in `__consumer_offsets` go through the group
coordinator's shard, behind the offsets of the transaction, because they make these offsets count. Answers are Kafka's
codes; nothing is tried again here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from bytemq.broker.coordinator.group_coordinators import GroupCoordinators
from bytemq.broker.coordinator.outcome import Envelope
from bytemq.broker.coordinator.transaction.transaction import EPOCH_BUMP_VERSION, TopicPartition
from bytemq.broker.log.partition import Partition
from bytemq.broker.log.partitions import Opening, PartitionTable
from bytemq.broker.log.results import AppendResult, Origin
from bytemq.metadata.topic_names import OFFSETS_TOPIC
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.records.control import EndTransactionMarker, end_transaction_batch
from bytemq.runtime.clock import Clock

Written = Callable[[ErrorCode], None]


class Marker(NamedTuple):
    """What ends a producer's transaction in one partition."""

    producer_id: int
    producer_epoch: int
    committed: bool
    coordinator_epoch: int
    transaction_version: int

    @property
    def is_bumped(self) -> bool:
        """See Origin.BUMPED_MARKER."""
        return self.transaction_version >= EPOCH_BUMP_VERSION


class MarkerWriter:
    """Appends markers to owned partitions."""

    def __init__(
        self,
        partitions: PartitionTable,
        groups: GroupCoordinators,
        clock: Clock,
        on_marker: Callable[[TopicPartition, int], None],
    ) -> None:
        """`on_marker` is told partition and producer id right before a marker gets its place in the log."""
        self._partitions = partitions
        self._groups = groups
        self._clock = clock
        self._on_marker = on_marker

    def write(self, marker: Marker, partition: TopicPartition, written: Written) -> None:
        """`written` is called once, with NONE when the marker is durable; maybe before this returns."""
        topic, index = partition
        found = self._partitions.get(topic, index)
        if found is None:
            written(ErrorCode.NOT_LEADER_OR_FOLLOWER)
        elif topic == OFFSETS_TOPIC:
            self._write_to_group(marker, index, written)
        elif isinstance(found, Opening):
            found.then(lambda opened: self._append(marker, opened, written))
        else:
            self._append(marker, found, written)

    def _append(self, marker: Marker, partition: Partition | ErrorCode, written: Written) -> None:
        if isinstance(partition, ErrorCode):
            written(partition)
            return

        def done(result: AppendResult) -> None:
            written(result.error)

        payload = end_transaction_batch(
            EndTransactionMarker(marker.committed, marker.coordinator_epoch),
            producer_id=marker.producer_id,
            producer_epoch=marker.producer_epoch,
            timestamp_ms=self._clock.wall_ms(),
        )
        self._on_marker((partition.topic, partition.pid.index), marker.producer_id)
        origin = Origin.BUMPED_MARKER if marker.is_bumped else Origin.COORDINATOR
        partition.append(memoryview(payload), done, origin=origin)

    def _write_to_group(self, marker: Marker, index: int, written: Written) -> None:
        envelope = Envelope(marker.producer_id, marker.producer_epoch, True, marker.is_bumped)
        end = EndTransactionMarker(marker.committed, marker.coordinator_epoch)
        try:
            shard = self._groups.shard_at(index)
            self._on_marker((OFFSETS_TOPIC, index), marker.producer_id)
            shard.run(lambda machine: machine.transactional.end(envelope, end, written))
        except KafkaError as error:
            written(error.code)
