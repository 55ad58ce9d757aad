"""The table: every workload that is compared, with its goals. Owns no measuring."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.against_kafka import client_tools
from benchmarks.against_kafka.contenders import Durability
from benchmarks.against_kafka.measures import (
    Measure,
    beside_idle_connections,
    consume,
    many_partitions,
    most_partitions,
    peak_memory,
    produce,
    start,
    to_the_end,
)
from benchmarks.against_kafka.without_kafka import (
    Comparison,
    store_at_a_rate,
    store_flat_out,
    store_one_connection,
    two_brokers,
)
from benchmarks.workloads import BATCHES_16K, CONSUME, LARGE_1, LARGE_4, STEADY, Workload

DISK_LIMIT = "disk write+fdatasync, MB/s"

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Goal:
    figure: str
    at: Literal["least", "most"]
    limit: float
    of: Literal["kafka", "itself", "disk"] = "kafka"
    """What the figure is divided by: Kafka's of the same runs, nothing, or what the disk did in the same minutes."""

    def value(self, ours: Figures, theirs: Figures, machine: Figures) -> float | None:
        if self.figure not in ours:
            return None
        if self.of == "itself":
            return ours[self.figure]
        divisor = theirs.get(self.figure, 0.0) if self.of == "kafka" else machine.get(DISK_LIMIT, 0.0)
        return ours[self.figure] / divisor if divisor else None

    def reached(self, value: float) -> bool:
        return value >= self.limit if self.at == "least" else value <= self.limit

    def __str__(self) -> str:
        sign = ">=" if self.at == "least" else "<="
        unit = {"kafka": " x", "itself": "", "disk": " of the disk's rate"}[self.of]
        return f"{self.figure} {sign} {self.limit:g}{unit}"


def at_least(figure: str, limit: float) -> Goal:
    return Goal(figure, "least", limit)


def at_most(figure: str, limit: float) -> Goal:
    return Goal(figure, "most", limit)


CPU = at_most("CPU s/GB", 0.35)


@dataclass(frozen=True)
class Row:
    name: str
    """What `--only` takes."""
    title: str
    measure: Measure | None
    """Of either server."""
    goals: Sequence[Goal] = ()
    durability: Durability = "page-cache"
    seconds: float | None = None
    """Of one run, where it is not that of all others."""
    repeats: int | None = None
    is_long: bool = False
    """Left out in quick mode."""
    curve: tuple[str, float] | None = None
    """The plot that this row is a point of, and its place on the horizontal axis."""
    needs: Sequence[str] = field(default=())
    """Programs."""
    beside: str = "Kafka"
    """What bytemq is compared with."""
    comparison: Comparison | None = None
    """Where that is not Kafka, in place of `measure`."""


SMALL_RECORDS = Workload("", 16, 1, 5, 16 * 1024, record_bytes=100)
MANY_CONNECTIONS = Workload("", 16, 1000, 1, 1024)
FIFTY = Workload("", 16, 50, 1, 1024)
THOUSAND_PARTITIONS = Workload("", 1000, 16, 4, 16 * 1024)
TEN_THOUSAND_PARTITIONS = Workload("", 10_000, 16, 4, 1024)
HUNDRED_MB_S = Workload("", 16, 4, 4, 16 * 1024, rate=100e6 / (16 * 1024))
FLAT_OUT = Workload("", 16, 4, 4, 128 * 1024)
SUSTAINED_BYTES = 30_000_000_000

COLD = [
    Row(
        "start",
        "start to first acknowledged produce; memory at start, and of 1,000 idle connections",
        start,
        [at_most("to first ack s", 0.2), at_most("memory MB", 0.25), Goal("KB/idle connection", "most", 20, "itself")],
    ),
]
"""Restarts the servers, and so comes before they are warmed up."""

