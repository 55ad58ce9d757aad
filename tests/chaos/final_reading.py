"""The logs as they are at the end: every offset of them by plain Fetch requests, and what read_committed shows.

Owns: reading. Nothing of the brokers' own code reads here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition
from kafka.protocol.consumer import FetchRequest

from tests.chaos.client import CONNECTION, bury
from tests.chaos.cluster import READING, ChaosCluster
from tests.interop.batches import CONTROL, records_of
from tests.interop.differential import build
from tests.interop.wire import Wire
from tests.simulation.broker.history import TopicPartition as Partition
from tests.support import probe

FETCH_BYTES = 8 * 1024 * 1024
MARKER = b""


class NotReadable(Exception):
    """Not within the time given."""


def read_raw(
    cluster: ChaosCluster, partition: Partition, give_up_at: Callable[[], float]
) -> tuple[dict[int, bytes], int]:
    """Every record by its offset (a marker has no value), and the end of the log."""
    found: dict[int, bytes] = {}
    while True:
        try:
            with _leader(cluster, partition) as wire:
                return _read_from(wire, partition, found)
        except (OSError, EOFError, AssertionError, LookupError) as error:
            if time.monotonic() > give_up_at():
                raise NotReadable(f"{partition[0]}-{partition[1]}: {type(error).__name__}: {error}") from error
            time.sleep(0.2)


def _leader(cluster: ChaosCluster, partition: Partition) -> Wire:
    addresses = [broker.node.address for broker in cluster.brokers]
    for address in addresses:
        with Wire(address, 5.0) as wire:
            leader = probe.leaders(wire, partition[0])[partition[1]]
            if leader >= 0:
                return Wire(addresses[leader], 10.0)
    raise LookupError("nobody owns it")


def _read_from(wire: Wire, partition: Partition, found: dict[int, bytes]) -> tuple[dict[int, bytes], int]:
    while True:
        offset = len(found)
        data, end = _fetch(wire, partition, offset)
        for batch in records_of(data):
            for at, _, value in batch.records:
                if at >= offset:
                    found[at] = MARKER if batch.attributes & CONTROL else value or MARKER
        if offset >= end:
            return found, end
        assert len(found) > offset, f"nothing is given at {offset} of {end}"


def _fetch(wire: Wire, partition: Partition, offset: int) -> tuple[bytes, int]:
    row = {"partition": partition[1], "current_leader_epoch": -1, "fetch_offset": offset, "last_fetched_epoch": -1}
    row |= {"log_start_offset": -1, "partition_max_bytes": FETCH_BYTES}
    fields: dict[str, Any] = {"replica_id": -1, "max_wait_ms": 0, "min_bytes": 0, "max_bytes": FETCH_BYTES}
    fields |= {"isolation_level": 0, "session_id": 0, "session_epoch": -1, "rack_id": "", "forgotten_topics_data": []}
    fields["topics"] = [{"topic": partition[0], "partitions": [row]}]
    answer = wire.call(build(FetchRequest, 12, fields)).responses[0].partitions[0]
    assert answer.error_code == 0, f"Fetch is answered {answer.error_code}"
    return bytes(answer.records or b""), int(answer.high_watermark)


def read_committed(
    cluster: ChaosCluster, ends: dict[Partition, int], give_up_at: Callable[[], float]
) -> dict[Partition, dict[int, bytes]]:
    """Of each partition, what a consumer is given up to its end: no transaction is open any more then."""
    config = {"bootstrap.servers": cluster.way(READING).bootstrap, "group.id": "last reader", **CONNECTION}
    consumer = Consumer(
        {**config, "enable.auto.commit": False, "enable.partition.eof": True, "isolation.level": "read_committed"}
    )
    consumer.assign([TopicPartition(*partition, 0) for partition in ends])
    visible: dict[Partition, dict[int, bytes]] = {partition: {} for partition in ends}
    missing = set(ends)
    while missing:
        if time.monotonic() > give_up_at():
            raise NotReadable(f"read_committed does not come to the end of {sorted(missing)}")
        for message in consumer.consume(1000, 0.2):
            partition = message.topic(), message.partition()
            error = message.error()
            if error is None:
                visible[partition][message.offset()] = message.value()
            elif error.code() == KafkaError._PARTITION_EOF and message.offset() >= ends[partition]:
                missing.discard(partition)
    grave = [consumer]
    del consumer
    bury(grave)
    return visible
