"""Clients that mean harm or are broken, against a real node: no crash, no growth, and the others hardly notice."""

from __future__ import annotations

import multiprocessing
import os
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from bytemq.protocol.codec import decode, encode
from bytemq.protocol.framing import request_prefix, response_body
from bytemq.protocol.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
)
from bytemq.protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from bytemq.protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse
from bytemq.protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.protocol.records.compression import Compression
from bytemq.protocol.schema import Message
from tests.interop.batches import batch
from tests.interop.wire import Wire
from tests.support import machine, probe
from tests.support.node_process import NodeProcess

MAKE = Callable[..., NodeProcess]
Attack = Callable[[tuple[str, int], float], None]
M = TypeVar("M", bound=Message)
ATTACK_S = 2.0
MEMORY_GROWTH_LIMIT_BYTES = 400 * 1024 * 1024
MEDIAN_LIMIT_S = 0.05
WORST_LIMIT_S = 1.5
CALM_FACTOR = 15
"""How much slower than a calm node beside it an attacked one may be, where the machine itself is slower than that."""
CONNECTIONS = 1_000
INITIAL_DELAY_S = 3.0
"""group.initial.rebalance.delay.ms"""
NOT_SERVING = (14, 15, 16)
JOIN_WITHOUT_ASKING = 3
"""JoinGroup up to this version does not ask for a member id first."""
BOMBS_EACH = 20


