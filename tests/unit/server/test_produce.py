"""Produce as clients see it, over a socket."""

import asyncio
from typing import Any

import pytest

from bytemq.broker.handlers.produce import without_repeated
from bytemq.errors import Unavailable
from bytemq.metadata.image import BrokerImage
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
)
from bytemq.types import PartitionId
from tests.unit.server.harness import (
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


async def ask(client: Client, request: ProduceRequest, version: int) -> Any:
    response = await client.ask(request, version, ProduceResponse)
    return response.responses[0].partition_responses[0]


@pytest.mark.parametrize("version", range(3, 14))
async def test_produce__gives_dense_offsets_in_every_version(version: int) -> None:
    cluster = make_cluster()
    topic = await cluster.add_topic("events")
    async with serving(cluster) as running:
        client = await running.connect()
        for expected in (0, 2, 4):
            request = produce_request("events", [(0, batch(b"one", b"two"))])
            if version >= 13:
                request.topic_data[0].name, request.topic_data[0].topic_id = "", topic.topic_id
            result = await ask(client, request, version)
            assert (result.error_code, result.base_offset) == (0, expected)


@pytest.mark.parametrize("acks", [1, -1])
async def test_produce__is_not_answered_before_storage_has_it(acks: int) -> None:
    cluster = make_cluster()
    await cluster.add_topic("events")
    async with serving(cluster) as running:
        client = await running.connect()
        await produce(client, "events", b"opens the partition")
        cluster.storage.held = True
        client.send(produce_request("events", [(0, batch(b"v"))], acks=acks), 9)
        await eventually(lambda: cluster.storage.in_flight)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.receive(), 0.02)


async def test_produce__acks_zero_is_not_answered_and_an_error_closes() -> None:
    cluster = make_cluster()
    await cluster.add_topic("events")
    async with serving(cluster) as running:
        client = await running.connect()
        client.send(produce_request("events", [(0, batch(b"silent"))], acks=0), 9)
        assert (await produce(client, "events", b"second")).base_offset == 1
        client.send(produce_request("no-such-topic", [(0, batch(b"v"))], acks=0), 9)
        assert await client.closed()


