"""Topics for a workload: made, filled, counted and deleted over the wire, the same way on both servers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kafka.protocol.admin import CreatePartitionsRequest, DeleteTopicsRequest
from kafka.protocol.metadata import MetadataRequest

from benchmarks.against_kafka.contenders import Contender, Durability
from tests.interop.wire import Wire
from tests.support import probe

PATIENCE_S = 120.0
MOST_PARTITIONS_AT_ONCE = 5000
"""Kafka refuses (POLICY_VIOLATION) what makes more than 10,000 records of metadata; the topic itself is one."""
_numbers = itertools.count(1)


@contextmanager
def fresh_topic(contender: Contender, partitions: int, durability: Durability) -> Iterator[str]:
    """A new topic whose partitions all take records; it is deleted at the end."""
    topic = f"bench-{next(_numbers)}"
    create(contender, topic, partitions, durability)
    try:
        yield topic
    finally:
        delete(contender, topic)


def create(contender: Contender, topic: str, partitions: int, durability: Durability) -> float:
    """Returns after how many seconds the server said that the topic is there; waits until every partition is."""
    with probe.connect(contender.address, PATIENCE_S) as wire:
        started = time.monotonic()
        count = min(partitions, MOST_PARTITIONS_AT_ONCE)
        code = probe.create_topic(wire, topic, count, **contender.topic_configs(durability))
        while code == 0 and count < partitions:
            count = min(partitions, count + MOST_PARTITIONS_AT_ONCE)
            code = _grow(wire, topic, count)
        took_s = time.monotonic() - started
        assert code == 0, f"{contender.name} did not create a topic: error {code}"
        deadline = started + PATIENCE_S
        while not _all_led(wire, topic, partitions):
            assert time.monotonic() < deadline, f"{contender.name}: partitions of {topic} have no leader"
            time.sleep(0.02)
        end_offsets(wire, topic, range(partitions))
    return took_s


def _grow(wire: Wire, topic: str, partitions: int) -> int:
    rows = [{"name": topic, "count": partitions, "assignments": None}]
    fields = {"topics": rows, "timeout_ms": 60_000, "validate_only": False}
    [grown] = wire.call(probe.build(CreatePartitionsRequest, 2, fields)).results
    return int(grown.error_code)


def _all_led(wire: Wire, topic: str, partitions: int) -> bool:
    request = probe.build(MetadataRequest, 9, {"topics": [{"name": topic}], "allow_auto_topic_creation": False})
    [found] = wire.call(request).topics
    led = [one for one in found.partitions if one.error_code == 0 and one.leader_id >= 0]
    return found.error_code == 0 and len(led) == partitions


def end_offsets(wire: Wire, topic: str, indexes: Sequence[int], timestamp: int = -1) -> list[int]:
    """Patient with partitions that are not open yet: none of that is measured."""
    deadline = time.monotonic() + PATIENCE_S
    rows = [{"partition_index": index, "current_leader_epoch": -1, "timestamp": timestamp} for index in indexes]
    fields = {"replica_id": -1, "isolation_level": 0, "topics": [{"name": topic, "partitions": rows}]}
    while True:
        [found] = wire.call(probe.build(probe.ListOffsetsRequest, 6, fields)).topics
        if all(one.error_code == 0 for one in found.partitions):
            return [int(one.offset) for one in sorted(found.partitions, key=lambda one: one.partition_index)]
        refused = sorted({one.error_code for one in found.partitions} - {0})
        assert time.monotonic() < deadline, f"partitions of {topic} are answered with {refused}"
        time.sleep(0.05)


def delete(contender: Contender, topic: str) -> None:
    with probe.connect(contender.address, PATIENCE_S) as wire:
        wire.call(probe.build(DeleteTopicsRequest, 4, {"topic_names": [topic], "timeout_ms": 60_000}))


def fill(contender: Contender, topic: str, records: bytes, size_bytes: int) -> int:
    """Puts batches into partition 0 until it has so many bytes; returns its end offset."""
    with probe.connect(contender.address, PATIENCE_S) as wire:
        for _ in range(size_bytes // len(records)):
            code, _ = probe.produce(wire, topic, records)
            assert code == 0, f"{contender.name} refused records: error {code}"
        return end_offsets(wire, topic, [0])[0]
