"""Cases of Produce to topics that change or limit what they take: compression.type, LogAppendTime, limits of time."""

from __future__ import annotations

import gzip
import re
import time
from typing import Any

from kafka.protocol.admin import IncrementalAlterConfigsRequest
from kafka.protocol.consumer import FetchRequest
from kafka.record.memory_records import MemoryRecords

from tests.interop.batches import batch, describe, record
from tests.interop.differential import FIRST_OWN_PRODUCER_ID, Subject, case
from tests.interop.differential_produce import produce

PID = FIRST_OWN_PRODUCER_ID + 500
TARGETS = ("uncompressed", "gzip", "snappy", "lz4", "zstd", "producer")
GZIP = 1
HOUR_MS = 3_600_000
NO_TIMESTAMP = -1


def three_records(base_timestamp: int, codec: int = 0, deltas: tuple[int, ...] = (0, 10, 5), **fields: Any) -> bytes:
    """Large enough to be worth compressing; the largest timestamp is not the last one's."""
    values = [bytes([65 + number]) * 300 for number in range(len(deltas))]
    rows = enumerate(zip(values, deltas, strict=True))
    body = b"".join(record(value, b"key", offset_delta=n, timestamp_delta=delta) for n, (value, delta) in rows)
    given = {"base_timestamp": base_timestamp, "max_timestamp": base_timestamp + max(deltas), "attributes": codec}
    return batch(values, body=gzip.compress(body, mtime=0) if codec else body, **given | fields)


def show_log(subject: Subject, label: str, topic: str) -> None:
    """Headers and records, decompressed: two libraries need not compress to the same bytes."""
    headers: list[dict[str, Any]] = []
    rows: list[tuple[Any, ...]] = []
    end = 1
    while len(rows) < end:
        [partition] = _read(subject, topic, len(rows)).partitions
        end, data = partition.high_watermark, bytes(partition.records or b"")
        headers += [{name: value for name, value in found.items() if name != "body"} for found in describe(data)]
        records = MemoryRecords(data)
        while (batch_of_records := records.next_batch()) is not None:
            rows += [_shown(row) for row in batch_of_records]
    subject.note(f"{label}: batches", headers)
    subject.note(f"{label}: records", rows)


def _shown(row: Any) -> tuple[Any, ...]:
    return row.offset, row.timestamp, row.timestamp_type, row.key.decode(), row.value[:3].decode()


def _read(subject: Subject, topic: str, offset: int) -> Any:
    """Kafka gives records of one segment at most."""
    partition = {"partition": 0, "fetch_offset": offset, "current_leader_epoch": -1, "last_fetched_epoch": -1}
    topics = [{"topic": topic, "partitions": [{**partition, "log_start_offset": -1, "partition_max_bytes": 1_048_576}]}]
    fields = {"replica_id": -1, "max_wait_ms": 500, "min_bytes": 1, "max_bytes": 1_048_576, "isolation_level": 0}
    fields |= {"session_id": 0, "session_epoch": -1, "topics": topics, "rack_id": "", "forgotten_topics_data": []}
    [answer] = subject.quiet(FetchRequest, 12, fields).responses
    return answer


@case
def compression_type_of_the_topic(subject: Subject) -> None:
    for target in TARGETS:
        for codec in (0, GZIP):
            topic = subject.topic(compression_type=target)
            label = f"{target} from codec {codec}"
            produce(subject, label, topic, three_records(1_700_000_000_000, codec))
            who = {"producer_id": PID, "producer_epoch": 0, "base_sequence": 0}
            sent = three_records(1_700_000_000_000, codec, **who)
            produce(subject, f"{label}, idempotent", topic, sent)
            produce(subject, f"{label}, again", topic, sent)
            show_log(subject, label, topic)


@case
def compression_type_with_log_append_time(subject: Subject) -> None:
    for target in TARGETS:
        topic = subject.topic(compression_type=target, message_timestamp_type="LogAppendTime")
        produce(subject, target, topic, three_records(1_700_000_000_000, GZIP))
        show_log(subject, target, topic)