@pytest.mark.parametrize(
    ("topic", "partition", "payload", "acks", "error"),
    [
        ("events", 0, b"records", 2, ErrorCode.INVALID_REQUIRED_ACKS),
        ("events", 0, b"records", -2, ErrorCode.INVALID_REQUIRED_ACKS),
        ("events", 0, None, -1, ErrorCode.INVALID_REQUEST),
        ("events", 7, b"records", -1, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("events", -1, b"records", -1, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("unknown", 0, b"records", -1, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("__consumer_offsets", 0, b"records", -1, ErrorCode.INVALID_TOPIC_EXCEPTION),
        ("elsewhere", 0, b"records", -1, ErrorCode.NOT_LEADER_OR_FOLLOWER),
    ],
)
async def test_produce__says_what_is_wrong(
    topic: str, partition: int, payload: bytes | None, acks: int, error: ErrorCode
) -> None:
    cluster = make_cluster()
    await _topics(cluster)
    async with serving(cluster) as running:
        client = await running.connect()
        records = batch(b"v") if payload else None
        result = await ask(client, produce_request(topic, [(partition, records)], acks=acks), 9)
        assert (result.error_code, result.base_offset) == (error, -1)
        assert (await produce(client, "events", b"still fine")).error_code == 0


async def test_produce__a_transactional_batch_needs_a_transactional_id() -> None:
    cluster = make_cluster()
    await cluster.add_topic("events")
    async with serving(cluster) as running:
        client = await running.connect()
        records = batch(b"v", producer_id=7, producer_epoch=0, base_sequence=0, transactional=True)
        result = await ask(client, produce_request("events", [(0, records)]), 9)
        assert (result.error_code, result.base_offset) == (ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, -1)
        assert (await produce(client, "events", b"still fine")).base_offset == 0


async def _topics(cluster: Cluster) -> None:
    await cluster.add_topic("events")
    await cluster.add_topic("__consumer_offsets")
    await cluster.add_topic("elsewhere", owner=5, epoch=3)
    cluster.image.brokers[5] = BrokerImage(5, "b", {"PLAINTEXT": ("other", 19092)}, 2)


async def test_produce__sends_clients_to_the_leader() -> None:
    """KIP-951."""
    cluster = make_cluster()
    await _topics(cluster)
    async with serving(cluster) as running:
        client = await running.connect()
        response = await client.ask(produce_request("elsewhere", [(0, batch(b"v"))]), 10, ProduceResponse)
        leader = response.responses[0].partition_responses[0].current_leader
        assert (leader.leader_id, leader.leader_epoch) == (5, 3)
        assert [(node.node_id, node.host, node.port) for node in response.node_endpoints] == [(5, "other", 19092)]


async def test_produce__unknown_topic_id_has_its_own_error() -> None:
    async with serving(make_cluster()) as running:
        client = await running.connect()
        partitions = [PartitionProduceData(records=batch(b"v"))]
        request = ProduceRequest(acks=-1, topic_data=[TopicProduceData(topic_id=b"?" * 16, partition_data=partitions)])
        assert (await ask(client, request, 13)).error_code == ErrorCode.UNKNOWN_TOPIC_ID


async def test_produce__a_partition_named_twice_is_appended_to_and_answered_once() -> None:
    cluster = make_cluster()
    await cluster.add_topic("events", 2)
    async with serving(cluster) as running:
        client = await running.connect()
        request = produce_request("events", [(0, batch(b"1", b"2")), (1, batch(b"x")), (0, batch(b"3"))])
        response = await client.ask(request, 9, ProduceResponse)
        results = response.responses[0].partition_responses
        assert [(one.index, one.error_code, one.base_offset) for one in results] == [(0, 0, 0), (1, 0, 0)]
        assert (await produce(client, "events", b"next")).base_offset == 1


def test_without_repeated__keeps_the_place_of_the_first_and_the_payload_of_the_last() -> None:
    a, b, c = (memoryview(text) for text in (b"a", b"b", b"c"))
    topics: list[Any] = [("t", None, [(0, a), (1, b)]), ("u", None, [(0, a)]), ("t", None, [(0, c)])]
    assert without_repeated(topics) == [("t", None, [(0, c), (1, b)]), ("u", None, [(0, a)])]


async def test_produce__times_out_while_storage_is_stuck_and_keeps_the_order() -> None:
    cluster = make_cluster()
    await cluster.add_topic("events")
    async with serving(cluster) as running:
        client = await running.connect()
        await produce(client, "events", b"opens the partition")
        cluster.storage.held = True
        slow = client.send(produce_request("events", [(0, batch(b"slow"))], timeout_ms=1), 9)
        patient = client.send(produce_request("events", [(0, batch(b"patient"))]), 9)
        memory = running.server.request_memory.budget
        await eventually(lambda: len(cluster.storage.in_flight) == 2)
        both_frames = memory.used_bytes
        answered, payload = await client.receive()
        assert answered == slow
        response = decode_response(ProduceResponse, 9, payload)
        assert response.responses[0].partition_responses[0].error_code == ErrorCode.REQUEST_TIMED_OUT
        assert memory.used_bytes == both_frames > 0, "storage still works with both frames"
        cluster.storage.settle()
        answered, payload = await client.receive()
        assert answered == patient
        assert decode_response(ProduceResponse, 9, payload).responses[0].partition_responses[0].base_offset == 2
        assert memory.used_bytes == 0
        assert not len(cluster.broker.deadlines)


async def test_produce__a_failed_flush_gives_a_retriable_error_and_the_offsets_back() -> None:
    cluster = make_cluster()
    await cluster.add_topic("events")
    async with serving(cluster) as running:
        client = await running.connect()
        await produce(client, "events", b"opens the partition")
        cluster.storage.held = True
        for value in (b"1", b"2"):
            client.send(produce_request("events", [(0, batch(value))]), 9)
        await eventually(lambda: sum(len(flight.batches) for flight in cluster.storage.in_flight) == 2)
        cluster.storage.fail(Unavailable("the disk is away"))
        for _ in range(2):
            _, payload = await client.receive()
            code = decode_response(ProduceResponse, 9, payload).responses[0].partition_responses[0].error_code
            assert any(one == code and one.retriable for one in ErrorCode)
        cluster.storage.held = False
        assert (await produce(client, "events", b"again")).base_offset == 1


async def test_produce__counts_its_memory_until_storage_is_done() -> None:
    cluster = make_cluster()
    await cluster.add_topic("events")
    async with serving(cluster) as running:
        client = await running.connect()
        await produce(client, "events", b"opens the partition")
        memory = running.server.request_memory.budget
        assert memory.used_bytes == 0
        cluster.storage.held = True
        client.send(produce_request("events", [(0, batch(b"x" * 10_000))]), 9)
        await eventually(lambda: cluster.storage.in_flight)
        assert memory.used_bytes > 10_000
        cluster.storage.settle()
        await client.receive()
        assert memory.used_bytes == 0


async def first_batches(client: Client, *sequences: int) -> list[int]:
    """What one idempotent producer is answered for its batches of one record."""
    answers = []
    for sequence in sequences:
        payload = batch(b"%d" % sequence, producer_id=7, producer_epoch=0, base_sequence=sequence)
        answers.append((await ask(client, produce_request("events", [(0, payload)]), 9)).error_code)
    return answers


async def test_produce__a_producers_beginning_that_met_a_closed_partition_is_waited_for() -> None:
    """Its second batch may be on the wire behind it; taken as the beginning, it would shut out the first for ever."""
    cluster = make_cluster()
    await cluster.add_topic("events")
    async with serving(cluster) as running:
        client = await running.connect()
        cluster.storage.open_error = Unavailable("not now")
        assert await first_batches(client, 0) == [ErrorCode.KAFKA_STORAGE_ERROR]
        cluster.storage.open_error = None
        assert await first_batches(client, 1, 0, 1) == [ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, 0, 0]


async def test_produce__a_producers_beginning_that_came_before_ownership_is_waited_for() -> None:
    cluster = make_cluster()
    topic = await cluster.add_topic("events", owner=1)
    async with serving(cluster) as running:
        client = await running.connect()
        assert await first_batches(client, 0) == [ErrorCode.NOT_LEADER_OR_FOLLOWER]
        await cluster.broker.partitions.own(
            PartitionId(topic.topic_id, 0), "events", 1, cluster.config.topic_config({})
        )
        assert await first_batches(client, 1, 0, 1) == [ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, 0, 0]


async def test_produce__to_partitions_that_are_not_there_takes_work_in_proportion_to_their_number() -> None:
    """A few bytes name each: 60,000 of them kept everybody else waiting for minutes."""
    async with serving(make_cluster()) as running:
        client = await running.connect()
        partitions = [PartitionProduceData(index=index, records=b"") for index in range(60_000)]
        request = ProduceRequest(
            acks=1, timeout_ms=60_000, topic_data=[TopicProduceData(name="t", partition_data=partitions)]
        )
        async with asyncio.timeout(60):
            response = await client.ask(request, 9, ProduceResponse)
        codes = {one.error_code for one in response.responses[0].partition_responses}
        assert codes == {ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
