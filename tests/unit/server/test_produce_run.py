"""Plain Produce requests take the short way, and nobody can tell by anything but the time it takes."""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from types import ModuleType
from typing import Any, cast

import pytest

from bytemq.broker import connection
from bytemq.broker.connection import Connection
from bytemq.broker.context import ClientInfo
from bytemq.broker.dispatch import Dispatcher
from bytemq.broker.frame_reader import FrameReader
from bytemq.broker.limits import MAX_PIPELINED_REQUESTS, ServerLimits
from bytemq.broker.log.batch_opener import BatchOpener
from bytemq.broker.produce_run import ProduceRun, ProduceShare
from bytemq.broker.server import Server
from bytemq.errors import Fenced, Unavailable
from bytemq.protocol import plain_produce
from bytemq.protocol.codec import encode
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.api_versions import ApiVersionsRequest
from bytemq.protocol.messages.produce import ProduceRequest, ProduceResponse
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.protocol.records.compression import Compression
from bytemq.runtime.clock import SystemClock
from bytemq.runtime.deadlines import INTERVAL_S
from bytemq.types import PartitionId
from tests.unit.log.harness import HeldExecutor
from tests.unit.records.native import native_part
from tests.unit.server.harness import AdjustableClock, Cluster, decode_response, frame, make_cluster, produce_request

NATIVE = native_part("produced")
STEPS = ("take", "whole")
NOW_MS = SystemClock().wall_ms()
VERSIONS = range(3, 13)

needs_native = pytest.mark.skipif(NATIVE is None, reason="no compiler here: no runs")


def take_short_way(patch: pytest.MonkeyPatch, native: ModuleType | None) -> None:
    for name in STEPS:
        patch.setattr(plain_produce, name, getattr(native, name) if native else lambda *_: None)


@pytest.fixture(autouse=True)
def short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    take_short_way(monkeypatch, NATIVE)


class Wire:
    """One connection without a socket: what is sent, and what came back."""

    def __init__(self, cluster: Cluster, server: Server | None = None) -> None:
        self.cluster = cluster
        self.server = server or Server(cluster.broker, ServerLimits())
        self.received = bytearray()
        self.closed = False
        self.paused = False
        self._unsent = b""
        self._correlation_id = 0
        self.connection = Connection(self.server, asyncio.get_running_loop(), ClientInfo("", "PLAINTEXT", "", 0))
        self.connection.connection_made(cast(asyncio.BaseTransport, self))

    def request(self, request: Any, version: int) -> bytes:
        self._correlation_id += 1
        return frame(type(request).API_KEY, version, self._correlation_id, bytes(encode(request, version)))

    async def send(self, data: bytes) -> None:
        self._unsent += data
        await self.idle()

    async def idle(self) -> None:
        for _ in range(20):
            while self._unsent:
                if not self.receive(self._unsent):
                    break
            await asyncio.sleep(0)

    def receive(self, data: bytes) -> int:
        """As one read of the transport; what is not taken is sent later. Returns how much was."""
        if self.paused or self.closed:
            self._unsent = data
            return 0
        into = self.connection.get_buffer(-1)
        count = min(len(into), len(data))
        into[:count] = data[:count]
        self._unsent = data[count:]
        self.connection.buffer_updated(count)
        return count

    @property
    def memory_bytes(self) -> int:
        return self.server.request_memory.budget.used_bytes

    def answers(self, version: int) -> list[Any]:
        """The partition of each answer."""
        found, position = [], 0
        while position < len(self.received):
            end = position + 4 + int.from_bytes(self.received[position : position + 4], "big")
            response = decode_response(ProduceResponse, version, bytes(self.received[position + 8 : end]))
            found.append(response.responses[0].partition_responses[0])
            position = end
        return found

    # As a transport.

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        assert high > low

    def get_extra_info(self, name: str) -> None:
        return None

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def write(self, data: bytes) -> None:
        self.received += data

    def writelines(self, parts: Sequence[bytes]) -> None:
        self.received += b"".join(parts)

    def abort(self) -> None:
        self.closed = True


