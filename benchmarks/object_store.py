"""Producing to an object store, beside what the store does by itself: one broker over real etcd and a real S3 server.

    python -m benchmarks.object_store [--s3 minio|seaweedfs] [--seconds 20] [--rate-mb-s 50]

What is told, with the goal beside each:

- the store alone: objects as large as a flush, written by the product's own client in one process, as many at a time as
  a broker has flushes in flight;
- flat out: 1 KB records in batches of 128 KiB, 64 MiB on their way; MB/s acknowledged, as a share of the store alone;
- at a steady rate: requests to the store and bytes written for each GB that was acknowledged, by operation;
- one connection that sends 200 requests of 1 KB a second: the time to the acknowledgement, beside the interval between
  flushes and one PUT of such a flush.

Store, broker, etcd and load share the machine: shares and requests say more than rates.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from benchmarks.clusters import cluster_on_s3
from benchmarks.loader import Result
from benchmarks.workloads import LARGE_4, Workload, one_batch, produce_frames, send
from bytemq.runtime.clock import SystemClock
from bytemq.storage.stores.by_url import open_store
from tests.support import probe
from tests.support.node_process import NodeProcess
from tests.support.s3_server import S3Server, minio_program

FLUSH_BYTES, FLUSHES_IN_FLIGHT, FLUSH_INTERVAL_S = 8 << 20, 8, 0.1
"""The defaults of wal.flush.bytes, wal.flush.in.flight and wal.flush.interval.ms, which the broker has here."""
Figures = dict[str, float]
OPERATIONS = ("put", "get", "head", "list", "delete")
DEEP = replace(LARGE_4, connections=8, window=8)
"""64 MiB on their way: eight flushes."""
ONE_CONNECTION = Workload("", 16, 1, 64, 1024, rate=200.0)
WARM_UP_S = 2.0
SETTLE_S = 12.0
"""Until what was produced lies in segments, so that their requests count where they belong."""


def put_times(
    s3: S3Server, name: str, size_bytes: int, at_a_time: int, seconds: float, pause_s: float = 0
) -> list[float]:
    """Seconds that each PUT took, by the client that the product has; `pause_s` lies between two of one writer."""

    async def run() -> list[float]:
        store = await open_store(f"s3://records/{name}", SystemClock(), random.Random())
        body = os.urandom(size_bytes)
        took_s: list[float] = []
        end = time.monotonic() + seconds

        async def write(writer: int) -> None:
            number = 0
            while time.monotonic() < end:
                started = time.monotonic()
                await store.create(f"{writer}/{number}", [body])
                took_s.append(time.monotonic() - started)
                number += 1
                await asyncio.sleep(pause_s)

        await asyncio.gather(*(write(writer) for writer in range(at_a_time)))
        await store.close()
        return took_s

    os.environ.update(s3.environment)
    return asyncio.run(run())


class Traffic:
    """What a broker has asked of the store, between two looks at its metrics."""

    def __init__(self, node: NodeProcess) -> None:
        self._node = node
        self._before = self._look()

    def _look(self) -> Figures:
        seen = {one: self._node.metric("bytemq_store_requests_total", f'operation="{one}"') for one in OPERATIONS}
        flushes = self._node.metric("bytemq_wal_flushes_total")
        return {**seen, "flushes": flushes, "written": self._node.metric("bytemq_store_written_bytes_total")}

    def since(self) -> Figures:
        return {name: now - self._before[name] for name, now in self._look().items()}


def produce(node: NodeProcess, topic: str, workload: Workload, seconds: float) -> Result:
    frames = produce_frames(workload, topic, one_batch(workload))
    return send(workload, node.address, frames, seconds=seconds, warmup_s=WARM_UP_S)


def of_the_store(s3: S3Server, seconds: float) -> float:
    """MB/s of the store alone."""
    started = time.monotonic()
    took_s = put_times(s3, "alone", FLUSH_BYTES, FLUSHES_IN_FLIGHT, seconds)
    return len(took_s) * FLUSH_BYTES / 1e6 / (time.monotonic() - started)


def flat_out(node: NodeProcess, seconds: float) -> Figures:
    got = produce(node, "flat-out", DEEP, seconds)
    return {"MB/s": got["sent_bytes"] / 1e6 / got["seconds"], **acknowledgements(got)}


def acknowledgements(got: Result) -> Figures:
    return {"p50 ms": got["ack_p50_us"] / 1e3, "p99 ms": got["ack_p99_us"] / 1e3}


def at_a_rate(node: NodeProcess, seconds: float, rate_mb_s: float) -> tuple[Figures, Figures]:
    """Of the time of the load, with what was asked of the store for each GB; and the latter until some time after."""
    workload = replace(LARGE_4, rate=rate_mb_s * 1e6 / (LARGE_4.batch_bytes * LARGE_4.batches_per_request))
    traffic = Traffic(node)
    got = produce(node, "steady", workload, seconds)
    during = traffic.since()
    time.sleep(SETTLE_S)
    whole = traffic.since()
    acknowledged = {"MB/s": got["sent_bytes"] / 1e6 / got["seconds"], **acknowledgements(got)}
    gb = got["total_sent_bytes"] / 1e9
    return {**acknowledged, **requests_for_each_gb(during, gb)}, requests_for_each_gb(whole, gb)


def requests_for_each_gb(seen: Figures, gb: float) -> Figures:
    """By operation; those PUTs that are flushes of the write-ahead log; and the bytes written for each byte."""
    requests = {f"{one.upper()}/GB": seen[one] / gb for one in OPERATIONS}
    return {"WAL PUT/GB": seen["flushes"] / gb, **requests, "written/byte": seen["written"] / 1e9 / gb}


def one_connection(node: NodeProcess, s3: S3Server, seconds: float) -> tuple[Figures, Figures]:
    """And what its acknowledgements are to stay below, with what that is made of."""
    size_bytes = round(ONE_CONNECTION.rate * FLUSH_INTERVAL_S) * 1200
    alone_s = put_times(s3, "paced", size_bytes, 1, seconds, FLUSH_INTERVAL_S)
    put_p99_s = statistics.quantiles(alone_s, n=100)[98]
    traffic = Traffic(node)
    got = produce(node, "one", ONE_CONNECTION, seconds)
    ours = {"requests": got["total_requests"], "PUTs": traffic.since()["put"], **acknowledgements(got)}
    limit_ms = (FLUSH_INTERVAL_S + 1.5 * put_p99_s) * 1e3
    return ours, {"p99 ms": limit_ms, "PUT p50 ms": statistics.median(alone_s) * 1e3, "PUT p99 ms": put_p99_s * 1e3}


@contextmanager
def broker_on(kind: str) -> Iterator[tuple[NodeProcess, S3Server]]:
    """One broker with the topics of all of this."""
    with cluster_on_s3(kind, 1) as (cluster, s3):
        [node] = cluster.nodes
        with probe.connect(node.address) as wire:
            for topic in ("flat-out", "steady", "one"):
                assert probe.create_topic(wire, topic, 16) == 0
        yield node, s3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--s3", default=preferred_store(), choices=("minio", "seaweedfs"))
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate-mb-s", type=float, default=50.0)
    options = parser.parse_args()
    print(f"{options.s3}, load average {os.getloadavg()[0]:.0f}")
    with broker_on(options.s3) as (node, s3):
        alone_mb_s = of_the_store(s3, options.seconds)
        tell(f"{s3.kind} alone, PUTs of {FLUSH_BYTES >> 20} MiB, {FLUSHES_IN_FLIGHT} at a time", {"MB/s": alone_mb_s})
        got = flat_out(node, options.seconds)
        tell("flat out (goal: 0.8 of the store alone)", {**got, "of the store alone": got["MB/s"] / alone_mb_s})
        time.sleep(SETTLE_S)
        during, whole = at_a_rate(node, options.seconds, options.rate_mb_s)
        tell(f"at {options.rate_mb_s:.0f} MB/s (goal: 250 PUTs of the write-ahead log for each GB, no LIST)", during)
        tell(f"  and in {SETTLE_S:.0f} s after it", whole)
        ours, limit = one_connection(node, s3, options.seconds)
        tell(f"one connection, {ONE_CONNECTION.rate:.0f} requests a second", ours)
        tell("  its goal, an interval between flushes and 1.5 times the p99 of such a PUT alone", limit)


def preferred_store() -> str:
    return "minio" if minio_program() else "seaweedfs"


def tell(what: str, figures: Figures) -> None:
    print(f"{what}: {', '.join(f'{value:.3g} {name}' for name, value in figures.items())}", flush=True)


if __name__ == "__main__":
    main()
