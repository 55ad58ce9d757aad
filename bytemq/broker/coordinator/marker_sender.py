"""Sends the markers of ended transactions to all partitions that took part, until each has its own.

Owns: who owns a partition, trying again, and giving up only for reasons that make the marker needless: the partition is
gone, a later epoch is there already, or this broker is not the coordinator any more. Markers for the partitions of this
broker are written directly; `remote` is the border to the others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from bytemq.broker.coordinator.marker_writer import Marker, MarkerWriter, Written
from bytemq.broker.coordinator.transaction.environment import EndedTransaction
from bytemq.broker.coordinator.transaction.transaction import TopicPartition
from bytemq.broker.coordinator.transaction_coordinators import TransactionCoordinators
from bytemq.metadata.image import ClusterImage
from bytemq.protocol.error_codes import ErrorCode
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import LogGate, get_logger

log = get_logger("broker.coordinator")

_AT_ONCE = 100
_PAUSE_S = 0.005
_FIRST_RETRY_S = 0.01
_MAX_RETRY_S = 1.0
_NEEDLESS = frozenset({ErrorCode.INVALID_PRODUCER_EPOCH, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION})
"""Something of a later epoch is in the partition, which the coordinator let in only after this end; or it is gone."""


class RemoteMarkers(Protocol):
    """WriteTxnMarkers to another broker."""

    def write(self, broker_id: int, marker: Marker, partition: TopicPartition, written: Written) -> None:
        """`written` is called once, with NONE when the marker is durable there."""


class MarkerSender:
    """Implements the machine's `Markers`."""

    def __init__(
        self,
        coordinators: TransactionCoordinators,
        writer: MarkerWriter,
        image: Callable[[], ClusterImage],
        clock: Clock,
        *,
        broker_id: int,
        remote: RemoteMarkers,
    ) -> None:
        self._coordinators = coordinators
        self._writer = writer
        self._image = image
        self._clock = clock
        self._broker_id = broker_id
        self._remote = remote
        self._log_gate = LogGate(clock.monotonic)

    def send(self, ended: EndedTransaction) -> None:
        """Begins in the next turn of the loop: the machine is in the middle of a step. Of a transaction in thousands of
        partitions so many at a time: others are served in between.
        """
        for number, topic_partition in enumerate(ended.partitions):
            delay_s = number // _AT_ONCE * _PAUSE_S
            self._clock.call_later(delay_s, partial(self._write, ended, topic_partition, _FIRST_RETRY_S))

    def _write(self, ended: EndedTransaction, partition: TopicPartition, retry_s: float) -> None:
        if not self._coordinators.is_current(ended):
            return
        marker = Marker(
            ended.producer_id,
            ended.producer_epoch,
            ended.committed,
            ended.coordinator_epoch,
            ended.transaction_version,
        )
        written = partial(self._written, ended, partition, retry_s)
        topic = self._image().topics.get(partition[0])
        if topic is None or not 0 <= partition[1] < len(topic.partitions):
            written(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
            return
        owner = topic.partitions[partition[1]].owner
        if owner == self._broker_id:
            self._writer.write(marker, partition, written)
        elif owner >= 0:
            self._remote.write(owner, marker, partition, written)
        else:
            written(ErrorCode.LEADER_NOT_AVAILABLE)

    def _written(self, ended: EndedTransaction, partition: TopicPartition, retry_s: float, code: ErrorCode) -> None:
        if code is ErrorCode.NONE or code in _NEEDLESS:
            self._coordinators.marker_written(ended, partition)
            return
        if code is ErrorCode.TRANSACTION_COORDINATOR_FENCED:
            log.warning("a later coordinator has ended a transaction", transactional_id=ended.transactional_id)
            return
        kept_back = self._log_gate.allow((partition, code))
        if kept_back is not None:
            log.warning("marker not written yet", topic=partition[0], partition=partition[1], error=code.name)
        again = partial(self._write, ended, partition, min(2 * retry_s, _MAX_RETRY_S))
        self._clock.call_later(retry_s, again)
