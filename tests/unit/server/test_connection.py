"""Connections over real sockets: order, pipelining, hostile bytes, slow readers, limits."""

import asyncio
import socket
from struct import pack
from types import SimpleNamespace
from unittest.mock import AsyncMock

import pytest

from bytemq.broker.dispatch import Dispatcher
from bytemq.broker.exchange import Exchange
from bytemq.broker.limits import ServerLimits
from bytemq.broker.server import CannotListen, Listener, Server, _set_options
from bytemq.protocol.codec import encode
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse
from bytemq.protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from bytemq.protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from bytemq.protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from bytemq.protocol.messages.metadata import MetadataRequest, MetadataResponse
from bytemq.protocol.messages.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from bytemq.protocol.messages.produce import ProduceResponse
from bytemq.protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment
from tests.unit.server.harness import (
    AdjustableClock,
    batch,
    decode_response,
    eventually,
    frame,
    make_cluster,
    produce,
    produce_request,
    serving,
)

API_VERSIONS_KEY = 18


async def test_connection__answers_produce_in_order_and_together() -> None:
    cluster = make_cluster()
    await cluster.add_topic("events")
    async with serving(cluster) as running:
        client = await running.connect()
        await produce(client, "events", b"opens the partition")
        cluster.storage.held = True
        sent = [client.send(produce_request("events", [(0, batch(b"%d" % n))]), 9) for n in range(20)]
        await eventually(lambda: sum(len(flight.batches) for flight in cluster.storage.in_flight) == 20)
        cluster.storage.settle()
        for correlation_id in sent:
            answered, payload = await client.receive()
            assert answered == correlation_id
            assert decode_response(ProduceResponse, 9, payload).responses[0].partition_responses[0].error_code == 0


async def test_connection__looks_at_partitions_in_a_row_wait_together_and_are_answered_in_order() -> None:
    """librdkafka asks for the end of an epoch by a request for each partition that has moved; each opens its own."""
    cluster = make_cluster()
    await cluster.add_topic("events", 20)
    may_open = asyncio.Semaphore(0)
    opening: list[int] = []

    async def wait() -> None:
        opening.append(len(opening))
        await may_open.acquire()

    cluster.storage.wait = wait  # type: ignore[method-assign]
    async with serving(cluster) as running:
        client = await running.connect()
        asked = [
            OffsetForLeaderTopic(topic="events", partitions=[OffsetForLeaderPartition(partition=n, leader_epoch=0)])
            for n in range(20)
        ]
        sent = [client.send(OffsetForLeaderEpochRequest(topics=[one]), 4) for one in asked]
        behind = client.send(ApiVersionsRequest(), 0)
        await eventually(lambda: len(opening) == 20)
        for _ in opening:
            may_open.release()
        for number, correlation_id in enumerate(sent):
            answered, payload = await client.receive()
            assert answered == correlation_id
            end = decode_response(OffsetForLeaderEpochResponse, 4, payload).topics[0].partitions[0]
            assert (end.partition, end.error_code) == (number, 0)
        assert (await client.receive())[0] == behind


async def test_connection__other_requests_wait_for_all_before_them() -> None:
    cluster = make_cluster()
    await cluster.add_topic("events")
    async with serving(cluster) as running:
        client = await running.connect()
        await produce(client, "events", b"opens the partition")
        cluster.storage.held = True
        first = client.send(produce_request("events", [(0, batch(b"1"))]), 9)
        second = client.send(ApiVersionsRequest(), 0)
        third = client.send(produce_request("events", [(0, batch(b"2"))]), 9)
        await eventually(lambda: len(cluster.storage.in_flight) == 1)
        await asyncio.sleep(0.01)
        assert len(cluster.storage.in_flight) == 1, "a produce behind another request must wait for its answer"
        cluster.storage.held = False
        cluster.storage.settle()
        assert [(await client.receive())[0] for _ in range(3)] == [first, second, third]


