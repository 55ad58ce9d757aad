"""The network half of transactions: what a broker asks of coordinators and of partitions' owners elsewhere.

Owns: AddPartitionsToTxn to the coordinator of a transactional id, and WriteTxnMarkers to the owners of partitions; the
markers that are due for one broker in one turn of the loop go in one request. Must not: try again; whoever asks does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from bytemq.broker.coordinator.marker_writer import Marker, Written
from bytemq.broker.coordinator.placement import partition_for
from bytemq.broker.coordinator.transaction.adding import Writer
from bytemq.broker.coordinator.transaction.transaction import TopicPartition
from bytemq.broker.peers import Peers, code_of
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.topic_names import TRANSACTION_TOPIC
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.add_partitions_to_txn import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTransaction,
)
from bytemq.protocol.messages.write_txn_markers import (
    WritableTxnMarker,
    WritableTxnMarkerTopic,
    WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
)
from bytemq.runtime.tasks import Supervisor

ADD_PARTITIONS_VERSION = 5
MARKERS_VERSION = 2


class RemoteTransactions:
    """Implements `RemoteCoordinator` of the admission and `RemoteMarkers` of the sender."""

    def __init__(self, peers: Peers, image: Callable[[], ClusterImage], broker_id: int, supervisor: Supervisor) -> None:
        self._peers = peers
        self._image = image
        self._broker_id = broker_id
        self._supervisor = supervisor
        self._due: dict[int, list[tuple[Marker, TopicPartition, Written]]] = {}

    async def add(
        self, writer: Writer, partitions: Sequence[TopicPartition], *, verify_only: bool
    ) -> dict[TopicPartition, ErrorCode]:
        coordinator = self._coordinator_of(writer.transactional_id)
        if isinstance(coordinator, ErrorCode):
            return dict.fromkeys(partitions, coordinator)
        indexes: dict[str, list[int]] = {}
        for topic, index in partitions:
            indexes.setdefault(topic, []).append(index)
        topics = [AddPartitionsToTxnTopic(topic, indexes[topic]) for topic in indexes]
        request = AddPartitionsToTxnRequest(transactions=[AddPartitionsToTxnTransaction(*writer, verify_only, topics)])
        try:
            response = await self._peers.ask(coordinator, request, ADD_PARTITIONS_VERSION, AddPartitionsToTxnResponse)
        except KafkaError as error:
            return dict.fromkeys(partitions, error.code)
        codes = dict.fromkeys(partitions, code_of(response.error_code) or ErrorCode.NETWORK_EXCEPTION)
        for result in response.results_by_transaction:
            for topic_result in result.topic_results:
                for answered in topic_result.results_by_partition:
                    codes[topic_result.name, answered.partition_index] = code_of(answered.partition_error_code)
        return codes

    def write(self, broker_id: int, marker: Marker, partition: TopicPartition, written: Written) -> None:
        due = self._due.setdefault(broker_id, [])
        due.append((marker, partition, written))
        if len(due) == 1:
            asyncio.get_running_loop().call_soon(self._send_due, broker_id)

    def _send_due(self, broker_id: int) -> None:
        due = self._due.pop(broker_id)
        self._supervisor.start("markers to another broker", self._send(broker_id, due))

    async def _send(self, broker_id: int, due: Sequence[tuple[Marker, TopicPartition, Written]]) -> None:
        """A marker for each partition of its own: what one partition answers is nobody else's business."""
        request = WriteTxnMarkersRequest(
            [
                WritableTxnMarker(
                    marker.producer_id,
                    marker.producer_epoch,
                    marker.committed,
                    [WritableTxnMarkerTopic(topic, [index])],
                    marker.coordinator_epoch,
                    marker.transaction_version,
                )
                for marker, (topic, index), _ in due
            ]
        )
        codes = [ErrorCode.NETWORK_EXCEPTION] * len(due)
        try:
            response = await self._peers.ask(broker_id, request, MARKERS_VERSION, WriteTxnMarkersResponse)
            answered = [
                code_of(partition.error_code)
                for result in response.markers
                for topic_result in result.topics
                for partition in topic_result.partitions
            ]
            codes[: len(answered)] = answered[: len(due)]
        except KafkaError as error:
            codes = [error.code] * len(due)
        for (_, _, written), code in zip(due, codes, strict=True):
            written(code)

    def _coordinator_of(self, transactional_id: str) -> int | ErrorCode:
        """The broker, or why there is none to ask."""
        topic = self._image().topics.get(TRANSACTION_TOPIC)
        if topic is None:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        owner = topic.partitions[partition_for(transactional_id, len(topic.partitions))].owner
        if owner == self._broker_id:
            return ErrorCode.NOT_COORDINATOR  # not any more, or not yet
        return owner if owner >= 0 else ErrorCode.COORDINATOR_NOT_AVAILABLE
