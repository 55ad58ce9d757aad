"""The workloads: which frames are sent, on how many connections, and how. Owns no measuring."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tests.interop.batches import batch
from tests.support import probe

RECORD_BYTES = 1024
TOPIC = "bench"
SECONDS = 5.0
WARMUP_S = 1.0
FETCH_BYTES = 1 << 20
RECORDS_PER_FETCHED_BATCH = 125


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
    fetch: bool = False

    @property
    def records_per_batch(self) -> int:
        return max(1, self.batch_bytes // RECORD_BYTES)


WORKLOADS = [
    Workload("produce 1 MiB requests, 1 connection", 16, 1, 4, 128 * 1024, 8),
    Workload("produce 1 MiB requests, 4 connections", 16, 4, 2, 128 * 1024, 8),
    Workload("produce 16 KiB batches, 16 connections", 16, 16, 4, 16 * 1024),
    Workload("produce 1 KB, open loop 1,000/s", 1, 1, 1, RECORD_BYTES, rate=1000.0),
    Workload("consume 1 MiB fetches, 1 connection", 1, 1, 1, 128 * 1024, fetch=True),
]


def one_batch(workload: Workload) -> bytes:
    """Records of 1 KB that do not compress; the batch is not compressed either."""
    overhead = 12
    return batch([os.urandom(RECORD_BYTES - overhead) for _ in range(workload.records_per_batch)])


def framed(request: object) -> bytes:
    request.with_header(correlation_id=1, client_id="bench")  # type: ignore[attr-defined]
    return bytes(request.encode(header=True, framed=True))  # type: ignore[attr-defined]


def produce_frames(workload: Workload, records: bytes) -> list[bytes]:
    """So many that all partitions are used in turn."""
    frames = []
    for first in range(0, workload.partitions, workload.batches_per_request):
        indexes = range(first, first + workload.batches_per_request)
        partitions = [{"index": index, "records": records} for index in indexes]
        data = [{"name": TOPIC, "partition_data": partitions}]
        fields = {"transactional_id": None, "acks": -1, "timeout_ms": 30_000, "topic_data": data}
        frames.append(framed(probe.build(probe.ProduceRequest, 9, fields)))
    return frames


MARK = 0x7071727374757677


def fetch_frame(partition_max_bytes: int) -> tuple[bytes, int]:
    """A fetch of one partition, and where in the frame its offset is."""
    row = {"partition": 0, "current_leader_epoch": -1, "fetch_offset": MARK, "last_fetched_epoch": -1}
    row |= {"log_start_offset": -1, "partition_max_bytes": partition_max_bytes}
    fields: dict[str, object] = {"replica_id": -1, "max_wait_ms": 500, "min_bytes": 1, "max_bytes": 64 << 20}
    fields |= {"isolation_level": 0, "session_id": 0, "session_epoch": -1, "rack_id": "", "forgotten_topics_data": []}
    fields["topics"] = [{"topic": TOPIC, "partitions": [row]}]
    frame = framed(probe.build(probe.FetchRequest, 12, fields))
    return frame, frame.index(MARK.to_bytes(8, "big"))