async def test_connection__a_question_behind_a_produce_sees_what_it_wrote() -> None:
    cluster = make_cluster()
    await cluster.add_topic("events")
    async with serving(cluster) as running:
        client = await running.connect()
        await produce(client, "events", b"opens the partition")
        cluster.storage.held = True
        client.send(produce_request("events", [(0, batch(b"1", b"2"))]), 9)
        latest = ListOffsetsPartition(timestamp=-1)
        topics = [ListOffsetsTopic(name="events", partitions=[latest])]
        client.send(ListOffsetsRequest(replica_id=-1, topics=topics), 7)
        await eventually(lambda: cluster.storage.in_flight)
        await asyncio.sleep(0.01)
        cluster.storage.settle()
        await client.receive()
        _, payload = await client.receive()
        assert decode_response(ListOffsetsResponse, 7, payload).topics[0].partitions[0].offset == 3


async def test_connection__thousands_of_small_requests_in_one_write_are_all_answered() -> None:
    async with serving(make_cluster()) as running:
        client = await running.connect()
        sent = [client.send(ApiVersionsRequest(), 0) for _ in range(3000)]
        for correlation_id in sent:
            assert (await client.receive())[0] == correlation_id


async def test_connection__a_byte_at_a_time_is_a_request_too() -> None:
    async with serving(make_cluster()) as running:
        client = await running.connect()
        client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in frame(API_VERSIONS_KEY, 0, 5, b""):
            client.writer.write(bytes([byte]))
            await client.writer.drain()
        assert (await client.receive())[0] == 5


async def test_connection__an_unknown_api_versions_version_is_answered_in_the_oldest_form() -> None:
    async with serving(make_cluster()) as running:
        client = await running.connect()
        client.send_raw(API_VERSIONS_KEY, 99, b"from the future")
        _, payload = await client.receive()
        response = decode_response(ApiVersionsResponse, 0, payload)
        assert response.error_code == ErrorCode.UNSUPPORTED_VERSION
        assert [(api.api_key, api.min_version, api.max_version) for api in response.api_keys] == [(18, 0, 5)]
        again = await client.ask(ApiVersionsRequest(), 0, ApiVersionsResponse)
        assert again.error_code == 0


@pytest.mark.parametrize(
    "hostile",
    [
        pack(">i", -1),
        pack(">i", 2**31 - 1),
        b"GET / HTTP/1.1\r\n\r\n",
        pack(">i", 0),
        pack(">i", 3) + b"abc",
        frame(999, 0, 1, b""),
        frame(-5, -5, 1, b""),
        frame(3, 99, 1, b""),
        frame(0, 2, 1, b"produce before v3"),
        frame(0, 9, 1, b"\xff" * 1000),
        frame(1, 12, 1, b"\x00" * 5),
        frame(3, 12, 1, b"\xff\xff\xff\xff\x0f"),
        frame(19, 5, 1, b"\x7f\xff\xff\xff"),
        pack(">i", 12) + pack(">hhih", 18, 0, 1, 32767) + b"no",
    ],
)
async def test_connection__hostile_bytes_close_it_and_harm_nobody(hostile: bytes) -> None:
    async with serving(make_cluster()) as running:
        neighbour = await running.connect()
        client = await running.connect()
        client.writer.write(hostile)
        assert await client.closed()
        assert (await neighbour.ask(ApiVersionsRequest(), 0, ApiVersionsResponse)).error_code == 0
        await eventually(lambda: running.server.connection_count == 1)
        assert running.server.request_memory.budget.used_bytes == 0


async def test_connection__trailing_bytes_and_odd_client_ids_are_accepted() -> None:
    async with serving(make_cluster()) as running:
        client = await running.connect()
        payload = pack(">hhih", 18, 0, 7, -2) + b"trailing"
        client.writer.write(pack(">i", len(payload)) + payload)
        assert (await client.receive())[0] == 7


async def test_connection__a_large_request_is_received_and_its_memory_given_back() -> None:
    cluster = make_cluster(message_max_bytes=str(8 * 1024 * 1024))
    await cluster.add_topic("events")
    async with serving(cluster) as running:
        client = await running.connect()
        for _ in range(3):
            assert (await produce(client, "events", b"x" * 3_000_000)).error_code == 0
        memory = running.server.request_memory
        await eventually(lambda: memory.budget.used_bytes == 0)


