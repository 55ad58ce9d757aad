"""What a Produce request costs the broker's own code: calls of functions and microseconds, without sockets and clients.

Connections, dispatch, logs and write-ahead log are the real ones, in one process; the transports are made up and the
files are in memory (/dev/shm), so that neither a network, a disk nor another program is part of the figures. Calls do
not depend on how busy the machine is; microseconds are CPU time and do, a little.

    python -m benchmarks.produce_path                    # all workloads
    python -m benchmarks.produce_path --profile 16k      # where the calls are, by cProfile
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import pack_into
from typing import Any, Protocol, cast

import uvloop
from crc32c import crc32c

from benchmarks import rounds
from benchmarks.workloads import BATCHES_16K, LARGE_4, Workload, produce_frames
from bytemq.broker.connection import Connection
from bytemq.broker.context import ClientInfo
from bytemq.broker.limits import ServerLimits
from bytemq.broker.server import Server
from bytemq.runtime import garbage_collection
from bytemq.runtime.clock import SystemClock
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.log_storage import LogStorage
from bytemq.storage.settings import StorageConfig
from bytemq.storage.stores.local import LocalStore
from bytemq.types import PartitionId
from tests.interop.batches import batch
from tests.support.power_cut_store import MemoryMetadata, Power
from tests.unit.server.harness import make_cluster

TOPIC = "bench"
ROUNDS = 40
SMALL_50 = Workload("1 KB, 50 connections", 16, 50, 1, 1024)
SMALL_1000 = Workload("1 KB, 1,000 connections", 16, 1000, 1, 1024)
DEEP = Workload("1 KB, 16 connections, 32 in flight", 16, 16, 32, 1024)
WIDE = Workload("16 KiB batches, 1,000 partitions", 1000, 16, 4, 16 * 1024)
WORKLOADS = {"large": LARGE_4, "16k": BATCHES_16K, "50": SMALL_50, "1000": SMALL_1000, "deep": DEEP, "wide": WIDE}


@dataclass
class Kind:
    """`workload` by producers without an id, or idempotent ones."""

    workload: Workload
    is_idempotent: bool


class Client(Protocol):
    paused: bool

    def push(self) -> None: ...

    def answers(self, parts: Sequence[bytes]) -> None: ...


class FakeTransport:
    """As much of a transport as a connection needs; hands over the answers."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        return None

    def get_extra_info(self, name: str) -> Any:
        return None

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self._client.paused = True

    def resume_reading(self) -> None:
        self._client.paused = False
        asyncio.get_running_loop().call_soon(self._client.push)

    def write(self, data: bytes) -> None:
        self._client.answers([data])

    def writelines(self, parts: Sequence[bytes]) -> None:
        self._client.answers(parts)

    def abort(self) -> None:
        raise AssertionError("the broker closed the connection")


class Producer:
    """One connection: sends its window of frames, one after the other as far as reads go, and counts answers."""

    def __init__(self, server: Server, count: Callable[[int], None], number: int, frames: Sequence[bytes]) -> None:
        self._count = count
        self._frames = [bytearray(frame) for frame in frames]
        self._producer_id = 1000 + number
        self._sequences = [0] * len(frames)
        self.next = number
        """The frame to be sent next."""
        self._unsent = memoryview(b"")
        self.paused = False
        self._connection = Connection(server, asyncio.get_running_loop(), ClientInfo("", "PLAINTEXT", "", 0))
        self._connection.connection_made(cast(asyncio.BaseTransport, FakeTransport(self)))

    def prepare(self, count: int, records: int, *, is_idempotent: bool) -> None:
        data = bytearray()
        for _ in range(count):
            which = self.next % len(self._frames)
            frame = self._frames[which]
            if is_idempotent:
                self._sign(frame, which, records)
            self.next += 1
            data += frame
        self._unsent = memoryview(data)

    def push(self) -> None:
        """As the transport does: reads until the connection has enough for the moment."""
        while self._unsent and not self.paused:
            into = self._connection.get_buffer(-1)
            taken = min(len(into), len(self._unsent))
            into[:taken] = self._unsent[:taken]
            self._unsent = self._unsent[taken:]
            self._connection.buffer_updated(taken)

    def _sign(self, frame: bytearray, which: int, records: int) -> None:
        at = len(frame) - 3 - self.batch_bytes
        pack_into(">qhi", frame, at + 43, self._producer_id, 0, self._sequences[which])
        self._sequences[which] += records
        pack_into(">I", frame, at + 17, crc32c(memoryview(frame)[at + 21 : at + self.batch_bytes]))

    batch_bytes = 0

    def answers(self, parts: Sequence[bytes]) -> None:
        data = b"".join(parts)
        at = answers = 0
        while at < len(data):
            at += 4 + int.from_bytes(data[at : at + 4], "big")
            answers += 1
        self._count(answers)


