"""DescribeProducers at brokers that are named as replicas, and do not own the partition."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest

from bytemq.broker.handlers import describe_producers
from bytemq.broker.peers import Peers
from bytemq.metadata.image import BrokerImage
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.describe_producers import (
    DescribeProducersRequest,
    DescribeProducersResponse,
    PartitionResponse,
    ProducerState,
    TopicRequest,
    TopicResponse,
)
from tests.unit.server.harness import NODE_ID, Cluster, make_cluster

ELSEWHERE, SILENT = NODE_ID + 1, NODE_ID + 2
NOT_LEADER = ErrorCode.NOT_LEADER_OR_FOLLOWER


class Owners:
    """The other brokers. Each knows the producer that has its number."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, list[tuple[str, list[int]]]]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def ask(self, broker_id: int, request: DescribeProducersRequest, *_: object) -> DescribeProducersResponse:
        self.asked.append((broker_id, [(topic.name, topic.partition_indexes) for topic in request.topics]))
        await self.may_answer.wait()
        if broker_id == SILENT:
            raise KafkaError(ErrorCode.NETWORK_EXCEPTION)
        known = [ProducerState(broker_id, 0, 3, 5, 7, 1)]
        return DescribeProducersResponse(
            topics=[
                TopicResponse(
                    topic.name, [PartitionResponse(index, 0, None, known) for index in topic.partition_indexes]
                )
                for topic in request.topics
            ]
        )


async def asked_of(
    cluster: Cluster, client_id: str | None = None, indexes: Sequence[int] = (1, 0, 9)
) -> list[tuple[str, int, int, list[int]]]:
    request = DescribeProducersRequest([TopicRequest(name, list(indexes)) for name in ("far", "near", "silent")])
    context = cast(Any, SimpleNamespace(client_id=client_id))
    answer = await describe_producers.handle(cluster.broker, context, request)
    return [
        (topic.name, one.partition_index, one.error_code, [each.producer_id for each in one.active_producers])
        for topic in answer.topics
        for one in topic.partitions
    ]


@pytest.fixture
async def cluster() -> Cluster:
    made = make_cluster()
    for broker_id in (ELSEWHERE, SILENT):
        made.image.brokers[broker_id] = BrokerImage(broker_id, "a", {}, 1)
    for name, owner in (("far", ELSEWHERE), ("near", NODE_ID), ("silent", SILENT)):
        await made.add_topic(name, 2, owner=owner)
    return made


def with_factor(cluster: Cluster, factor: int) -> Owners:
    for name, topic in cluster.image.topics.items():
        cluster.image.topics[name] = replace(topic, replication_factor=factor)
    owners = Owners()
    cluster.broker.peers = cast(Peers, owners)
    return owners


async def test_describe_producers__of_a_replica_is_what_the_owner_says(cluster: Cluster) -> None:
    owners = with_factor(cluster, 3)
    unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert await asked_of(cluster) == [
        ("far", 1, 0, [ELSEWHERE]),
        ("far", 0, 0, [ELSEWHERE]),
        ("far", 9, unknown, []),
        ("near", 1, 0, []),
        ("near", 0, 0, []),
        ("near", 9, unknown, []),
        ("silent", 1, NOT_LEADER, []),
        ("silent", 0, NOT_LEADER, []),
        ("silent", 9, unknown, []),
    ]
    assert owners.asked == [(ELSEWHERE, [("far", [0, 1])]), (SILENT, [("silent", [0, 1])])]


async def test_describe_producers__of_no_replica_is_refused(cluster: Cluster) -> None:
    owners = with_factor(cluster, 1)
    answers = await asked_of(cluster)
    assert [code for name, index, code, _ in answers if name != "near" and index < 2] == [NOT_LEADER] * 4
    assert owners.asked == []


async def test_describe_producers__of_a_broker_that_asks_is_asked_no_further(cluster: Cluster) -> None:
    """Two brokers that take each other for the owner would go on for ever."""
    owners = with_factor(cluster, 3)
    assert ("far", 1, NOT_LEADER, []) in await asked_of(cluster, "broker-7")
    assert owners.asked == []


async def test_describe_producers__what_is_named_twice_is_answered_once_and_lets_others_in_between(
    cluster: Cluster,
) -> None:
    owners = with_factor(cluster, 3)
    asking = asyncio.ensure_future(asked_of(cluster, indexes=[0] * 1_000))
    for turn in range(5):
        await asyncio.sleep(0)
        assert not asking.done(), turn
    assert [(name, index) for name, index, _, _ in await asking] == [("far", 0), ("near", 0), ("silent", 0)]
    assert owners.asked == [(ELSEWHERE, [("far", [0])]), (SILENT, [("silent", [0])])]


async def test_describe_producers__asks_all_owners_at_the_same_time(cluster: Cluster) -> None:
    owners = with_factor(cluster, 3)
    owners.may_answer.clear()
    asking = asyncio.ensure_future(asked_of(cluster))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(owners.asked) == 2, "each may take as long as a client waits for all"
    owners.may_answer.set()
    await asking


async def test_describe_producers__of_a_topic_that_was_made_anew_meanwhile_with_fewer_partitions(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_factor(cluster, 3)

    async def opened(topic: str, index: int) -> NoReturn:
        far = cluster.image.topics["far"]
        cluster.image.topics["far"] = replace(far, partitions=far.partitions[:1])
        raise KafkaError(NOT_LEADER)

    monkeypatch.setattr(cluster.broker.partitions, "open", opened)
    assert ("far", 1, NOT_LEADER, []) in await asked_of(cluster)