async def test_connection__a_client_that_goes_away_leaves_nothing_behind() -> None:
    cluster = make_cluster()
    await cluster.add_topic("events")
    async with serving(cluster) as running:
        client = await running.connect()
        await produce(client, "events", b"opens the partition")
        cluster.storage.held = True
        client.send(produce_request("events", [(0, batch(b"1"))]), 9)
        await eventually(lambda: cluster.storage.in_flight)
        client.writer.transport.abort()
        await eventually(lambda: running.server.connection_count == 0)
        assert running.server.request_memory.budget.used_bytes > 0, "storage still works with the frame"
        cluster.storage.settle()
        assert running.server.request_memory.budget.used_bytes == 0


async def test_connection__one_that_does_not_read_stops_being_served() -> None:
    cluster = make_cluster()
    await cluster.add_topic("events")
    async with serving(cluster) as running:
        writer = await running.connect()
        await produce(writer, "events", b"x" * 900_000)
        reader = await running.connect()
        topics = [FetchTopic(topic="events", partitions=[FetchPartition(partition_max_bytes=2**31 - 1)])]
        request = FetchRequest(max_wait_ms=100, max_bytes=2**31 - 1, topics=topics)
        body = bytes(encode(request, 4))
        for _ in range(200):
            reader.send_raw(1, 4, body)
        memory = running.server.response_memory
        await eventually(lambda: memory.used_bytes > 0)
        for _ in range(50):
            assert (await writer.ask(ApiVersionsRequest(), 0, ApiVersionsResponse)).error_code == 0
        assert memory.used_bytes < 3_000_000
        for _ in range(200):
            await reader.receive()
        await eventually(lambda: memory.used_bytes == 0)


async def test_connection__gives_way_after_a_request_that_took_long() -> None:
    assert await _turns_for_five_requests(0.0, limit_s=1000) == 1  # five small ones in one write, on a busy machine too
    assert await _turns_for_five_requests(0.003, limit_s=0.002) == 5


async def _turns_for_five_requests(each_takes_s: float, *, limit_s: float) -> int:
    clock = AdjustableClock()
    started_in: list[int] = []
    turn = 0
    dispatch = Dispatcher.dispatch

    def next_turn() -> None:
        nonlocal turn
        turn += 1
        if len(started_in) < 5:
            asyncio.get_running_loop().call_soon(next_turn)

    def slow(dispatcher: Dispatcher, exchange: Exchange) -> None:
        started_in.append(turn)
        clock.ahead_s += each_takes_s
        dispatch(dispatcher, exchange)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dispatcher, "dispatch", slow)
        patch.setattr("bytemq.broker.connection.TURN_S", limit_s)
        async with serving(make_cluster(clock)) as running:
            client = await running.connect()
            next_turn()
            client.writer.write(b"".join(frame(API_VERSIONS_KEY, 0, number, b"") for number in range(5)))
            for number in range(5):
                assert (await client.receive())[0] == number
    return len(set(started_in))


async def test_server__closes_what_exceeds_the_connection_limits() -> None:
    async with serving(make_cluster(), ServerLimits(max_connections_per_ip=1)) as running:
        first = await running.connect()
        await first.ask(ApiVersionsRequest(), 0, ApiVersionsResponse)
        assert await (await running.connect()).closed()
        assert (await first.ask(ApiVersionsRequest(), 0, ApiVersionsResponse)).error_code == 0


@pytest.mark.skipif(not hasattr(socket, "TCP_CONGESTION"), reason="Linux chooses a congestion control by connection")
async def test_server__does_not_pace_what_stays_within_the_machine() -> None:
    async with serving(make_cluster()) as running:
        client = await running.connect()
        await client.ask(ApiVersionsRequest(), 0, ApiVersionsResponse)
        [accepted] = [one._transport.get_extra_info("socket") for one in running.server._connections]
        assert congestion_control(accepted) == b"reno"
    with socket.socket() as other:
        before = congestion_control(other)
        _set_options(other, ServerLimits(), is_local=False)
        assert congestion_control(other) == before


def congestion_control(of: socket.socket) -> bytes:
    return of.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


async def test_server__closes_idle_connections() -> None:
    async with serving(make_cluster(), ServerLimits(connections_max_idle_s=60)) as running:
        client = await running.connect()
        await client.ask(ApiVersionsRequest(), 0, ApiVersionsResponse)
        for connection in running.server._connections:
            connection.active_at -= 61
        running.server._sweep()
        assert await client.closed()