async def make_wire(clock: SystemClock | None = None) -> Wire:
    """`events` and `others` are open; `compacted` asks for keys; `untouched` is not open."""
    cluster = make_cluster(clock)
    cluster.storage.held = True
    services = cluster.broker.partitions.services
    services.opener = BatchOpener(HeldExecutor(), services.opener.memory)  # not when a thread comes to it
    for name in ("events", "others", "compacted", "untouched"):
        topic = await cluster.add_topic(name, 2)
        for index in range(2):
            if name == "compacted":
                config = cluster.config.topic_config({"cleanup.policy": "compact"})
                cluster.broker.partitions.reconfigure(PartitionId(topic.topic_id, index), config)
            if name != "untouched":
                await cluster.broker.partitions.open(name, index)
    return Wire(cluster)


def batch(count: int = 1, **options: Any) -> bytes:
    options.setdefault("timestamp_ms", NOW_MS)
    return bytes(build_batch([Record(b"key", b"%d" % number) for number in range(count)], **options))


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which way each request went: `run` or `general`, in order; however long a request takes on this machine."""
    monkeypatch.setattr(connection, "TURN_S", float("inf"))
    taken: list[str] = []
    start, dispatch = ProduceShare.start, Dispatcher.dispatch

    def starting(share: ProduceShare, position: int) -> bool:
        is_taken = start(share, position)
        taken.extend(["run"] * share.request_count)
        return is_taken

    def dispatching(dispatcher: Dispatcher, exchange: Any) -> None:
        taken.append("general")
        dispatch(dispatcher, exchange)

    monkeypatch.setattr(ProduceShare, "start", starting)
    monkeypatch.setattr(Dispatcher, "dispatch", dispatching)
    return taken


@needs_native
async def test_produce_run__takes_what_is_plain_and_leaves_the_rest_in_its_place(ways: list[str]) -> None:
    wire = await make_wire()
    sent = [("events", batch(2)), ("events", batch(3)), ("compacted", batch()), ("events", batch())]
    await wire.send(b"".join(wire.request(produce_request(topic, [(0, records)]), 9) for topic, records in sent))
    assert ways == ["run", "run", "general", "general"]
    ways.clear()
    await wire.send(wire.request(produce_request("events", [(0, batch())]), 9))
    assert ways == ["run"]
    wire.cluster.storage.settle()
    await wire.idle()
    assert [one.base_offset for one in wire.answers(9)] == [0, 2, 0, 5, 6]
    assert wire.memory_bytes == 0


@needs_native
@pytest.mark.parametrize(
    "unusual",
    [
        pytest.param({"topic": "unknown"}, id="unknown topic"),
        pytest.param({"topic": "untouched"}, id="not opened yet"),
        pytest.param({"index": 2}, id="unknown partition"),
        pytest.param({"records": batch(timestamp_ms=NOW_MS + 10**9)}, id="from the future"),
        pytest.param({"records": batch(producer_id=1, producer_epoch=0, base_sequence=5)}, id="out of order"),
        pytest.param({"records": batch(producer_id=1, producer_epoch=0, base_sequence=0)}, id="again"),
        pytest.param({"records": batch()[:-1] + b"?"}, id="damaged"),
        pytest.param({"records": None}, id="no records"),
    ],
)
async def test_produce_run__leaves_alone_what_is_not_to_be_appended_as_it_is(
    ways: list[str], unusual: dict[str, Any]
) -> None:
    wire = await make_wire()
    first = batch(producer_id=1, producer_epoch=0, base_sequence=0)
    await wire.send(wire.request(produce_request("events", [(0, first)]), 9))
    assert ways.pop() == "run"
    topic, records = unusual.get("topic", "events"), unusual.get("records", first)
    await wire.send(wire.request(produce_request(topic, [(unusual.get("index", 0), records)]), 9))
    assert ways == ["general"]


async def test_produce_run__is_answered_in_order_with_what_is_around_it() -> None:
    wire = await make_wire()
    produce = wire.request(produce_request("events", [(0, batch())]), 9)
    ask = wire.request(ApiVersionsRequest(), 0)
    other = wire.request(produce_request("events", [(1, batch())]), 9)
    await wire.send(produce * 2 + other + ask + produce * 2)
    assert len(wire.cluster.storage.in_flight) == (3 if NATIVE is None else 2), "batches of a partition are one append"
    wire.cluster.storage.settle(1)
    await wire.idle()
    assert not wire.received or NATIVE is None, "a run is answered as a whole"
    wire.cluster.storage.settle()
    await wire.idle()
    wire.cluster.storage.settle()
    await wire.idle()
    ids, position = [], 0
    while position < len(wire.received):
        ids.append(int.from_bytes(wire.received[position + 4 : position + 8], "big"))
        position += 4 + int.from_bytes(wire.received[position : position + 4], "big")
    assert ids == [1, 1, 3, 2, 1, 1]


@pytest.mark.parametrize("error", [Unavailable("gone"), Fenced("ended")])
@pytest.mark.parametrize("version", [9, 12])
async def test_produce_run__a_failure_of_storage_is_told_each_request(error: Exception, version: int) -> None:
    wire = await make_wire()
    first = batch(producer_id=1, producer_epoch=0, base_sequence=0)
    row = [wire.request(produce_request("events", [(0, records)]), version) for records in (first, batch(2))]
    await wire.send(b"".join(row))
    wire.cluster.storage.fail(error)  # type: ignore[arg-type]
    await wire.idle()
    expected = ErrorCode.KAFKA_STORAGE_ERROR if isinstance(error, Unavailable) else ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert [one.error_code for one in wire.answers(version)] == [expected] * 2
    assert wire.memory_bytes == 0


@needs_native
async def test_produce_run__a_first_batch_that_failed_must_come_again_before_its_successors(ways: list[str]) -> None:
    wire = await make_wire()
    beginning, next_one = (batch(producer_id=1, producer_epoch=0, base_sequence=number) for number in range(2))
    await wire.send(wire.request(produce_request("events", [(0, beginning)]), 9))
    wire.cluster.storage.fail()
    await wire.send(wire.request(produce_request("events", [(0, next_one)]), 9))
    assert ways == ["run", "general"]
    await wire.idle()
    codes = [one.error_code for one in wire.answers(9)]
    assert codes == [ErrorCode.KAFKA_STORAGE_ERROR, ErrorCode.KAFKA_STORAGE_ERROR], (
        "no gap: it may be on the wire behind it"
    )


async def test_produce_run__what_failed_with_the_ownership_is_remembered_by_the_next_owner() -> None:
    wire = await make_wire()
    beginning, next_one = (batch(producer_id=1, producer_epoch=0, base_sequence=number) for number in range(2))
    await wire.send(wire.request(produce_request("events", [(0, beginning)]), 9))
    wire.cluster.storage.fail(Fenced("ended"))
    topic = wire.cluster.image.topics["events"]
    config = wire.cluster.config.topic_config({})
    await wire.cluster.broker.partitions.own(PartitionId(topic.topic_id, 0), "events", 1, config)
    wire.cluster.storage.held = False
    for records in (next_one, beginning):
        await wire.send(wire.request(produce_request("events", [(0, records)]), 9))
    codes = [ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, ErrorCode.NONE]
    assert [one.error_code for one in wire.answers(9)] == codes


async def test_produce_run__does_not_overtake_what_is_being_converted() -> None:
    wire = await make_wire()
    executor = HeldExecutor()
    executor.holding = True
    services = wire.cluster.broker.partitions.services
    services.opener = BatchOpener(executor, services.opener.memory)
    pid = PartitionId(wire.cluster.image.topics["events"].topic_id, 0)
    request = wire.request(produce_request("events", [(0, batch(2, compression=Compression.LZ4))]), 9)
    for changes in ({"cleanup.policy": "compact"}, {}):
        wire.cluster.broker.partitions.reconfigure(pid, wire.cluster.config.topic_config(changes))
        await wire.send(request)
    executor.run(0)
    await wire.idle()
    wire.cluster.storage.settle()
    await wire.idle()
    assert [one.base_offset for one in wire.answers(9)] == [0, 2]


async def test_produce_run__time_is_over_for_those_that_are_not_durable() -> None:
    clock = AdjustableClock()
    wire = await make_wire(clock)
    requests = [wire.request(produce_request("events", [(n, batch())], timeout_ms=1000), 9) for n in (0, 1, 1)]
    await wire.send(b"".join(requests))
    wire.cluster.storage.settle(1)
    clock.ahead_s = 2.0
    await asyncio.sleep(2 * INTERVAL_S)
    timed_out = ErrorCode.REQUEST_TIMED_OUT
    assert [one.error_code for one in wire.answers(9)] == [0, timed_out, timed_out]
    assert wire.memory_bytes > 0, "storage still reads from it"
    wire.cluster.storage.settle()
    await wire.idle()
    assert len(wire.answers(9)) == 3
    assert wire.memory_bytes == 0
    assert len(wire.cluster.broker.deadlines) == 0


async def test_produce_run__without_acks_nothing_is_answered_and_a_failure_closes() -> None:
    wire = await make_wire()
    request = wire.request(produce_request("events", [(0, batch())], acks=0), 9)
    await wire.send(request * 2)
    wire.cluster.storage.settle()
    await wire.send(request)
    assert not wire.received and not wire.closed
    wire.cluster.storage.fail()
    assert wire.closed
    assert wire.memory_bytes == 0


async def test_produce_run__a_connection_that_ends_leaves_no_memory_behind() -> None:
    wire = await make_wire()
    await wire.send(wire.request(produce_request("events", [(0, batch())]), 9) * 3)
    wire.closed = True
    wire.connection.connection_lost(None)
    assert wire.memory_bytes > 0, "storage still reads from it"
    wire.cluster.storage.settle()
    assert wire.memory_bytes == 0
    assert not wire.received


async def test_produce_run__no_more_requests_are_in_work_than_of_any_kind() -> None:
    wire = await make_wire()
    request = wire.request(produce_request("events", [(0, batch())]), 9)
    await wire.send(request * (2 * MAX_PIPELINED_REQUESTS + 50))
    for expected in (MAX_PIPELINED_REQUESTS, MAX_PIPELINED_REQUESTS, 50):
        await wire.idle()
        assert sum(len(flight.batches) for flight in wire.cluster.storage.in_flight) == expected
        wire.cluster.storage.settle()
    await wire.idle()
    assert len(wire.answers(9)) == 2 * MAX_PIPELINED_REQUESTS + 50


async def test_produce_run__its_requests_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for native in (NATIVE, None):
        take_short_way(monkeypatch, native)
        wire = await make_wire()
        await wire.send(wire.request(produce_request("events", [(0, batch())]), 9) * 5)
        wire.cluster.storage.settle()
        await wire.idle()
        broker = wire.cluster.broker
        traffic = (await broker.partitions.open("events", 0)).traffic
        observed = sum(broker.traffic.durations.labels("PRODUCE").counts)
        counts.append((broker.traffic.bytes_in["events"].value, traffic.requests, traffic.bytes_in, observed))
    assert counts[0] == counts[1] == (5 * len(batch()), 5, 5 * len(batch()), 5)


@needs_native
async def test_produce_run__of_many_connections_is_one_and_answers_each(ways: list[str]) -> None:
    first = await make_wire()
    wires = [first, *(Wire(first.cluster, first.server) for _ in range(9))]
    for number, wire in enumerate(wires):
        topic = "unknown" if number == 5 else "events"
        requests = [wire.request(produce_request(topic, [(number % 2, batch())]), 9 + number % 3) for _ in range(2)]
        wire.receive(b"".join(requests))
    assert not ways and not first.cluster.storage.in_flight, "nothing is begun while there is more to receive"
    await first.idle()
    assert ways == ["run"] * 10 + ["general"] * 2 + ["run"] * 8
    assert len(first.cluster.broker.deadlines) == 1
    first.cluster.storage.settle(len(first.cluster.storage.in_flight) - 1)
    assert not any(wire.received for number, wire in enumerate(wires) if number != 5), "a run is answered as a whole"
    first.cluster.storage.settle()
    await first.idle()
    for number, wire in enumerate(wires):
        one = wire.answers(9 + number % 3)
        before = sum(2 for other in range(number) if other % 2 == number % 2 and other != 5)
        assert [answer.base_offset for answer in one] == ([-1, -1] if number == 5 else [before, before + 1])
    assert first.memory_bytes == 0 and not first.cluster.broker.deadlines


@needs_native
async def test_produce_run__a_connection_that_sends_on_is_worked_on_in_its_order(ways: list[str]) -> None:
    wire = await make_wire()
    frames = [wire.request(produce_request("events", [(0, batch(count))]), 9) for count in (1, 2, 3)]
    other = Wire(wire.cluster, wire.server)
    cut = len(frames[1]) // 2
    wire.receive(frames[0] + frames[1][:cut])
    other.receive(frames[0])
    wire.receive(frames[1][cut:] + frames[2])
    await wire.idle()
    assert ways == ["run"] * 4
    wire.cluster.storage.settle()
    await wire.idle()
    assert [one.base_offset for one in wire.answers(9)] == [0, 2, 4]
    assert [one.base_offset for one in other.answers(9)] == [1]


async def test_produce_run__what_comes_in_the_same_turn_does_not_overtake_a_request_that_waits() -> None:
    wire = await make_wire()
    first, second = (wire.request(produce_request("events", [(0, batch(count))]), 9) for count in (1, 2))
    wire.receive(first)
    wire.receive(wire.request(ApiVersionsRequest(), 0))
    wire.receive(wire.request(produce_request("untouched", [(0, batch())]), 9) + second)
    await wire.idle()
    assert len(wire.cluster.storage.in_flight) == 1, "what was asked in between is not answered yet"
    wire.cluster.storage.settle()
    await wire.idle()
    wire.cluster.storage.settle()
    await wire.idle()
    ids, position = [], 0
    while position < len(wire.received):
        ids.append(int.from_bytes(wire.received[position + 4 : position + 8], "big"))
        position += 4 + int.from_bytes(wire.received[position : position + 4], "big")
    assert ids == [1, 3, 4, 2]
    assert wire.memory_bytes == 0


async def test_produce_run__what_was_sent_counts_although_the_client_has_gone() -> None:
    wire = await make_wire()
    wire.receive(wire.request(produce_request("events", [(0, batch())], acks=0), 9))
    wire.closed = not wire.connection.eof_received()
    await wire.idle()
    assert len(wire.cluster.storage.in_flight) == 1


async def test_produce_run__nothing_is_looked_at_behind_what_no_frame_can_be() -> None:
    wire = await make_wire()
    request = wire.request(produce_request("events", [(0, batch())]), 9)
    wire.receive(b"\xff\xff\xff\xff")
    wire.receive(request)
    await wire.idle()
    assert wire.closed and not wire.cluster.storage.in_flight
    wire.connection.connection_lost(None)
    assert wire.memory_bytes == 0


@needs_native
async def test_produce_run__a_fault_of_ours_closes_one_connection_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def proceed(reader: FrameReader) -> None:
        raise RuntimeError("a fault")

    wire = await make_wire()
    other = Wire(wire.cluster, wire.server)
    request = wire.request(produce_request("events", [(0, batch())]), 9)
    wire.receive(request + wire.request(ApiVersionsRequest(), 0) * 2)
    other.receive(request)
    await wire.idle()
    monkeypatch.setattr(FrameReader, "proceed", proceed)
    wire.cluster.storage.settle()
    await other.idle()
    assert wire.closed and len(other.answers(9)) == 1
    wire.connection.connection_lost(None)
    assert wire.memory_bytes == 0


@needs_native
async def test_produce_run__several_partitions_of_a_request_are_appended_all_or_none(ways: list[str]) -> None:
    wire = await make_wire()
    topics = wire.cluster.image.topics
    pids = [PartitionId(topics[name].topic_id, index) for name, index in (("events", 0), ("others", 1))]

    def request(*payloads: tuple[str, int, bytes]) -> bytes:
        built = produce_request("events", [])
        built.topic_data = [
            produce_request(name, [(index, records)]).topic_data[0] for name, index, records in payloads
        ]
        return wire.request(built, 9)

    first = batch(2, producer_id=1, producer_epoch=0, base_sequence=0)
    await wire.send(request(("events", 0, first), ("others", 1, batch())))
    assert ways == ["run"] and len(wire.cluster.storage.in_flight) == 2
    for unusual in (("compacted", 0, batch()), ("others", 1, batch()[:-1] + b"?"), ("untouched", 0, batch())):
        ways.clear()
        second = batch(1, producer_id=1, producer_epoch=0, base_sequence=2)
        await wire.send(request(("events", 0, second), unusual))
        assert ways == ["general"]
        wire.cluster.storage.fail()
        await wire.idle()
        wire.cluster.storage.settle()
        wire.received.clear()
    await wire.send(request(("events", 0, first), ("others", 1, batch())) * 2)
    wire.cluster.storage.settle()
    await wire.idle()
    assert [wire.cluster.storage.disk.logs[pid].end_offset for pid in pids] == [2, 2]
    assert wire.memory_bytes == 0


async def test_produce_run__one_error_of_several_partitions_is_that_of_its_partition() -> None:
    wire = await make_wire()
    built = produce_request("events", [(0, batch()), (1, batch())])
    built.topic_data.append(produce_request("others", [(1, batch())]).topic_data[0])
    await wire.send(wire.request(built, 9))
    wire.cluster.storage.settle(2)
    wire.cluster.storage.fail()
    await wire.idle()
    response = decode_response(ProduceResponse, 9, bytes(wire.received[8:]))
    codes = [[one.error_code for one in topic.partition_responses] for topic in response.responses]
    assert codes == [[0, 0], [ErrorCode.KAFKA_STORAGE_ERROR]]


@needs_native
async def test_produce_run__leaves_no_cycles_for_the_collector() -> None:
    wire = await make_wire()
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            await wire.send(wire.request(produce_request("events", [(0, batch())]), 9) * 3)
            wire.cluster.storage.settle()
            await wire.idle()
        assert len(wire.answers(9)) == 15
        left = [type(one).__name__ for one in gc.get_objects() if isinstance(one, ProduceShare | ProduceRun)]
        assert not left
    finally:
        gc.enable()


# The two ways, side by side.

Step = Callable[[Wire], Any]


class StandingClock(AdjustableClock):
    """Messages that tell the time tell the same, and no turn ends because the machine was busy."""

    def wall_ms(self) -> int:
        return NOW_MS

    def monotonic(self) -> float:
        return 1.0


def script(random: Random) -> list[Step]:
    """What a client sends and what storage does, drawn by chance: mostly plain, and everything else in between."""
    sequences: dict[tuple[str, int, int], int] = {}

    def records(topic: str, index: int) -> bytes | None:
        kind = random.random()
        if kind < 0.45:
            return batch(random.randrange(1, 4))
        if kind < 0.85:
            producer_id = random.randrange(2)
            sequence = sequences.get((topic, index, producer_id), 0)
            chosen = random.choice([sequence] * 8 + [sequence - 1, sequence + 1, 0])
            if chosen == sequence:
                sequences[topic, index, producer_id] = sequence + 1
            options = {"producer_id": producer_id, "producer_epoch": 0, "base_sequence": max(chosen, 0)}
            return batch(1, **options, transactional=random.random() < 0.03)
        damaged = bytearray(batch())
        damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
        return random.choice([None, b"", bytes(damaged), batch() + batch(), batch(timestamp_ms=NOW_MS + 10**9)])

    def request(wire: Wire) -> bytes:
        if random.random() < 0.04:
            return wire.request(ApiVersionsRequest(), 0)
        topic = random.choice(["events"] * 6 + ["others", "compacted", "untouched", "unknown"])
        partitions = [
            (index, records(topic, index)) for index in random.choices(range(2), k=random.choice([1] * 9 + [2]))
        ]
        acks = random.choice([-1] * 100 + [1] * 10 + [0])
        version = random.choice([9] * 6 + [*VERSIONS])
        built: ProduceRequest = produce_request(topic, partitions, acks=acks)
        return wire.request(built, version)

    def step(wire: Wire) -> Any:
        if random.random() < 0.75:
            return wire.send(b"".join(request(wire) for _ in range(random.randrange(1, 12))))
        if random.random() < 0.8:
            settle_some(wire.cluster.storage, random)
        else:
            wire.cluster.storage.fail()
        return wire.idle()

    return [step] * 40


def settle_some(storage: Any, random: Random) -> None:
    """What is on its way to some partitions becomes durable: by partition, since one way makes fewer appends of it."""
    partitions = sorted({flight.log.partition for flight in storage.in_flight})
    chosen = {partition for partition in partitions if random.random() < 0.6}
    flights = list(storage.in_flight)
    storage.in_flight = deque(flight for flight in flights if flight.log.partition not in chosen)
    for flight in flights:
        if flight.log.partition in chosen:
            storage.persist(flight)
            flight.on_durable(None)


async def outcome(seed: int) -> tuple[Any, ...]:
    wire = await make_wire(StandingClock())
    for step in script(Random(seed)):
        if wire.closed:
            break
        await step(wire)
    wire.cluster.storage.settle()
    await wire.idle()
    while wire.cluster.storage.in_flight and not wire.closed:
        wire.cluster.storage.settle()
        await wire.idle()
    wire.cluster.storage.settle()
    logs = {pid: [bytes(one.view) for one in log.batches] for pid, log in wire.cluster.storage.disk.logs.items()}
    partitions = wire.cluster.broker.partitions.open_partitions()
    producers = {one.pid: [(p.producer_id, p.last_sequence) for p in one.describe_producers()] for one in partitions}
    return bytes(wire.received), wire.closed, logs, producers, wire.memory_bytes


@needs_native
@pytest.mark.parametrize("first_seed", range(0, 100, 25))
async def test_produce_run__leaves_the_same_answers_and_logs_as_the_general_way(
    first_seed: int, monkeypatch: pytest.MonkeyPatch, ways: list[str]
) -> None:
    for seed in range(first_seed, first_seed + 25):
        take_short_way(monkeypatch, NATIVE)
        received, is_closed, *short = await outcome(seed)
        take_short_way(monkeypatch, None)
        expected, is_closed_too, *general = await outcome(seed)
        assert (short, is_closed) == (general, is_closed_too), f"seed {seed}"
        if is_closed:  # a run is answered when all of it is, so that its end may come before
            assert expected.startswith(received), f"seed {seed}"
        else:
            assert received == expected, f"seed {seed}"
            assert short[-1] == 0, f"seed {seed}: memory is left"
    assert ways.count("run") > 100