TABLE = [
    Row(
        "produce-large-1",
        "produce 1 KB, 1 MiB requests of 128 KiB batches, 16 partitions, 1 connection",
        produce(LARGE_1, "page-cache"),
        [at_least("MB/s", 2.0), CPU, Goal("written/byte", "most", 1.15, "itself")],
    ),
    Row("produce-large-4", "the same, 4 connections", produce(LARGE_4, "page-cache"), [at_least("MB/s", 1.5), CPU]),
    Row(
        "produce-16k",
        "produce 1 KB in 16 KiB batches, 16 connections",
        produce(BATCHES_16K, "page-cache"),
        [at_least("MB/s", 1.5), at_most("p99 ms", 0.7), CPU],
    ),
    Row(
        "produce-100b",
        "produce 100 B records, 16 KiB batches, 1 connection",
        produce(SMALL_RECORDS, "page-cache"),
        [at_least("MB/s", 2.0), CPU],
    ),
    Row(
        "connections-1000",
        "produce 1 KB, a batch each, 1,000 connections",
        produce(MANY_CONNECTIONS, "page-cache"),
        [CPU],
    ),
    Row(
        "ack",
        "acknowledgement at 1,000 msg/s of 1 KB, open loop",
        produce(STEADY, "page-cache"),
        [at_most("p50 ms", 1.0), at_most("p99 ms", 0.5), at_most("p99.9 ms", 0.5)],
    ),
    Row(
        "end-to-end",
        "end to end at 1,000 msg/s of 1 KB",
        to_the_end(STEADY, 1),
        [at_most("p50 ms", 1.0), at_most("p99 ms", 0.5)],
    ),
    Row(
        "consume",
        "consume from the page cache, 1 MiB fetches",
        consume(CONSUME),
        [at_least("MB/s", 1.3), at_most("CPU s/GB", 1.0)],
    ),
    Row(
        "fan-out-100",
        "100 MB/s in, 5 consumers on the tail",
        to_the_end(HUNDRED_MB_S, 5),
        [at_most("p99 ms", 0.7), at_most("CPU s/GB", 0.5)],
    ),
    Row(
        "fan-out-flat",
        "flat out, 5 consumers on the tail",
        to_the_end(FLAT_OUT, 5),
        [at_least("out MB/s", 1.5)],
    ),
    Row(
        "idle-1000",
        "1,000 idle and 50 active connections, 1 KB",
        beside_idle_connections(FIFTY),
        [at_least("records/s", 1.5), at_most("p99 ms", 1.0)],
    ),
    Row(
        "partitions-1000",
        "1,000 partitions in one topic, 16 KiB batches, 16 connections",
        many_partitions(THOUSAND_PARTITIONS),
        [at_most("create ms", 1.0), at_least("MB/s", 1.5)],
    ),
    Row(
        "fsync-ack",
        "fsync: acknowledgement at 1,000 msg/s of 1 KB, open loop",
        produce(STEADY, "fsync"),
        [at_most("p50 ms", 0.8), at_most("p99 ms", 0.7)],
        durability="fsync",
    ),
    Row(
        "fsync-16k",
        "fsync: 16 KiB batches, 16 connections",
        produce(BATCHES_16K, "fsync"),
        [at_least("MB/s", 3.0), at_most("p50 ms", 0.4), Goal("written MB/s", "least", 0.9, "disk")],
        durability="fsync",
        seconds=10.0,
    ),
    Row(
        "fsync-large-4",
        "fsync: 1 MiB requests of 128 KiB batches, 4 connections",
        produce(LARGE_4, "fsync"),
        [at_least("MB/s", 1.0)],
        durability="fsync",
    ),
    Row(
        "perf-test-1k",
        "kafka-producer-perf-test, 1 KB records",
        client_tools.perf_test_produce(1024),
        [at_least("MB/s", 1.2)],
        repeats=3,
    ),
    Row(
        "perf-test-100b",
        "kafka-producer-perf-test, 100 B records",
        client_tools.perf_test_produce(100),
        [at_least("MB/s", 1.2)],
        repeats=3,
    ),
    Row("perf-test-consume", "kafka-consumer-perf-test, 1 KB records", client_tools.perf_test_consume(), repeats=3),
    Row(
        "librdkafka-1k",
        "librdkafka (kcat), 1 KB records in 16 KiB batches",
        client_tools.kcat_produce(1024),
        [at_least("MB/s", 1.2)],
        repeats=3,
        needs=["kcat"],
    ),
    Row(
        "librdkafka-100b",
        "librdkafka (kcat), 100 B records in 16 KiB batches",
        client_tools.kcat_produce(100),
        [at_least("MB/s", 1.2)],
        repeats=3,
        needs=["kcat"],
    ),
    Row(
        "fsync-2-minutes",
        "fsync: 16 KiB batches, 16 connections, two minutes",
        produce(BATCHES_16K, "fsync"),
        [Goal("written MB/s", "least", 0.9, "disk")],
        durability="fsync",
        seconds=120.0,
        repeats=1,
        is_long=True,
    ),
    Row(
        "sustained",
        "30 GB of 1 KB records, 1 MiB requests, 4 connections: beyond the page cache",
        produce(LARGE_4, "page-cache", limit_bytes=SUSTAINED_BYTES),
        [at_least("MB/s", 1.0), Goal("written/byte", "most", 1.15, "itself")],
        seconds=600.0,
        repeats=1,
        is_long=True,
    ),
    Row("memory", "memory, the most that any workload took", peak_memory, [at_most("memory MB", 0.25)], repeats=1),
]