async def test_server__closes_who_holds_memory_without_progress_while_others_wait() -> None:
    limits = ServerLimits(request_memory_bytes=256 * 1024)
    clock = AdjustableClock()
    async with serving(make_cluster(clock), limits) as running:
        stalled = [await running.connect() for _ in range(3)]
        for client in stalled:
            client.writer.write(pack(">i", 50 * 1024 * 1024) + bytes(100_000))
        server = running.server
        await eventually(lambda: server.request_memory.anyone_waits)
        for _ in range(3):
            server._sweep()
            clock.ahead_s += 6
        await eventually(lambda: server.connection_count == 2)
        assert not server.request_memory.anyone_waits, "the others got the memory that it held"
        for _ in range(3):
            server._sweep()
            clock.ahead_s += 6
        await asyncio.sleep(0.01)
        assert server.connection_count == 2, "who holds memory that nobody waits for may take its time"


async def test_server__says_what_is_wrong_with_an_address() -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        host, port = running.address
        second = Server(make_cluster().broker, ServerLimits())
        with pytest.raises(
            CannotListen, match=rf"address {host}:{port} is already in use .* choose another with --listen"
        ):
            await second.start([Listener("PLAINTEXT", host, port)])
        with pytest.raises(CannotListen, match="host name is not known"):
            await second.start([Listener("PLAINTEXT", "no-such-host.invalid", 0)])


async def test_server__advertises_the_address_of_the_listener_that_the_client_came_through() -> None:
    for listener, expected in (("PLAINTEXT", ("inside", 9092)), ("OUTSIDE", ("outside", 9093))):
        async with serving(make_cluster(), listener=listener) as running:
            client = await running.connect()
            response = await client.ask(MetadataRequest(topics=[]), 12, MetadataResponse)
            assert [(node.host, node.port) for node in response.brokers] == [expected]


async def test_server__stops_after_answering_what_is_in_work() -> None:
    cluster = make_cluster()
    await cluster.add_topic("events")
    async with serving(cluster) as running:
        client = await running.connect()
        await produce(client, "events", b"opens the partition")
        cluster.storage.held = True
        client.send(produce_request("events", [(0, batch(b"1"))]), 9)
        await eventually(lambda: cluster.storage.in_flight)
        stopping = asyncio.ensure_future(running.server.stop(5))
        await asyncio.sleep(0.02)
        cluster.storage.settle()
        await client.receive()
        await stopping
        assert await client.closed()


async def test_server__does_not_wait_for_members_that_wait_for_each_other() -> None:
    cluster = make_cluster()
    parked: list[object] = []
    cluster.broker.groups.awaited_shard_of = AsyncMock(return_value=SimpleNamespace(run=parked.append))  # type: ignore
    async with serving(cluster) as running:
        client = await running.connect()
        client.send(JoinGroupRequest(group_id="group", session_timeout_ms=45_000), 5)
        await eventually(lambda: parked)
        async with asyncio.timeout(30):
            await running.server.stop(3600)
        assert await client.closed()


@pytest.mark.parametrize("parking", ["join", "sync"])
async def test_server__gives_back_the_memory_of_requests_that_wait_for_other_members(parking: str) -> None:
    """A group whose members say megabytes of themselves, and wait for one that does not come, would take it all."""
    cluster = make_cluster()
    parked: list[object] = []
    shard = SimpleNamespace(run=parked.append)
    groups = cluster.broker.groups
    groups.awaited_shard_of = groups.awaited_shard_of_named = AsyncMock(return_value=shard)  # type: ignore
    megabyte = memoryview(bytes(1_000_000))
    joining = JoinGroupRequest("group", 45_000, protocols=[JoinGroupRequestProtocol("range", megabyte)])
    syncing = SyncGroupRequest("group", 1, "member", assignments=[SyncGroupRequestAssignment("member", megabyte)])
    async with serving(cluster) as running:
        client = await running.connect()
        client.send(joining if parking == "join" else syncing, 3)
        await eventually(lambda: parked)
        await eventually(lambda: running.server.request_memory.budget.used_bytes == 0)
        assert running.server.request_memory.budget.peak_bytes > 1_000_000
        pool = running.server.request_memory.pool
        kept_bytes = pool.kept_bytes
        pool.take(1_000_000)
        assert pool.kept_bytes < kept_bytes, "nothing shows it any more: it serves the next one"
