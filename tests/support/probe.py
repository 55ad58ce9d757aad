"""A few requests over raw TCP, for scenarios that watch a node from outside. Encoded by kafka-python, batches by
hand.
"""

from __future__ import annotations

import time
from typing import Any

from kafka.protocol.admin import CreateTopicsRequest
from kafka.protocol.consumer import FetchRequest, ListOffsetsRequest
from kafka.protocol.metadata import FindCoordinatorRequest, MetadataRequest
from kafka.protocol.producer import ProduceRequest

from tests.interop.batches import batch, describe
from tests.interop.differential import build
from tests.interop.wire import Wire

GROUP, TRANSACTION = 0, 1
"""Whom a coordinator is for."""


def connect(address: tuple[str, int], timeout_s: float = 60.0) -> Wire:
    """A connection to a server that may still be starting."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return Wire(address, timeout_s)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)


def create_topic(wire: Wire, topic: str, partitions: int = 1, **configs: str) -> int:
    """Kafka's error code. The topic can be produced to when it is 0."""
    entries = [{"name": name.replace("_", "."), "value": value} for name, value in configs.items()]
    row = {"name": topic, "num_partitions": partitions, "replication_factor": 1}
    topics = [{**row, "assignments": [], "configs": entries}]
    [created] = wire.call(build(CreateTopicsRequest, 5, {"topics": topics, "timeout_ms": 60_000})).topics
    return int(created.error_code)


def produce_request(topic: str, records: bytes, *, index: int = 0, acks: int = -1) -> Any:
    data = [{"name": topic, "partition_data": [{"index": index, "records": records}]}]
    fields = {"transactional_id": None, "acks": acks, "timeout_ms": 60_000, "topic_data": data}
    return build(ProduceRequest, 9, fields)


def produce(wire: Wire, topic: str, records: bytes | None = None, *, index: int = 0) -> tuple[int, int]:
    """(error code, base offset)."""
    answer = wire.call(produce_request(topic, records or batch(), index=index)).responses[0].partition_responses[0]
    return answer.error_code, answer.base_offset


def fetch(wire: Wire, topic: str, offset: int, *, index: int = 0, max_wait_ms: int = 100) -> tuple[int, list[Any]]:
    """(error code, what the batches are)."""
    row = {"partition": index, "current_leader_epoch": -1, "fetch_offset": offset, "last_fetched_epoch": -1}
    row |= {"log_start_offset": -1, "partition_max_bytes": 1_048_576}
    fields: dict[str, Any] = {"replica_id": -1, "max_wait_ms": max_wait_ms, "min_bytes": 1, "max_bytes": 10_485_760}
    fields |= {"isolation_level": 0, "session_id": 0, "session_epoch": -1, "rack_id": "", "forgotten_topics_data": []}
    fields["topics"] = [{"topic": topic, "partitions": [row]}]
    partition = wire.call(build(FetchRequest, 12, fields)).responses[0].partitions[0]
    return partition.error_code, describe(bytes(partition.records or b""))


def list_offsets_fields(topic: str, index: int = 0, timestamp: int = -1) -> dict[str, Any]:
    row = {"partition_index": index, "current_leader_epoch": -1, "timestamp": timestamp}
    return {"replica_id": -1, "isolation_level": 0, "topics": [{"name": topic, "partitions": [row]}]}


def end_offset(wire: Wire, topic: str, index: int = 0, timestamp: int = -1) -> int:
    fields = list_offsets_fields(topic, index, timestamp)
    partition = wire.call(build(ListOffsetsRequest, 6, fields)).topics[0].partitions[0]
    assert partition.error_code == 0, partition
    return int(partition.offset)


def find_coordinator(wire: Wire, group: str) -> int:
    """Kafka's error code."""
    return int(wire.call(build(FindCoordinatorRequest, 2, {"key": group, "key_type": 0})).error_code)


def coordinator(wire: Wire, name: str, kind: int = GROUP) -> int:
    return int(wire.call(build(FindCoordinatorRequest, 2, {"key": name, "key_type": kind})).node_id)


def leaders(wire: Wire, topic: str) -> list[int]:
    """The owner of each partition; -1: none."""
    [found] = wire.call(build(MetadataRequest, 9, {"topics": [{"name": topic}]})).topics
    return [one.leader_id for one in sorted(found.partitions, key=lambda one: one.partition_index)]


def brokers(wire: Wire) -> list[tuple[int, str, int]]:
    response = wire.call(build(MetadataRequest, 9, {"topics": []}))
    return [(broker.node_id, broker.host, broker.port) for broker in response.brokers]
