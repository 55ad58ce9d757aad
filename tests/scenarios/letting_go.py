"""Topics whose records go in every way there is, and readers meanwhile: for scenarios on local files and on S3.

Owns: what each way must leave, and what a reader may be told. Must not: know where records are kept.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from kafka.protocol.consumer import FetchRequest, ListOffsetsRequest

from tests.interop.batches import records_of
from tests.interop.differential import build
from tests.interop.wire import Wire
from tests.support import probe
from tests.support.node_process import NodeProcess

TIMEOUT_S = 90.0
RECORDS = 3_000
VALUE_BYTES = 800
LONG_AGO_MS = 1_000_000
HOUR_MS = 3_600_000
OFFSET_OUT_OF_RANGE = 1
SEGMENT_BYTES = {"segment_bytes": "1048576"}

TOPICS: dict[str, dict[str, str]] = {
    "old": {"retention_ms": "60000"},
    "young": {"retention_ms": "1000"},  # with records of the future
    "stamped": {"retention_ms": "3600000", "message_timestamp_type": "LogAppendTime"},
    "sized": {"retention_bytes": "1048576"},
    "cut": {},
    "gone": {},
}
"""Each of one partition, by what lets go of it."""
READ = ("sized", "cut", "gone")
"""Those that have readers meanwhile."""


def produce_all(bootstrap: str) -> None:
    for topic in TOPICS:
        produce(bootstrap, topic)


def produce(bootstrap: str, topic: str) -> None:
    """The value of a record begins with its offset."""
    times_ms = {"young": int(time.time() * 1000) + HOUR_MS // 2, "old": LONG_AGO_MS, "stamped": LONG_AGO_MS}
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "enable.idempotence": True, "log_level": 0})
    for number in range(RECORDS):
        producer.produce(topic, value_of(number), partition=0, timestamp=times_ms.get(topic, 0))
        producer.poll(0)
    assert producer.flush(TIMEOUT_S) == 0


def value_of(offset: int) -> bytes:
    return (b"%d " % offset).ljust(VALUE_BYTES, b".")


def delete_records(admin: AdminClient, topic: str, offset: int) -> None:
    upto = TopicPartition(topic, 0, offset)
    assert admin.delete_records([upto])[upto].result(TIMEOUT_S).low_watermark == offset


def watermarks(bootstrap: str, topic: str) -> tuple[int, int]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "watermarks", "log_level": 0})
    found: tuple[int, int] = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=TIMEOUT_S)
    consumer.close()
    return found


class Reader:
    """Reads a topic from its first offset to its end, again and again, until `stop`; `told` has every error code.

    `brokers` are asked in turn. A connection that breaks is opened again.
    """

    def __init__(self, topic: str, brokers: Sequence[NodeProcess]) -> None:
        self._topic = topic
        self._brokers = itertools.cycle(brokers)
        self._stopping = threading.Event()
        self.told: set[int] = set()
        self.wrong: list[str] = []
        self.records = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive(), "a fetch is not answered"

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with Wire(next(self._brokers).address, TIMEOUT_S) as wire:
                    self._read(wire)
            except (OSError, EOFError):
                time.sleep(0.05)

    def _read(self, wire: Wire) -> None:
        offset = 0
        while not self._stopping.is_set():
            code, data = fetch(wire, self._topic, offset)
            self.told.add(code)
            if code == OFFSET_OUT_OF_RANGE:
                code, offset = earliest(wire, self._topic)
            elif not data:
                offset = 0  # at the end
            if code:
                time.sleep(0.02)
                return
            for batch in records_of(data):
                for at, _, value in batch.records:
                    if value != value_of(at):
                        self.wrong.append(f"offset {at}: {value!r}")
                    self.records += 1
                offset = batch.last_offset + 1


def earliest(wire: Wire, topic: str) -> tuple[int, int]:
    """Error code, offset."""
    request = build(ListOffsetsRequest, 6, probe.list_offsets_fields(topic, timestamp=-2))
    partition = wire.call(request).topics[0].partitions[0]
    return partition.error_code, partition.offset


def fetch(wire: Wire, topic: str, offset: int, max_bytes: int = 100_000) -> tuple[int, bytes]:
    """Error code, record batches."""
    row = {"partition": 0, "current_leader_epoch": -1, "fetch_offset": offset, "last_fetched_epoch": -1}
    row |= {"log_start_offset": -1, "partition_max_bytes": max_bytes}
    request: dict[str, Any] = {
        "replica_id": -1,
        "max_wait_ms": 50,
        "min_bytes": 1,
        "max_bytes": max_bytes,
        "isolation_level": 0,
    }
    request |= {"session_id": 0, "session_epoch": -1, "rack_id": "", "forgotten_topics_data": []}
    topics = [{"topic": topic, "partitions": [row]}]
    partition = wire.call(build(FetchRequest, 12, request | {"topics": topics})).responses[0].partitions[0]
    return partition.error_code, bytes(partition.records or b"")
