"""How each kind of workload is run once on one server. Owns what is counted and when.

What a server does for a workload after its last answer (writing behind) counts to that workload, too: figures of CPU
and of bytes written end when it is quiet again.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from kafka.protocol.metadata import ApiVersionsRequest

from benchmarks import memory
from benchmarks.against_kafka import topics
from benchmarks.against_kafka.contenders import Contender, Durability
from benchmarks.loader import BENCH, Result, tail
from benchmarks.usage import peak_resident_mb, resident_mb, settle, usage
from benchmarks.workloads import Workload, fetch_frame, fetch_in_turn, framed, one_batch, produce_frames, send
from tests.support import probe

Figures = dict[str, float]
FETCH_LOG_BYTES = 256 << 20
IDLE_CONNECTIONS = 1000
SETTLE_S = 1.5


@dataclass(frozen=True)
class Pace:
    """How long one run of a workload takes."""

    seconds: float
    warmup_s: float


Measure = Callable[[Contender, Pace], Figures]


def quiet(contender: Contender) -> None:
    """Nothing of what was before weighs on what comes: it is written behind, out of the page cache's dirty part, and
    the memory that it had is no cheaper and no dearer than any other.
    """
    settle(contender.pid)
    os.sync()
    memory.fill(BENCH)


def latencies(got: Result, kind: str) -> Figures:
    return {
        "p50 ms": got[f"{kind}_p50_us"] / 1e3,
        "p99 ms": got[f"{kind}_p99_us"] / 1e3,
        "p99.9 ms": got[f"{kind}_p999_us"] / 1e3,
    }


def produce(workload: Workload, durability: Durability, *, limit_bytes: int = 0) -> Measure:
    return partial(_produce, workload, durability, limit_bytes)


def _produce(workload: Workload, durability: Durability, limit_bytes: int, contender: Contender, pace: Pace) -> Figures:
    with topics.fresh_topic(contender, workload.partitions, durability) as topic:
        return _produce_to(topic, workload, limit_bytes, contender, pace)


def _produce_to(topic: str, workload: Workload, limit_bytes: int, contender: Contender, pace: Pace) -> Figures:
    records = one_batch(workload)
    quiet(contender)
    before = usage(contender.pid)
    frames = produce_frames(workload, topic, records)
    got = send(
        workload, contender.address, frames, seconds=pace.seconds, warmup_s=pace.warmup_s, limit_bytes=limit_bytes
    )
    memory_mb = resident_mb(contender.pid)
    settle(contender.pid)
    used = usage(contender.pid).since(before)
    with probe.connect(contender.address) as wire:
        total = sum(topics.end_offsets(wire, topic, range(workload.partitions)))
    assert total >= got["total_requests"] * workload.records_per_request, "acknowledged records are not in the log"
    sent_bytes = got["total_sent_bytes"]
    return {
        "MB/s": got["sent_bytes"] / 1e6 / got["seconds"],
        "requests/s": got["requests"] / got["seconds"],
        **latencies(got, "ack"),
        "CPU s/GB": used.cpu_s / (sent_bytes / 1e9),
        "CPU us/request": used.cpu_s / got["total_requests"] * 1e6,
        "written/byte": used.written_bytes / sent_bytes,
        "memory MB": memory_mb,
    }


def consume(workload: Workload) -> Measure:
    return partial(_consume, workload)


def _consume(workload: Workload, contender: Contender, pace: Pace) -> Figures:
    records = one_batch(workload)
    with topics.fresh_topic(contender, 1, "page-cache") as topic:
        end_offset = topics.fill(contender, topic, records, FETCH_LOG_BYTES)
        frame, offsets = fetch_in_turn(topic, workload, len(records), end_offset)
        quiet(contender)
        before = usage(contender.pid)
        got = send(workload, contender.address, [frame], seconds=pace.seconds, warmup_s=pace.warmup_s, offsets=offsets)
        used = usage(contender.pid).since(before)
    assert got["received_bytes"] > got["requests"] * len(records), "answers lack records"
    return {
        "MB/s": got["received_bytes"] / 1e6 / got["seconds"],
        **latencies(got, "ack"),
        "CPU s/GB": used.cpu_s / (got["total_received_bytes"] / 1e9),
    }


def to_the_end(workload: Workload, consumers: int) -> Measure:
    """Producers and consumers on the tail; latencies from when a record was due until a consumer has it."""
    return partial(_to_the_end, workload, consumers)


def _to_the_end(workload: Workload, consumers: int, contender: Contender, pace: Pace) -> Figures:
    records = one_batch(workload)
    with topics.fresh_topic(contender, workload.partitions, "page-cache") as topic:
        quiet(contender)
        before = usage(contender.pid)
        got = tail(
            contender.address,
            produce_frames(workload, topic, records),
            fetch_frame(topic, range(workload.partitions)),
            producers=workload.connections,
            window=workload.window,
            consumers=consumers,
            seconds=pace.seconds,
            warmup_s=pace.warmup_s,
            rate=workload.rate,
            records_per_batch=workload.records_per_batch,
        )
        settle(contender.pid)
        used = usage(contender.pid).since(before)
    moved_bytes = got["total_sent_bytes"] * (1 + consumers)
    return {
        "in MB/s": got["sent_bytes"] / 1e6 / got["seconds"],
        "out MB/s": got["received_bytes"] / 1e6 / got["seconds"],
        "fetches/s": got["fetches"] / got["seconds"],
        **latencies(got, "end_to_end"),
        "ack p99 ms": got["ack_p99_us"] / 1e3,
        "CPU s/GB": used.cpu_s / (moved_bytes / 1e9),
    }


def beside_idle_connections(workload: Workload) -> Measure:
    return partial(_beside_idle_connections, workload)


def _beside_idle_connections(workload: Workload, contender: Contender, pace: Pace) -> Figures:
    with _idle_connections(contender):
        figures = _produce(workload, "page-cache", 0, contender, pace)
    return {**figures, "records/s": figures["requests/s"] * workload.records_per_request}


@contextmanager
def _idle_connections(contender: Contender) -> Iterator[None]:
    """A thousand clients that said hello and nothing more."""
    hello = framed(probe.build(ApiVersionsRequest, 3, {}))
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection(contender.address)) for _ in range(IDLE_CONNECTIONS)]
        for one in sockets:
            one.sendall(hello)
        for one in sockets:
            one.recv(65536)
        time.sleep(SETTLE_S)
        yield


def many_partitions(workload: Workload) -> Measure:
    return partial(_many_partitions, workload)


def _many_partitions(workload: Workload, contender: Contender, pace: Pace) -> Figures:
    settle(contender.pid)
    topic = f"many-{workload.partitions}"
    took_s = topics.create(contender, topic, workload.partitions, "page-cache")
    try:
        figures = _produce_to(topic, workload, 0, contender, pace)
    finally:
        topics.delete(contender, topic)
    return {"create ms": took_s * 1e3, **figures}


def most_partitions(workload: Workload) -> Measure:
    """As `many_partitions`, and what each takes of the memory of a process that has just started: later, what others
    have left would be used again.
    """
    return partial(_most_partitions, workload)


def _most_partitions(workload: Workload, contender: Contender, pace: Pace) -> Figures:
    contender.stop()
    contender.start()
    time.sleep(SETTLE_S)
    before_mb = resident_mb(contender.pid)
    topic = f"most-{workload.partitions}"
    took_s = topics.create(contender, topic, workload.partitions, "page-cache")
    time.sleep(SETTLE_S)
    each_kb = (resident_mb(contender.pid) - before_mb) * 1000 / workload.partitions
    figures = _produce_to(topic, workload, 0, contender, pace)
    return {"create ms": took_s * 1e3, "KB/partition": each_kb, **figures}


def start(contender: Contender, pace: Pace) -> Figures:
    """From the start of the process on existing data to its first acknowledged produce; its memory at rest, and
    what a thousand clients add that only said hello.

    The first run makes the data and counts as one on empty data would.
    """
    with probe.connect(contender.address) as wire:
        if probe.produce(wire, "start")[0]:
            assert probe.create_topic(wire, "start") == 0
    contender.stop()
    started = time.monotonic()
    contender.start()
    with probe.connect(contender.address, 60.0) as wire:
        while probe.produce(wire, "start")[0]:
            time.sleep(0.001)
    took_s = time.monotonic() - started
    time.sleep(SETTLE_S)
    memory_mb = resident_mb(contender.pid)
    with _idle_connections(contender):
        each_kb = (resident_mb(contender.pid) - memory_mb) * 1000 / IDLE_CONNECTIONS
    return {"to first ack s": took_s, "memory MB": memory_mb, "KB/idle connection": each_kb}


def peak_memory(contender: Contender, pace: Pace) -> Figures:
    """The most that the process has held at any time of all the workloads before."""
    return {"memory MB": peak_resident_mb(contender.pid)}
