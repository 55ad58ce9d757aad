"""WriteTxnMarkers refuses, before any log is asked, what no producer can be."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bytemq.broker.handlers.write_txn_markers import SLICE_MARKERS, handle
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.write_txn_markers import WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest
from bytemq.runtime.turns import Turns

Code = ErrorCode


class AllWritten:
    """A marker writer whose markers are durable at once."""

    def write(self, marker: object, partition: object, written: Any) -> None:
        written(Code.NONE)


@pytest.mark.parametrize(
    ("changed", "index", "code"),
    [
        ({}, 0, Code.NONE),
        ({}, 1, Code.UNKNOWN_TOPIC_OR_PARTITION),
        ({"producer_id": -1}, 0, Code.INVALID_REQUEST),
        ({"producer_epoch": -1}, 0, Code.INVALID_REQUEST),
        ({"transaction_version": -1}, 0, Code.INVALID_REQUEST),
    ],
)
async def test_write_txn_markers__answers_each_partition(changed: dict[str, int], index: int, code: ErrorCode) -> None:
    image = SimpleNamespace(topics={"t": SimpleNamespace(partitions=["one"])})
    broker = SimpleNamespace(image=image, markers=AllWritten())
    given = {"producer_id": 7, "producer_epoch": 0, "transaction_version": 2, **changed}
    topics = [WritableTxnMarkerTopic("t", [index])]
    marker = WritableTxnMarker(transaction_result=True, coordinator_epoch=0, topics=topics, **cast(Any, given))
    answer = await handle(cast(Any, broker), cast(Any, None), WriteTxnMarkersRequest([marker]))
    assert answer.markers[0].topics[0].partitions[0].error_code == code


async def test_write_txn_markers__of_thousands_let_others_have_their_turn() -> None:
    turns = Turns()
    image = SimpleNamespace(topics={"t": SimpleNamespace(partitions=["one"])})
    broker = SimpleNamespace(image=image, markers=AllWritten(), turns=turns)
    count = 20 * SLICE_MARKERS
    marker = WritableTxnMarker(7, 0, True, [WritableTxnMarkerTopic("t", [0] * count)], 0, 2)
    handling = asyncio.ensure_future(handle(cast(Any, broker), cast(Any, None), WriteTxnMarkersRequest([marker])))
    given = 0
    while not handling.done():
        await turns.next()
        given += 1
    assert given >= 20
    assert [one.error_code for one in handling.result().markers[0].topics[0].partitions] == [Code.NONE] * count
