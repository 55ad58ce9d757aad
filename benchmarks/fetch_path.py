"""What a Fetch request costs the broker's own code: calls of functions and microseconds, without sockets and clients.

As `benchmarks.produce_path`, for consumers at the tail: every partition has something new in memory when they ask.

    python -m benchmarks.fetch_path                      # all workloads
    python -m benchmarks.fetch_path --profile tail       # where the calls are, by cProfile
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from struct import pack_into
from typing import cast

import uvloop

from benchmarks import rounds
from benchmarks.loader import BENCH
from benchmarks.produce_path import TOPIC, FakeTransport, Path
from benchmarks.produce_path import Kind as Producers
from benchmarks.workloads import MARK, Workload, fetch_frame
from bytemq.broker.connection import Connection
from bytemq.broker.context import ClientInfo
from bytemq.broker.server import Server
from bytemq.runtime import garbage_collection

ROUNDS = 60


@dataclass(frozen=True)
class Kind:
    """What is produced before each fetch: a batch to each of the first partitions; all partitions are fetched."""

    partitions: int
    produced: int
    batch_bytes: int


KINDS = {
    "one": Kind(1, 1, 1024),
    "tail": Kind(16, 16, 16 * 1024),
    "sparse": Kind(16, 1, 1024),
    "wide": Kind(200, 200, 1024),
}


class Consumer:
    """One connection that asks for what comes behind what it has."""

    def __init__(self, server: Server, kind: Kind) -> None:
        self._frame = bytearray(fetch_frame(TOPIC, range(kind.partitions)))
        self._places = [self._frame.index((MARK + one).to_bytes(8, "big")) for one in range(kind.partitions)]
        self._offsets = [0] * kind.partitions
        self._connection = Connection(server, asyncio.get_running_loop(), ClientInfo("", "PLAINTEXT", "", 0))
        self._connection.connection_made(cast(asyncio.BaseTransport, FakeTransport(self)))
        self.paused = False
        self.received_bytes = 0
        self.answered = asyncio.get_running_loop().create_future()

    def ask(self, records: int, produced: int) -> None:
        for index, place in enumerate(self._places):
            pack_into(">q", self._frame, place, self._offsets[index])
            if index < produced:
                self._offsets[index] += records
        self.answered = asyncio.get_running_loop().create_future()
        into = self._connection.get_buffer(-1)
        into[: len(self._frame)] = self._frame
        self._connection.buffer_updated(len(self._frame))

    def push(self) -> None:
        return None

    def answers(self, parts: Sequence[bytes]) -> None:
        self.received_bytes = sum(map(len, parts))
        self.answered.set_result(None)


class FetchPath:
    """A broker, a producer and a consumer, in this process."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        workload = Workload("", kind.partitions, 1, kind.produced, kind.batch_bytes)
        self._records = workload.records_per_batch
        self._path = Path(
            Producers(workload, is_idempotent=False), str(BENCH)
        )  # memory's file systems never say what is cached

    async def start(self) -> None:
        await self._path.start()
        self._consumer = Consumer(self._path.server, self.kind)

    async def prepare(self) -> None:
        self._path.clients[0].next = 0
        await self._path.prepare()
        await self._path.round()

    async def round(self) -> None:
        self._consumer.ask(self._records, self.kind.produced)
        await self._consumer.answered
        assert self._consumer.received_bytes > self.kind.produced * self.kind.batch_bytes, "records are missing"

    async def stop(self) -> None:
        await self._path.stop()


async def measure(kind: Kind) -> dict[str, float]:
    cost = await rounds.measure(FetchPath(kind), ROUNDS)
    return {"Python calls": cost.python, "native calls": cost.native, "us": cost.us}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--profile", choices=KINDS)
    options = parser.parse_args()
    garbage_collection.calm()
    if options.profile:
        uvloop.run(rounds.profile(FetchPath(KINDS[options.profile])))
        return 0
    for name, kind in KINDS.items():
        figures = uvloop.run(measure(kind))
        shown = ", ".join(f"{value:.0f} {figure}" for figure, value in figures.items())
        print(f"{name:7} {kind.produced} of {kind.partitions} partitions: {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