OF_ITS_OWN = [
    Row(
        "s3-flat-out",
        "S3 mode, 1 KB records in 128 KiB batches, 64 MiB on their way",
        None,
        [at_least("MB/s", 0.8)],
        seconds=12.0,
        repeats=1,
        is_long=True,
        beside="the store alone",
        comparison=store_flat_out,
    ),
    Row(
        "s3-requests",
        "S3 mode at 50 MB/s: requests to the store for each GB, until all lies in segments",
        None,
        [Goal("WAL PUT/GB", "most", 250, "itself"), Goal("LIST/GB meanwhile", "most", 0, "itself")],
        seconds=12.0,
        repeats=1,
        is_long=True,
        beside="",
        comparison=store_at_a_rate,
    ),
    Row(
        "s3-one-connection",
        "S3 mode, 200 requests/s of one connection",
        None,
        [at_most("p99 ms", 1.0)],
        seconds=12.0,
        repeats=1,
        is_long=True,
        beside="an interval and 1.5 x a PUT's p99",
        comparison=store_one_connection,
    ),
    Row(
        "two-brokers",
        f"two brokers on one machine, 16 KiB batches (required from four cores on; here {os.cpu_count()})",
        None,
        [at_least("MB/s", 1.6)],
        repeats=3,
        is_long=True,
        beside="one broker",
        comparison=two_brokers,
    ),
]
"""Without Kafka: these start what they need."""

RATES_MB_S = [10, 25, 50, 100, 200, 300, 400, 600]
PARTITIONS = [1, 16, 128, 1024]
CONNECTIONS = [1, 4, 16, 64, 256, 1000]


def _at_rate(mb_s: float) -> Workload:
    return Workload("", 16, 16, 4, 16 * 1024, rate=mb_s * 1e6 / (16 * 1024))


def _over_partitions(partitions: int) -> Workload:
    return Workload("", partitions, 16, 4, 16 * 1024)


def _over_connections(connections: int) -> Workload:
    return Workload("", 16, connections, max(1, 64 // connections), 16 * 1024)


CURVES = [
    *(
        Row(
            f"rate-{mb_s}",
            f"16 KiB batches at {mb_s} MB/s",
            produce(_at_rate(mb_s), "page-cache"),
            repeats=1,
            is_long=True,
            curve=("rate", mb_s),
        )
        for mb_s in RATES_MB_S
    ),
    *(
        Row(
            f"over-partitions-{count}",
            f"16 KiB batches over {count} partitions",
            produce(_over_partitions(count), "page-cache"),
            repeats=1,
            is_long=True,
            curve=("partitions", count),
        )
        for count in PARTITIONS
    ),
    *(
        Row(
            f"over-connections-{count}",
            f"16 KiB batches over {count} connections, 64 requests in flight or more",
            produce(_over_connections(count), "page-cache"),
            repeats=1,
            is_long=True,
            curve=("connections", count),
        )
        for count in CONNECTIONS
    ),
]

MOST_PARTITIONS = Row(
    "partitions-10000",
    "10,000 partitions in one topic, 1 KB, 16 connections",
    most_partitions(TEN_THOUSAND_PARTITIONS),
    [at_most("p99 ms", 1.0), Goal("KB/partition", "most", 2, "itself")],
    repeats=1,
    is_long=True,
)
"""The last: it restarts the servers, and for minutes after it Kafka would be busy with deleting its files."""
