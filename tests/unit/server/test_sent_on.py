"""What a consumer without a fetch session sees of a partition that has just moved: where it is, before any error."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bytemq.broker.fetching import pending_fetch
from bytemq.broker.log import departed
from bytemq.metadata.image import BrokerImage
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from bytemq.types import PartitionId
from tests.unit.server.harness import Client, Cluster, decode_response, make_cluster, produce, serving

OTHER_ID = 7
HINTED = 16
"""The first version of Fetch that tells addresses."""


async def moving(partitions: int = 2) -> Cluster:
    cluster = make_cluster()
    cluster.image.brokers[OTHER_ID] = BrokerImage(OTHER_ID, "b", {"PLAINTEXT": ("other", 9092)}, 1)
    await cluster.add_topic("moving", partitions, epoch=3)
    return cluster


def wanted(cluster: Cluster, *offsets: int, session_epoch: int = -1, max_wait_ms: int = 60_000) -> FetchRequest:
    """Of the first partitions, from these offsets on."""
    partitions = [
        FetchPartition(partition=index, fetch_offset=offset, partition_max_bytes=1 << 20)
        for index, offset in enumerate(offsets)
    ]
    topics = [FetchTopic(topic_id=cluster.image.topics["moving"].topic_id, partitions=partitions)]
    return FetchRequest(
        max_wait_ms=max_wait_ms, min_bytes=1, max_bytes=1 << 20, session_epoch=session_epoch, topics=topics
    )


def first(answer: FetchResponse) -> tuple[int, int, int]:
    """Error, leader, its epoch."""
    one = answer.responses[0].partitions[0]
    return one.error_code, one.current_leader.leader_id, one.current_leader.leader_epoch


async def receive(client: Client, version: int = HINTED) -> Any:
    return decode_response(FetchResponse, version, (await asyncio.wait_for(client.receive(), 30))[1])


async def nothing_comes(client: Client) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.receive(), 0.05)


@pytest.mark.parametrize("slice_partitions", [256, 1])
async def test_fetch__is_told_where_a_partition_went_once_and_waits_for_the_others(
    slice_partitions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_fetch, "SLICE_PARTITIONS", slice_partitions)
    monkeypatch.setattr(departed, "GRACE_S", 3600.0)
    cluster = await moving()
    async with serving(cluster) as running:
        reader, other, writer = [await running.connect() for _ in range(3)]
        for index in range(2):
            await produce(writer, "moving", b"v", partition=index)
        reader.send(wanted(cluster, 1, 1), HINTED)
        await nothing_comes(reader)
        await cluster.move("moving", 0, OTHER_ID)
        answer = await receive(reader)
        assert first(answer) == (0, OTHER_ID, 4)
        assert [(node.node_id, node.host) for node in answer.node_endpoints] == [(OTHER_ID, "other")]
        reader.send(wanted(cluster, 1, 1), HINTED)  # before it has worked on the answer
        await nothing_comes(reader)
        await produce(writer, "moving", b"w", partition=1)
        answer = await receive(reader)
        assert first(answer) == (0, -1, -1) and answer.responses[0].partitions[1].records
        other.send(wanted(cluster, 1), HINTED)
        assert first(await receive(other)) == (0, OTHER_ID, 4), "each client is told"


async def test_fetch__is_refused_if_it_still_asks_here_a_second_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departed, "GRACE_S", 0.2)
    cluster = await moving(1)
    async with serving(cluster) as running:
        reader = await running.connect()
        await cluster.move("moving", 0, OTHER_ID)
        reader.send(wanted(cluster, 0, max_wait_ms=300), HINTED)
        error, leader, _ = first(await receive(reader))
        assert leader == OTHER_ID
        while error == 0:
            reader.send(wanted(cluster, 0, max_wait_ms=300), HINTED)
            error, leader, _ = first(await receive(reader))
        assert (error, leader) == (ErrorCode.NOT_LEADER_OR_FOLLOWER, OTHER_ID)


@pytest.mark.parametrize(("version", "session_epoch"), [(HINTED, 0), (HINTED - 1, -1)])
async def test_fetch__of_a_session_or_without_hints_is_refused_at_once(version: int, session_epoch: int) -> None:
    """Such a client takes no notice of a hint without an error."""
    cluster = await moving(1)
    async with serving(cluster) as running:
        reader = await running.connect()
        await cluster.move("moving", 0, OTHER_ID)
        reader.send(wanted(cluster, 0, session_epoch=session_epoch), version)
        assert first(await receive(reader, version))[0] == ErrorCode.NOT_LEADER_OR_FOLLOWER


async def test_fetch__of_a_partition_that_nobody_is_to_have_is_refused() -> None:
    cluster = await moving(1)
    topic = cluster.image.topics["moving"]
    async with serving(cluster) as running:
        reader = await running.connect()
        await cluster.broker.partitions.release(PartitionId(topic.topic_id, 0))
        reader.send(wanted(cluster, 0), HINTED)
        assert first(await receive(reader))[0] == ErrorCode.NOT_LEADER_OR_FOLLOWER
