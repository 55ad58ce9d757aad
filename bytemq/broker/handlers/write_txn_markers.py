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
    WritableTxnMarker,
    WritableTxnMarkerPartitionResult,
    WritableTxnMarkerResult,
    WritableTxnMarkerTopicResult,
    WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
)


async def handle(broker: Broker, context: RequestContext, request: WriteTxnMarkersRequest) -> WriteTxnMarkersResponse:
    return WriteTxnMarkersResponse(markers=await asyncio.gather(*(_write(broker, each) for each in request.markers)))


async def _write(broker: Broker, asked: WritableTxnMarker) -> WritableTxnMarkerResult:
    marker = Marker(
        asked.producer_id,
        asked.producer_epoch,
        asked.transaction_result,
        asked.coordinator_epoch,
        asked.transaction_version,
    )
    topics = [
        WritableTxnMarkerTopicResult(
            topic.name,
            list(await asyncio.gather(*(_write_one(broker, marker, topic.name, i) for i in topic.partition_indexes))),
        )
        for topic in asked.topics
    ]
    return WritableTxnMarkerResult(asked.producer_id, topics)


async def _write_one(broker: Broker, marker: Marker, topic: str, index: int) -> WritableTxnMarkerPartitionResult:
    if marker.producer_id < 0 or marker.producer_epoch < 0 or marker.transaction_version < 0:
        return WritableTxnMarkerPartitionResult(index, ErrorCode.INVALID_REQUEST)
    image = broker.image.topics.get(topic)
    if image is None or not 0 <= index < len(image.partitions):
        return WritableTxnMarkerPartitionResult(index, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    written: asyncio.Future[ErrorCode] = asyncio.get_running_loop().create_future()
    broker.markers.write(marker, (topic, index), partial(_resolve, written))
    return WritableTxnMarkerPartitionResult(index, await written)


def _resolve(written: asyncio.Future[ErrorCode], code: ErrorCode) -> None:
    if not written.done():
        written.set_result(code)