class Path:
    """A broker and its clients, in this process."""

    def __init__(self, kind: Kind, folder: str = "/dev/shm") -> None:
        self.kind = kind
        self._folder = tempfile.mkdtemp(prefix="produce-path-", dir=folder)

    async def start(self) -> None:
        workload = self.kind.workload
        clock = SystemClock()
        self._supervisor = Supervisor(clock, lambda name, error: None)
        self._storage = await LogStorage.open(
            LocalStore(self._folder, threads=2),
            MemoryMetadata(Power(seed=0)),
            session_id=1,
            config=StorageConfig(wal_retained_bytes=256 << 20, reserve_bytes=0),
            clock=clock,
            supervisor=self._supervisor,
            durability="page-cache",
        )
        cluster = make_cluster(clock)
        cluster.broker.partitions.services.storage = self._storage
        topic = await cluster.add_topic(TOPIC, workload.partitions)
        for index in range(workload.partitions):
            await cluster.broker.partitions.open_by_id(PartitionId(topic.topic_id, index)[0], index)
        self.server = server = Server(cluster.broker, ServerLimits())
        values = [b"v" * (workload.record_bytes - 12)] * workload.records_per_batch
        records = batch(values)
        Producer.batch_bytes = len(records)
        frames = produce_frames(workload, TOPIC, records)
        self.clients = [Producer(server, self.count, number, frames) for number in range(workload.connections)]

    async def prepare(self) -> None:
        workload = self.kind.workload
        for client in self.clients:
            client.prepare(workload.window, workload.records_per_batch, is_idempotent=self.kind.is_idempotent)
        self._missing = workload.connections * workload.window
        self._answered = asyncio.get_running_loop().create_future()

    async def round(self) -> None:
        for client in self.clients:
            client.push()
        await self._answered

    def count(self, answers: int) -> None:
        self._missing -= answers
        if not self._missing:
            self._answered.set_result(None)

    async def stop(self) -> None:
        await self._storage.close()
        await self._supervisor.close()
        shutil.rmtree(self._folder)


async def measure(kind: Kind) -> dict[str, float]:
    requests = kind.workload.connections * kind.workload.window
    cost = await rounds.measure(Path(kind), ROUNDS)
    return {
        "Python calls/request": cost.python / requests,
        "native calls/request": cost.native / requests,
        "us/request": cost.us / requests,
    }


async def profile(kind: Kind) -> None:
    await rounds.profile(Path(kind))
    print(f"{kind.workload.connections * kind.workload.window} requests")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--profile", choices=WORKLOADS)
    parser.add_argument("--idempotent", action="store_true")
    options = parser.parse_args()
    garbage_collection.calm()
    if options.profile:
        uvloop.run(profile(Kind(WORKLOADS[options.profile], options.idempotent)))
        return 0
    for name, workload in WORKLOADS.items():
        for is_idempotent in (False, True):
            figures = uvloop.run(measure(Kind(workload, is_idempotent)))
            shown = ", ".join(f"{value:.1f} {figure}" for figure, value in figures.items())
            print(f"{name:5} {'idempotent' if is_idempotent else 'no id':10} {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
