"""What clients see of a partition that is on its way to the broker that they ask."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from bytemq.broker.fetching import pending_fetch
from bytemq.broker.log import arrivals
from bytemq.metadata.image import BrokerImage, TopicImage
from bytemq.metadata.values import DoubtStage, DoubtValue
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from bytemq.protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from bytemq.protocol.messages.produce import ProduceResponse
from bytemq.types import PartitionId
from tests.unit.server.harness import (
    NODE_ID,
    Client,
    Cluster,
    batch,
    decode_response,
    eventually,
    make_cluster,
    produce,
    produce_request,
    serving,
)

OTHER_ID = 7


async def coming(cluster: Cluster, name: str) -> TopicImage:
    """A topic of one partition that another broker owns and this one shall have."""
    cluster.image.brokers[OTHER_ID] = BrokerImage(OTHER_ID, "b", {"PLAINTEXT": ("other", 9092)}, 1)
    topic = await cluster.add_topic(name, owner=OTHER_ID)
    wished = replace(topic, partitions=(topic.partitions[0]._replace(assigned=NODE_ID),))
    cluster.image.topics[name] = cluster.image.topics_by_id[topic.topic_id] = wished
    return wished


async def arrive(cluster: Cluster, topic: TopicImage) -> None:
    config = cluster.config.topic_config({})
    await cluster.broker.partitions.own(PartitionId(topic.topic_id, 0), topic.name, 1, config)


def wanted(*names: str, offset: int = 0, max_wait_ms: int = 60_000) -> FetchRequest:
    partitions = [FetchPartition(partition=0, fetch_offset=offset, partition_max_bytes=1 << 20)]
    topics = [FetchTopic(topic=name, partitions=partitions) for name in names]
    return FetchRequest(max_wait_ms=max_wait_ms, min_bytes=1, max_bytes=1 << 20, session_epoch=-1, topics=topics)


def told(response: Any) -> dict[str, tuple[int, bool]]:
    """By topic: error, and whether there are records."""
    return {one.topic: (one.partitions[0].error_code, bool(one.partitions[0].records)) for one in response.responses}


async def nothing_comes(client: Client) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.receive(), 0.02)


async def test_produce__that_comes_before_the_partition_waits_for_it_and_keeps_its_order() -> None:
    cluster = make_cluster()
    topic = await coming(cluster, "moving")
    async with serving(cluster) as running:
        client = await running.connect()
        for value in (b"first", b"second"):
            client.send(produce_request("moving", [(0, batch(value))]), 9)
        await asyncio.sleep(0.02)
        assert not cluster.storage.in_flight and cluster.storage.opened == 0
        await arrive(cluster, topic)
        answers = [decode_response(ProduceResponse, 9, (await client.receive())[1]) for _ in range(2)]
        results = [answer.responses[0].partition_responses[0] for answer in answers]
        assert [(result.error_code, result.base_offset) for result in results] == [(0, 0), (0, 1)]


async def test_produce__for_a_partition_that_does_not_come_is_sent_to_its_owner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arrivals, "PATIENCE_S", 0.02)
    cluster = make_cluster()
    await coming(cluster, "moving")
    async with serving(cluster) as running:
        client = await running.connect()
        answer = await asyncio.wait_for(
            client.ask(produce_request("moving", [(0, batch(b"v"))]), 10, ProduceResponse), 30
        )
        result = answer.responses[0].partition_responses[0]
        assert result.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
        assert result.current_leader.leader_id == OTHER_ID


async def test_produce__for_a_partition_of_a_missed_owner_waits_when_its_session_ends_and_not_before() -> None:
    cluster = make_cluster()
    topic = await coming(cluster, "moving")
    async with serving(cluster) as running:
        client = await running.connect()
        cluster.image.doubts[OTHER_ID] = DoubtValue(1, NODE_ID, DoubtStage.MISSED)
        answer = await client.ask(produce_request("moving", [(0, batch(b"v"))]), 10, ProduceResponse)
        result = answer.responses[0].partition_responses[0]
        assert result.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
        epoch = topic.partitions[0].leader_epoch
        assert result.current_leader.leader_id == NODE_ID, "it comes again to whoever is to have it"
        assert result.current_leader.leader_epoch == epoch + 1
        cluster.image.doubts[OTHER_ID] = DoubtValue(1, NODE_ID, DoubtStage.ENDING)
        client.send(produce_request("moving", [(0, batch(b"v"))]), 9)
        await nothing_comes(client)
        await arrive(cluster, topic)
        answer = decode_response(ProduceResponse, 9, (await client.receive())[1])
        assert answer.responses[0].partition_responses[0].error_code == 0


async def test_produce__to_a_broker_that_may_have_lost_its_session_waits_for_nothing() -> None:
    cluster = make_cluster()
    await coming(cluster, "moving")
    cluster.broker.standing.end()
    async with serving(cluster) as running:
        client = await running.connect()
        assert (await produce(client, "moving", b"v")).error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER


async def test_fetch__that_waits_is_answered_when_another_partition_of_its_topic_comes() -> None:
    """The client, which has one Fetch at a time on its way, can then ask for it."""
    cluster = make_cluster()
    topic = await cluster.add_topic("moving", 2)
    await cluster.add_topic("other")
    gone = PartitionId(topic.topic_id, 1)
    await cluster.broker.partitions.release(gone)
    async with serving(cluster) as running:
        reader, elsewhere, writer = [await running.connect() for _ in range(3)]
        for name in ("moving", "other"):
            await produce(writer, name, b"v")
        reader.send(wanted("moving", offset=1), 12)
        elsewhere.send(wanted("other", offset=1), 12)
        await nothing_comes(reader)
        await cluster.broker.partitions.own(gone, "moving", 1, cluster.config.topic_config({}))
        answer = decode_response(FetchResponse, 12, (await asyncio.wait_for(reader.receive(), 30))[1])
        assert told(answer) == {"moving": (0, False)}
        await nothing_comes(elsewhere)


@pytest.mark.parametrize("slice_partitions", [256, 1])
async def test_fetch__waits_for_a_partition_that_comes(slice_partitions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is not here yet there is no watermark that could be told."""
    monkeypatch.setattr(pending_fetch, "SLICE_PARTITIONS", slice_partitions)
    cluster = make_cluster()
    topic = await coming(cluster, "moving")
    await cluster.add_topic("here")
    async with serving(cluster) as running:
        reader, writer = await running.connect(), await running.connect()
        await produce(writer, "here", b"v")
        reader.send(wanted("moving", "here"), 12)
        await nothing_comes(reader)
        await arrive(cluster, topic)
        _, payload = await asyncio.wait_for(reader.receive(), 30)
        assert told(decode_response(FetchResponse, 12, payload)) == {"moving": (0, False), "here": (0, True)}


async def test_fetch__of_what_does_not_come_is_sent_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "PATIENCE_S", 0.02)
    cluster = make_cluster()
    await coming(cluster, "moving")
    async with serving(cluster) as running:
        reader = await running.connect()
        answer = await asyncio.wait_for(reader.ask(wanted("moving"), 12, FetchResponse), 30)
        assert told(answer) == {"moving": (ErrorCode.NOT_LEADER_OR_FOLLOWER, False)}


async def test_list_offsets__waits_for_a_partition_that_comes() -> None:
    cluster = make_cluster()
    topic = await coming(cluster, "moving")
    async with serving(cluster) as running:
        client = await running.connect()
        asked = ListOffsetsPartition(partition_index=0, timestamp=-1)
        request = ListOffsetsRequest(topics=[ListOffsetsTopic(name="moving", partitions=[asked])])
        waiting = asyncio.ensure_future(client.ask(request, 6, ListOffsetsResponse))
        await eventually(lambda: cluster.broker.partitions._arrivals._expected)
        await arrive(cluster, topic)
        answer = (await asyncio.wait_for(waiting, 30)).topics[0].partitions[0]
        assert (answer.error_code, answer.offset) == (0, 0)
