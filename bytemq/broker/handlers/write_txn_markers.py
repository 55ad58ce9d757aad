"""WriteTxnMarkers v1-2: the end of transactions, from a transaction coordinator, or from an administrator who aborts
one that hangs (KIP-664).

Each marker is appended to each partition by itself; the answer comes when all are durable or refused. A marker of an
older coordinator epoch is TRANSACTION_COORDINATOR_FENCED, one of an older producer epoch INVALID_PRODUCER_EPOCH. v2
says the transaction version, from 2 on the marker must not end a transaction of its own epoch (KIP-1228). Negative
ids, epochs and versions are INVALID_REQUEST.
"""

from __future__ import annotations

import asyncio
from functools import partial

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.coordinator.marker_writer import Marker
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.write_txn_markers import (
    WritableTxnMarkerPartitionResult,
    WritableTxnMarkerResult,
    WritableTxnMarkerTopicResult,
    WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
)

SLICE_MARKERS = 100
"""Appended before others get their turn: a request of some kilobytes may ask for thousands."""

_Begun = list[tuple[int, asyncio.Future[ErrorCode]]]
"""Of one topic: partition, and what becomes of the marker there."""


async def handle(broker: Broker, context: RequestContext, request: WriteTxnMarkersRequest) -> WriteTxnMarkersResponse:
    begun: list[tuple[int, list[tuple[str, _Begun]]]] = []
    count = 0
    for asked in request.markers:
        marker = Marker(
            asked.producer_id,
            asked.producer_epoch,
            asked.transaction_result,
            asked.coordinator_epoch,
            asked.transaction_version,
        )
        topics: list[tuple[str, _Begun]] = []
        begun.append((asked.producer_id, topics))
        for topic in asked.topics:
            partitions: _Begun = []
            topics.append((topic.name, partitions))
            for index in topic.partition_indexes:
                partitions.append((index, _begin(broker, marker, topic.name, index)))
                count += 1
                if count % SLICE_MARKERS == 0:
                    await broker.turns.next()
    return WriteTxnMarkersResponse(
        markers=[
            WritableTxnMarkerResult(producer_id, [await _written(name, partitions) for name, partitions in topics])
            for producer_id, topics in begun
        ]
    )


async def _written(name: str, begun: _Begun) -> WritableTxnMarkerTopicResult:
    results = [WritableTxnMarkerPartitionResult(index, await written) for index, written in begun]
    return WritableTxnMarkerTopicResult(name, results)


def _begin(broker: Broker, marker: Marker, topic: str, index: int) -> asyncio.Future[ErrorCode]:
    written: asyncio.Future[ErrorCode] = asyncio.get_running_loop().create_future()
    image = broker.image.topics.get(topic)
    if marker.producer_id < 0 or marker.producer_epoch < 0 or marker.transaction_version < 0:
        written.set_result(ErrorCode.INVALID_REQUEST)
    elif image is None or not 0 <= index < len(image.partitions):
        written.set_result(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    else:
        broker.markers.write(marker, (topic, index), partial(_resolve, written))
    return written


def _resolve(written: asyncio.Future[ErrorCode], code: ErrorCode) -> None:
    if not written.done():
        written.set_result(code)
