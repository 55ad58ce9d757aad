"""The workloads: which frames are sent, on how many connections, and how. Owns no measuring."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.loader import NO_OFFSETS, Address, Offsets, Result, load
from tests.interop.batches import batch
from tests.support import probe

FETCH_BYTES = 1 << 20
MARK = 0x7071727374750000
"""Stands, with the partition added, where the offset of a Fetch request belongs; tail.c knows it too."""


@dataclass(frozen=True)
class Workload:
    name: str
    partitions: int
    connections: int
    window: int
    """Requests in flight on each connection."""
    batch_bytes: int
    batches_per_request: int = 1
    """Each to a partition of its own."""
    rate: float = 0.0
    """Requests a second in all, on a schedule; 0: as fast as they are answered."""
    record_bytes: int = 1024
    fetch: bool = False

    @property
    def records_per_batch(self) -> int:
        return max(1, self.batch_bytes // self.record_bytes)

    @property
    def records_per_request(self) -> int:
        return self.records_per_batch * self.batches_per_request


LARGE_1 = Workload("produce 1 MiB requests, 1 connection", 16, 1, 4, 128 * 1024, 8)
LARGE_4 = Workload("produce 1 MiB requests, 4 connections", 16, 4, 2, 128 * 1024, 8)
BATCHES_16K = Workload("produce 16 KiB batches, 16 connections", 16, 16, 4, 16 * 1024)
STEADY = Workload("produce 1 KB, open loop 1,000/s", 1, 1, 1, 1024, rate=1000.0)
CONSUME = Workload("consume 1 MiB fetches, 1 connection", 1, 1, 1, 128 * 1024, fetch=True)


def one_batch(workload: Workload) -> bytes:
    """Records that do not compress; the batch is not compressed either."""
    overhead = 12
    return batch([os.urandom(workload.record_bytes - overhead) for _ in range(workload.records_per_batch)])


def send(
    workload: Workload,
    address: Address,
    frames: Sequence[bytes],
    *,
    seconds: float,
    warmup_s: float,
    limit_bytes: int = 0,
    offsets: Offsets = NO_OFFSETS,
) -> Result:
    """The frames over and over, on as many connections and as fast as the workload says. Raises LoadFailed."""
    return load(
        address,
        frames,
        connections=workload.connections,
        window=workload.window,
        seconds=seconds,
        warmup_s=warmup_s,
        limit_bytes=limit_bytes,
        rate=workload.rate,
        offsets=offsets,
    )


def framed(request: object) -> bytes:
    request.with_header(correlation_id=1, client_id="bench")  # type: ignore[attr-defined]
    return bytes(request.encode(header=True, framed=True))  # type: ignore[attr-defined]


def produce_frames(workload: Workload, topic: str, records: bytes) -> list[bytes]:
    """So many that all partitions are used in turn."""
    return [
        produce_frame(topic, range(first, first + workload.batches_per_request), records)
        for first in range(0, workload.partitions, workload.batches_per_request)
    ]


def produce_frame(topic: str, indexes: Sequence[int], records: bytes) -> bytes:
    """The same batch to each of the partitions."""
    partitions = [{"index": index, "records": records} for index in indexes]
    data = [{"name": topic, "partition_data": partitions}]
    fields = {"transactional_id": None, "acks": -1, "timeout_ms": 30_000, "topic_data": data}
    return framed(probe.build(probe.ProduceRequest, 9, fields))


def fetch_frame(topic: str, partitions: Sequence[int], partition_max_bytes: int = FETCH_BYTES) -> bytes:
    """A fetch of some partitions at the offsets MARK + partition, to be replaced."""
    rows = [
        {
            "partition": index,
            "current_leader_epoch": -1,
            "fetch_offset": MARK + index,
            "last_fetched_epoch": -1,
            "log_start_offset": -1,
            "partition_max_bytes": partition_max_bytes,
        }
        for index in partitions
    ]
    fields: dict[str, object] = {"replica_id": -1, "max_wait_ms": 500, "min_bytes": 1, "max_bytes": 50 << 20}
    fields |= {"isolation_level": 0, "session_id": 0, "session_epoch": -1, "rack_id": "", "forgotten_topics_data": []}
    fields["topics"] = [{"topic": topic, "partitions": rows}]
    return framed(probe.build(probe.FetchRequest, 12, fields))


def fetch_in_turn(topic: str, workload: Workload, batch_bytes: int, end_offset: int) -> tuple[bytes, Offsets]:
    """A fetch of partition 0 and the offsets that it goes through.

    It asks for just so many bytes as some batches have: Kafka would send part of one more.
    """
    batches = -(-FETCH_BYTES // batch_bytes)
    frame = fetch_frame(topic, [0], batches * batch_bytes)
    step = batches * workload.records_per_batch
    return frame, Offsets(frame.index(MARK.to_bytes(8, "big")), step, end_offset - end_offset % step)