def resident_bytes(node: NodeProcess) -> int:
    pages = int(Path(f"/proc/{node.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def send_all(address: tuple[str, int], data: bytes) -> None:
    """Sends until the other side closes or has had enough."""
    with socket.create_connection(address, timeout=2) as client:
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
        except OSError:
            return  # closed on us: as it should be


def garbage(address: tuple[str, int], until: float) -> None:
    source = random.Random(1)
    while time.monotonic() < until:
        send_all(address, source.randbytes(source.randrange(1, 20_000)))


def absurd_sizes(address: tuple[str, int], until: float) -> None:
    sizes = (-1, 0, 1, 3, 104_857_601, 2**31 - 1, -(2**31))
    while time.monotonic() < until:
        for size in sizes:
            send_all(address, struct.pack(">i", size) + bytes(100))


def absurd_counts(address: tuple[str, int], until: float) -> None:
    """Valid frames whose arrays claim two thousand million elements, for every API key and version."""
    while time.monotonic() < until:
        for key in range(95):
            for version in range(12):
                body = struct.pack(">hhih", key, version, 1, -1) + b"\x7f\xff\xff\xff" * 20
                if time.monotonic() < until:
                    send_all(address, struct.pack(">i", len(body)) + body)


def all_ff(address: tuple[str, int], until: float) -> None:
    """Two megabytes of 0xFF as the body of requests: what made another decoder work for minutes."""
    while time.monotonic() < until:
        for key, version in ((3, 12), (19, 5), (0, 9), (1, 12), (11, 6), (18, 3)):
            body = struct.pack(">hhih", key, version, 1, -1) + b"\xff" * 2_000_000
            send_all(address, struct.pack(">i", len(body)) + body)


def slow_loris(address: tuple[str, int], until: float) -> None:
    """Two hundred connections that send a byte now and then and never finish a frame."""
    clients = [socket.create_connection(address) for _ in range(200)]
    for client in clients:
        client.sendall(struct.pack(">i", 100_000_000))
    while time.monotonic() < until:
        for client in clients:
            client.send(b"\x00")
        select.select([], [], [], 0.05)
    for client in clients:
        client.close()


def never_reads(address: tuple[str, int], until: float) -> None:
    """Asks for the whole log over and over on several connections and reads nothing of it."""
    row = {"partition": 0, "current_leader_epoch": -1, "fetch_offset": 0, "last_fetched_epoch": -1}
    row |= {"log_start_offset": -1, "partition_max_bytes": 50_000_000}
    fields: dict[str, Any] = {
        "replica_id": -1,
        "max_wait_ms": 0,
        "min_bytes": 1,
        "max_bytes": 50_000_000,
        "isolation_level": 0,
    }
    fields |= {"session_id": 0, "session_epoch": -1, "rack_id": "", "forgotten_topics_data": []}
    fields["topics"] = [{"topic": "big", "partitions": [row]}]
    request = probe.build(probe.FetchRequest, 12, fields)
    request.with_header(correlation_id=1, client_id="greedy")
    frame = bytes(request.encode(header=True, framed=True))
    clients = [socket.create_connection(address) for _ in range(20)]
    for client in clients:
        client.setblocking(False)
    while time.monotonic() < until:
        _, writable, _ = select.select([], clients, [], 0.05)
        for client in writable:
            try:
                client.send(frame)
            except OSError:
                clients.remove(client)
        if not clients:
            break
    for client in clients:
        client.close()


def comes_and_goes(address: tuple[str, int], until: float) -> None:
    while time.monotonic() < until:
        clients = [socket.create_connection(address) for _ in range(50)]
        for number, client in enumerate(clients):
            if number % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()


def bombs(address: tuple[str, int], until: float) -> None:
    """Batches of some kilobytes that are 60 MiB decompressed, to partitions where every record is looked at."""
    partitions = 40
    record = Record(b"k", bytes(60 * 1024 * 1024), (), int(time.time() * 1000))
    bomb = build_batch([record], compression=Compression.ZSTD)
    with probe.connect(address) as wire:
        assert probe.create_topic(wire, "checked", partitions, bytemq_validate_records="true") == 0
    clients = [probe.connect(address) for _ in range(partitions)]
    for index, client in enumerate(clients):
        for _ in range(BOMBS_EACH):
            client.send(probe.produce_request("checked", bytes(bomb), index=index))
    while time.monotonic() < until:
        select.select([], [], [], 0.05)
    for client in clients:
        client.close()


def ask(wire: Wire, request: Message, version: int, response: type[M]) -> M:
    assert request.API_KEY is not None
    wire.send_frame(request_prefix(request.API_KEY, version, 1, "boaster", 0)[4:] + encode(request, version))
    return decode(response, version, response_body(request.API_KEY, version, memoryview(wire.receive_frame())))


def coordinator(address: tuple[str, int], group: str) -> Wire:
    """A connection to it when it answers."""
    wire = probe.connect(address)
    while probe.find_coordinator(wire, group) or heartbeat_code(wire, group) in NOT_SERVING:
        time.sleep(0.02)
    return wire


def heartbeat_code(wire: Wire, group: str) -> int:
    return ask(wire, HeartbeatRequest(group_id=group, member_id="nobody"), 0, HeartbeatResponse).error_code


def boast(address: tuple[str, int], for_s: float) -> None:
    """One of a group whose members name a million topics without a name, and whose leader assigns megabytes."""
    metadata = memoryview(struct.pack(">hi", 0, 900_000) + bytes(2_000_000))
    joining = JoinGroupRequest(
        group_id="boasters",
        session_timeout_ms=60_000,
        rebalance_timeout_ms=60_000,
        protocol_type="consumer",
        protocols=[JoinGroupRequestProtocol("range", metadata), JoinGroupRequestProtocol("sticky", metadata)],
    )
    with coordinator(address, "boasters") as wire:
        until = time.monotonic() + for_s
        while time.monotonic() < until:
            joined = ask(wire, joining, JOIN_WITHOUT_ASKING, JoinGroupResponse)
            assert joined.error_code == 0
            joining.member_id = joined.member_id
            assigned = [SyncGroupRequestAssignment(each.member_id, metadata) for each in joined.members]
            syncing = SyncGroupRequest("boasters", joined.generation_id, joined.member_id, assignments=assigned)
            ask(wire, syncing, 3, SyncGroupResponse)


def boasters(address: tuple[str, int], until: float) -> None:
    in_a_process(boast_together, address, until - time.monotonic() + INITIAL_DELAY_S)


def boast_together(address: tuple[str, int], for_s: float) -> None:
    threads = [threading.Thread(target=boast, args=(address, for_s)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def name_droppers(address: tuple[str, int], until: float) -> None:
    in_a_process(drop_names, address, until - time.monotonic())


def drop_names(address: tuple[str, int], for_s: float) -> None:
    """Consumers that are subscribed to tens of thousands of topics, each to others, and change their minds."""
    number = 0
    with coordinator(address, "droppers") as wire:
        until = time.monotonic() + for_s
        while time.monotonic() < until:
            number += 1
            joining = ConsumerGroupHeartbeatRequest(
                group_id="droppers",
                member_id=f"member-{number % 20}",
                rebalance_timeout_ms=60_000,
                subscribed_topic_names=["good", *(f"{number}-{name}" for name in range(50_000))],
                topic_partitions=[],
            )
            assert ask(wire, joining, 1, ConsumerGroupHeartbeatResponse).error_code == 0


def in_a_process(attack: Attack, address: tuple[str, int], for_s: float) -> None:
    """What costs the attacker more than the node would hold up the good producer here. It takes a while to start."""
    attacker = multiprocessing.get_context("spawn").Process(target=attack, args=(address, for_s))
    attacker.start()
    attacker.join()
    assert attacker.exitcode == 0


ATTACKS: list[Attack] = [
    garbage,
    absurd_sizes,
    absurd_counts,
    all_ff,
    slow_loris,
    never_reads,
    bombs,
    comes_and_goes,
    boasters,
    name_droppers,
]


@contextmanager
def measured(node: NodeProcess) -> Iterator[list[float]]:
    """A well-behaved producer in the background; the seconds that each of its requests took."""
    took: list[float] = []
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with probe.connect(node.address) as wire:
                while not stop.wait(0.005) or not took:
                    started = time.monotonic()
                    assert probe.produce(wire, "good")[0] == 0
                    took.append(time.monotonic() - started)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield took
    finally:
        stop.set()
        thread.join()
    assert not failures, failures


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_node__hostile_client_does_not_disturb_the_others(
    node: NodeProcess, make_node: MAKE, tmp_path: Path, attack: Attack
) -> None:
    calm = make_node(tmp_path / "calm").start()  # tells the attack's doing from that of a busy processor or disk
    for each in (node, calm):
        with probe.connect(each.address) as wire:
            assert probe.create_topic(wire, "good") == 0 and probe.create_topic(wire, "big") == 0
            for _ in range(30):
                assert probe.produce(wire, "big", batch([bytes(900_000)]))[0] == 0
    before = resident_bytes(node)
    with measured(node) as attacked_s, measured(calm) as calm_s:
        attack(node.address, time.monotonic() + ATTACK_S)
    grown = resident_bytes(node) - before
    median, worst = middle(attacked_s), max(attacked_s)
    print(f"{attack.__name__}: {len(attacked_s)} good requests, median {median * 1e3:.2f} ms, "
          f"worst {worst * 1e3:.1f} ms (calm node: {middle(calm_s) * 1e3:.2f} and {max(calm_s) * 1e3:.1f} ms), "
          f"memory +{grown / 2**20:.0f} MiB")  # fmt: skip
    assert node.is_running()
    slowness = machine.slowness()
    assert median < max(MEDIAN_LIMIT_S * slowness, CALM_FACTOR * middle(calm_s))
    assert worst < max(WORST_LIMIT_S * slowness, CALM_FACTOR * max(calm_s))
    assert grown < MEMORY_GROWTH_LIMIT_BYTES
    assert "Traceback" not in node.log()


def middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def test_node__acknowledges_nothing_for_acks_0_and_closes_on_its_errors(node: NodeProcess) -> None:
    with probe.connect(node.address) as wire:
        assert probe.create_topic(wire, "topic") == 0
        for _ in range(20):
            wire.send(probe.produce_request("topic", batch(), acks=0))
        assert probe.produce(wire, "topic") == (0, 20), "the next answer is the next request's"
        wire.send(probe.produce_request("topic", batch(crc=1), acks=0))
        with pytest.raises(EOFError):
            wire.receive_frame()


def test_node__holds_a_thousand_connections(node: NodeProcess) -> None:
    with probe.connect(node.address) as wire:
        assert probe.create_topic(wire, "topic") == 0
        before = resident_bytes(node)
        clients = [socket.create_connection(node.address) for _ in range(CONNECTIONS)]
        try:
            assert probe.produce(wire, "topic") == (0, 0)
            each = (resident_bytes(node) - before) / CONNECTIONS
            print(f"{each / 1024:.1f} KiB an idle connection")
            assert each < 100 * 1024
            with probe.connect(node.address) as another:
                assert probe.produce(another, "topic") == (0, 1)
        finally:
            for client in clients:
                client.close()


def test_node__a_hundred_clients_announcing_100_mb_do_not_cost_that_memory(node: NodeProcess) -> None:
    with probe.connect(node.address) as wire:
        assert probe.create_topic(wire, "topic") == 0
        before = resident_bytes(node)
        clients = [socket.create_connection(node.address) for _ in range(100)]
        for client in clients:
            client.sendall(struct.pack(">i", 104_857_600) + bytes(1_000))
        assert probe.produce(wire, "topic") == (0, 0)
        assert resident_bytes(node) - before < MEMORY_GROWTH_LIMIT_BYTES
        for client in clients:
            client.close()
        assert probe.produce(wire, "topic") == (0, 1)
