"""TxnOffsetCommit of very many offsets: in slices, all of them within the transaction."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bytemq.broker.handlers import txn_offset_commit
from bytemq.broker.offset_slices import SLICE_PARTITIONS
from bytemq.broker.transaction_admission import Arrival
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
    TxnOffsetCommitResponse,
    TxnOffsetCommitResponsePartition,
    TxnOffsetCommitResponseTopic,
)
from bytemq.runtime.turns import Turns

ID = bytes(16)


class World:
    """A shard that commits everything while the transaction is open, which it is for so many slices."""

    def __init__(self, slices: int) -> None:
        self.sizes: list[int] = []
        self.is_inside = False
        self._slices = slices
        self.partition = SimpleNamespace(pid=SimpleNamespace(index=3))
        admission = SimpleNamespace(enter=self._enter, is_inside=self._state)
        topic = SimpleNamespace(name="t", topic_id=ID, partitions=[None] * 3 * SLICE_PARTITIONS)
        image = SimpleNamespace(topics={"t": topic}, topics_by_id={})
        self.broker: Any = SimpleNamespace(image=image, groups=self, admission=admission, turns=Turns())

    def _enter(self, arrival: Arrival) -> None:
        self.is_inside = True
        arrival.append(lambda: setattr(self, "is_inside", False))

    def _state(self, door: object) -> ErrorCode:
        return ErrorCode.NONE if len(self.sizes) < self._slices else ErrorCode.INVALID_TXN_STATE

    async def awaited_shard_of_named(self, group_id: str) -> World:
        return self

    def serving_machine(self) -> None:
        return None

    async def write(self, change: Any) -> TxnOffsetCommitResponse:
        assert self.is_inside
        machine: Any = SimpleNamespace(transactional=SimpleNamespace(commit=lambda request, origin: request))
        topics = change(machine).topics
        self.sizes.append(sum(len(topic.partitions) for topic in topics))
        return TxnOffsetCommitResponse(
            topics=[
                TxnOffsetCommitResponseTopic(
                    topic.name, ID, [TxnOffsetCommitResponsePartition(one.partition_index) for one in topic.partitions]
                )
                for topic in topics
            ]
        )


@pytest.mark.parametrize(("open_for", "code"), [(9, ErrorCode.NONE), (1, ErrorCode.INVALID_TXN_STATE)])
async def test_txn_offset_commit__of_very_many_succeeds_as_a_whole_or_not_at_all(
    open_for: int, code: ErrorCode
) -> None:
    world, count = World(open_for), 2 * SLICE_PARTITIONS + 5
    rows = [TxnOffsetCommitRequestPartition(index, 5) for index in range(count)]
    request = TxnOffsetCommitRequest("app", "g", 7, 0, topics=[TxnOffsetCommitRequestTopic("t", ID, rows)])
    context: Any = SimpleNamespace(api_version=3, client_id=None, peer="")
    response = await txn_offset_commit.handle(world.broker, context, request)
    assert [(one.partition_index, one.error_code) for one in response.topics[0].partitions] == [
        (index, code) for index in range(count)
    ]
    assert world.sizes == [SLICE_PARTITIONS, SLICE_PARTITIONS, 5][:open_for]
    assert not world.is_inside
