"""Requests for many groups or transactions whose coordinators all load: they are waited for side by side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from bytemq.broker.coordinator.owned_shards import OwnedShards
from bytemq.broker.coordinator.shard_line import PATIENCE_S
from bytemq.broker.handlers import add_partitions_to_txn, delete_groups, offset_fetch
from bytemq.metadata.image import NO_CONFIGS, ClusterImage, PartitionImage, TopicImage
from bytemq.metadata.standing import Standing
from bytemq.metadata.topic_names import OFFSETS_TOPIC
from bytemq.protocol.codec import decode
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.add_partitions_to_txn import AddPartitionsToTxnRequest, AddPartitionsToTxnTransaction
from bytemq.protocol.messages.delete_groups import DeleteGroupsRequest
from bytemq.protocol.messages.offset_fetch import OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchResponse
from bytemq.runtime.tasks import Supervisor
from bytemq.runtime.turns import Turns
from bytemq.types import TopicId
from tests.support.virtual_time import LoopClock, run_virtual

HERE, ELSEWHERE = 1, 2
NAMES = [f"g{number}" for number in range(8)]


async def groups_deleted(broker: Any) -> list[int]:
    answer = await delete_groups.handle(broker, SimpleNamespace(api_version=2), DeleteGroupsRequest(NAMES))  # type: ignore[arg-type]
    return [result.error_code for result in answer.results]


async def offsets_fetched(broker: Any) -> list[int]:
    request = OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id=name, topics=None) for name in NAMES])
    answer = await offset_fetch.handle(broker, SimpleNamespace(api_version=9), request)  # type: ignore[arg-type]
    return [group.error_code for group in decode(OffsetFetchResponse, 9, answer).groups]


async def partitions_verified(broker: Any) -> list[str]:
    transactions = [AddPartitionsToTxnTransaction(name, 1, 1, verify_only=True, topics=[]) for name in NAMES]
    request = AddPartitionsToTxnRequest(transactions=transactions)
    answer = await add_partitions_to_txn.handle(broker, SimpleNamespace(api_version=4), request)  # type: ignore[arg-type]
    return [result.transactional_id for result in answer.results_by_transaction]


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (groups_deleted, [ErrorCode.COORDINATOR_LOAD_IN_PROGRESS] * len(NAMES)),
        (offsets_fetched, [ErrorCode.COORDINATOR_LOAD_IN_PROGRESS] * len(NAMES)),
        (partitions_verified, NAMES),
    ],
)
def test_request__for_several_coordinators_waits_no_longer_than_for_one(
    ask: Callable[[Any], Awaitable[list[Any]]], answer: list[Any]
) -> None:
    async def scenario() -> None:
        clock, image = LoopClock(), ClusterImage()
        partitions = (PartitionImage(ELSEWHERE, 3, 7, HERE),) * 50
        image.topics[OFFSETS_TOPIC] = TopicImage(OFFSETS_TOPIC, TopicId(bytes(16)), partitions, NO_CONFIGS, 1, True)
        supervisor, standing = Supervisor(clock, lambda name, error: None), Standing(clock.monotonic)
        shards: OwnedShards[Any] = OwnedShards(OFFSETS_TOPIC, HERE, lambda: image, clock, supervisor, standing, str)  # type: ignore[arg-type]
        assert await ask(SimpleNamespace(groups=shards, transactions=shards, image=image, turns=Turns())) == answer
        assert clock.monotonic() == pytest.approx(PATIENCE_S)

    run_virtual(scenario())