@case
def message_timestamp_limits(subject: Subject) -> None:
    limits = {"message_timestamp_before_max_ms": str(10 * HOUR_MS), "message_timestamp_after_max_ms": str(5 * HOUR_MS)}
    now = int(time.time() * 1000)
    old, new = now - 11 * HOUR_MS, now + 6 * HOUR_MS
    batches = {  # whatever is accepted is seen in the answer; what is in the log depends on the time of day
        "within": three_records(now),
        "at the edges": three_records(now - 9 * HOUR_MS, deltas=(0, 13 * HOUR_MS)),
        "too old": three_records(old),
        "too new": three_records(new),
        "the second too old": three_records(now, deltas=(0, old - now)),
        "the second too new": three_records(now, deltas=(0, new - now)),
        "the second too new, which the header hides": three_records(now, deltas=(0, new - now), max_timestamp=now),
        "only the header too new": three_records(now, max_timestamp=new),
        "no timestamps": three_records(NO_TIMESTAMP, deltas=(0, 0)),
        "the first without a timestamp": three_records(NO_TIMESTAMP, deltas=(0, now + 1)),
    }
    for codec in (0, GZIP):
        for label, records in batches.items():
            packed = records if codec == 0 else _compressed(records)
            produce(subject, f"{label}, codec {codec}", subject.topic(**limits), packed)
            future = subject.topic(message_timestamp_after_max_ms=str(5 * HOUR_MS))
            produce(subject, f"{label}, codec {codec}, any age", future, packed)
            appended = subject.topic(message_timestamp_type="LogAppendTime", **limits)
            produce(subject, f"{label}, codec {codec}, log append time", appended, packed)


def _compressed(records: bytes) -> bytes:
    """The same batch with gzip."""
    [found] = describe(records)
    kept = ("base_timestamp", "max_timestamp", "count", "last_offset_delta")
    return batch([], body=gzip.compress(records[61:], mtime=0), attributes=GZIP, **{name: found[name] for name in kept})


@case
def records_without_keys(subject: Subject) -> None:
    now = int(time.time() * 1000)
    future = now + 10 * HOUR_MS
    batches = {
        "one": _keyed([False], [now]),
        "the second of three": _keyed([True, False, True], [now] * 3),
        "five": _keyed([False, True, False, False, False, False], [now] * 6),
        "all have one": _keyed([True, True], [now] * 2),
        "in the future": _keyed([False, True], [future] * 2),
        "one of them in the future": _keyed([False, True], [now, future]),
        "the one without in the future": _keyed([False, True], [future, now]),
    }
    for codec in (0, GZIP):
        for label, records in batches.items():
            packed = records if codec == 0 else _compressed(records)
            for policy in ("compact", "compact,delete", "delete"):
                topic = subject.topic(cleanup_policy=policy)
                produce_in_words(subject, f"{label}, codec {codec}, {policy}", topic, packed)
            appended = subject.topic(cleanup_policy="compact", message_timestamp_type="LogAppendTime")
            produce_in_words(subject, f"{label}, codec {codec}, log append time", appended, packed)


def produce_in_words(subject: Subject, label: str, topic: str, records: bytes) -> None:
    """With the texts, which elsewhere are each server's own; times of day are left out of them."""
    [answered] = produce(subject, label, topic, records).responses
    [result] = answered.partition_responses
    texts = [result.error_message, *(one.batch_index_error_message for one in result.record_errors)]
    subject.note(f"{label}: in words", [text and re.sub(r"-?\d{10,}", "<time>", text) for text in texts])


def _keyed(keyed: list[bool], timestamps: list[int]) -> bytes:
    base = timestamps[0]
    rows = [
        record(b"value", b"key" if has_key else None, offset_delta=n, timestamp_delta=timestamp - base)
        for n, (has_key, timestamp) in enumerate(zip(keyed, timestamps, strict=True))
    ]
    given = {"base_timestamp": base, "max_timestamp": max(timestamps)}
    return batch([b"value"] * len(rows), body=b"".join(rows), **given)


@case
def message_timestamp_type_changes(subject: Subject) -> None:
    topic = subject.topic()
    old = 1_700_000_000_000
    produce(subject, "create time", topic, three_records(old))
    for label, name, value in (
        ("log append time", "message.timestamp.type", "LogAppendTime"),
        ("create time again", "message.timestamp.type", "CreateTime"),
        ("limited", "message.timestamp.before.max.ms", "1000"),
        ("compressed", "compression.type", "zstd"),
    ):
        config = {"name": name, "config_operation": 0, "value": value}
        resource = {"resource_type": 2, "resource_name": topic, "configs": [config]}
        fields = {"resources": [resource], "validate_only": False}
        subject.call(f"{label}: altered", IncrementalAlterConfigsRequest, 1, **fields)
        _wait_for_brokers()
        produce(subject, label, topic, three_records(old))
    show_log(subject, "in the end", topic)


def _wait_for_brokers() -> None:
    """Kafka's brokers hear of a change a moment after the controller has answered, and give no sign of it."""
    time.sleep(0.5)
