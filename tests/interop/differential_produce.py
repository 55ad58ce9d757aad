"""Cases of Produce: batch validation, limits, idempotence. Every row is a corner that a server answered in its own
way once.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from kafka.protocol.admin import DeleteRecordsRequest
from kafka.protocol.producer import InitProducerIdRequest, ProduceRequest

from tests.interop.batches import batch, message_set, record
from tests.interop.differential import FIRST_OWN_PRODUCER_ID, Subject, case
from tests.interop.differential_fetch import fetch

PID = FIRST_OWN_PRODUCER_ID
VERSIONS = range(3, 13)


def produce(
    subject: Subject,
    label: str,
    topic: str,
    records: bytes | None,
    *,
    version: int = 9,
    index: int = 0,
    acks: int = -1,
    transactional_id: str | None = None,
) -> Any:
    data = [{"name": topic, "partition_data": [{"index": index, "records": records}]}]
    fields = {"transactional_id": transactional_id, "acks": acks, "timeout_ms": 5_000, "topic_data": data}
    return subject.call(label, ProduceRequest, version, **fields)


def read_back(subject: Subject, topic: str, label: str = "what is in the log") -> None:
    fetch(subject, label, [(topic, 0, 0)])


@case
def produce_every_version(subject: Subject) -> None:
    topic = subject.topic()
    for version in VERSIONS:
        produce(subject, f"v{version}", topic, batch([f"v{version}".encode()]), version=version)
        produce(subject, f"v{version} unknown topic", f"{topic}-none", batch(), version=version)
        produce(subject, f"v{version} bad crc", topic, batch(crc=1), version=version)
    read_back(subject, topic)


@case
def produce_by_topic_id(subject: Subject) -> None:
    topic = subject.topic()
    ids = {"known": subject.topic_id(topic), "unknown": uuid.UUID(int=77), "zero": uuid.UUID(int=0)}
    for label, topic_id in ids.items():
        data = [{"topic_id": topic_id, "partition_data": [{"index": 0, "records": batch()}]}]
        fields = {"transactional_id": None, "acks": -1, "timeout_ms": 5_000, "topic_data": data}
        subject.call(label, ProduceRequest, 13, **fields)


@case
def produce_acks(subject: Subject) -> None:
    topic = subject.topic()
    for acks in (1, -1, 2, -2, 32767):
        produce(subject, f"acks={acks}", topic, batch(), acks=acks)
    replicas = subject.topic(min_insync_replicas="2")
    produce(subject, "min.insync.replicas=2 acks=all", replicas, batch())
    produce(subject, "acks=0 with an error closes", topic, batch(crc=7), acks=0)
    produce(subject, "negative partition", topic, batch(), index=-1)
    produce(subject, "partition beyond", topic, batch(), index=1)


BAD_BATCHES: dict[str, bytes] = {
    "two batches": batch() + batch(),
    "a whole batch and a cut one": batch() + batch()[:-3],
    "a whole batch and a cut header": batch() + batch()[:20],
    "a cut batch": batch()[:-1],
    "half a header": batch()[:30],
    "twelve bytes": batch()[:12],
    "eleven bytes": batch()[:11],
    "nothing": b"",
    "wrong crc": batch(crc=123),
    "magic 3": batch(magic=3),
    "magic -1": batch(magic=-1),
    "message set v0": message_set(0),
    "message set v1": message_set(1),
    "base offset 5": batch(base_offset=5),
    "base offset -1": batch(base_offset=-1),
    "count too large": batch(count=2),
    "count zero": batch(count=0),
    "count negative": batch(count=-1),
    "count too small": batch([b"a", b"b"], count=1),
    "no records": batch([], last_offset_delta=0),
    "no records, delta -1": batch([]),
    "last offset delta too large": batch(last_offset_delta=5),
    "last offset delta negative": batch(last_offset_delta=-1),
    "deltas all zero": batch([b"a", b"b"], deltas=[0, 0]),
    "deltas out of order": batch([b"a", b"b"], deltas=[1, 0]),
    "leader epoch set": batch(leader_epoch=9),
    "length too large": batch(length=5_000),
    "length too small": batch(length=40),
    "length negative": batch(length=-5),
    "length zero": batch(length=0),
    "control batch": batch(attributes=0x20),
    "transactional without id": batch(attributes=0x10, producer_id=PID + 77, producer_epoch=0, base_sequence=0),
    "log append time set by client": batch(attributes=0x08),
    "delete horizon bit": batch(attributes=0x40),
    "unused bits": batch(attributes=0x7F00),
    "max timestamp too small": batch(max_timestamp=5),
    "max timestamp too large": batch(max_timestamp=1_700_000_999_999),
    "max timestamp -1": batch(max_timestamp=-1),
    "timestamp -1": batch(base_timestamp=-1, max_timestamp=-1),
    "timestamp -2": batch(base_timestamp=-2, max_timestamp=-2),
    "timestamp zero": batch(base_timestamp=0, max_timestamp=0),
    "sequence without producer": batch(base_sequence=5),
    "producer without epoch": batch(producer_id=PID + 1, producer_epoch=-1, base_sequence=0),
    "producer without sequence": batch(producer_id=PID + 2, producer_epoch=0, base_sequence=-1),
    "negative sequence": batch(producer_id=PID + 3, producer_epoch=0, base_sequence=-2),
    "producer id -2": batch(producer_id=-2, producer_epoch=0, base_sequence=0),
    "null value": batch([None]),
    "null key and value": batch([None], key=None),
    "empty value": batch([b""]),
    "a hundred records": batch([b"x"] * 100),
    "codec 5": batch(attributes=5),
    "codec 7": batch(attributes=7),
    "gzip rubbish": batch(attributes=1),
    "snappy rubbish": batch(attributes=2),
    "lz4 rubbish": batch(attributes=3),
    "zstd rubbish": batch(attributes=4),
    "trailing bytes in the batch": batch(body=record(b"value") + b"\x00\x00"),
    "record length too large": batch(body=b"\xfe\xff\x03" + record(b"value")[1:]),
    "record cut": batch(body=record(b"value")[:-2]),
}


@case
def produce_strange_batches(subject: Subject) -> None:
    for label, payload in BAD_BATCHES.items():
        topic = subject.topic()
        produce(subject, label, topic, payload)
        read_back(subject, topic, f"{label}: what is in the log")


@case
def produce_old_versions_strange(subject: Subject) -> None:
    topic = subject.topic()
    for version in (3, 6):
        produce(subject, f"v{version} message set v0", topic, message_set(0), version=version)
        produce(subject, f"v{version} message set v1", topic, message_set(1), version=version)
        produce(subject, f"v{version} zstd", topic, batch(attributes=4), version=version)
    produce(subject, "v3 idempotent", topic, idempotent(0, 0), version=3)


@case
def produce_timestamps(subject: Subject) -> None:
    topic = subject.topic()
    now = int(time.time() * 1000)
    offsets_ms = {"two hours ahead": 7_200_000, "half an hour ahead": 1_800_000, "ten days ago": -864_000_000}
    for label, delta in offsets_ms.items():
        produce(subject, label, topic, batch(base_timestamp=now + delta, max_timestamp=now + delta))
    appended = subject.topic(message_timestamp_type="LogAppendTime")
    produce(subject, "log append time", appended, batch([b"a", b"b"]))
    read_back(subject, appended, "log append time in the log")
    strict = subject.topic(message_timestamp_before_max_ms="1000")
    produce(subject, "before.max.ms", strict, batch())


@case
def produce_size_limits(subject: Subject) -> None:
    value = b"x" * 500
    exact = len(batch([value]))
    for label, limit in {"at the limit": exact, "one above": exact - 1}.items():
        topic = subject.topic(max_message_bytes=str(limit))
        produce(subject, f"max.message.bytes {label}", topic, batch([value]))
    small = subject.topic(segment_bytes="1048576", max_message_bytes="3000000")
    produce(subject, "larger than a segment", small, batch([b"y" * 1_100_000]))


@case
def produce_compact_topic(subject: Subject) -> None:
    topic = subject.topic(cleanup_policy="compact")
    produce(subject, "without a key", topic, batch())
    produce(subject, "with a key", topic, batch(key=b"k"))
    produce(subject, "empty key", topic, batch(key=b""))
    mixed = record(b"a", b"k") + record(b"b", None, offset_delta=1)
    produce(subject, "one of two without a key", topic, batch([b"a", b"b"], body=mixed))
    read_back(subject, topic)


@case
def produce_several_partitions(subject: Subject) -> None:
    topic = subject.topic(2)
    rows = [(0, batch()), (7, batch()), (1, batch(crc=1))]
    data = [{"name": topic, "partition_data": [{"index": index, "records": records} for index, records in rows]}]
    fields = {"transactional_id": None, "acks": -1, "timeout_ms": 5_000}
    subject.call("good, unknown and bad", ProduceRequest, 9, **fields, topic_data=data)
    subject.call("no topics", ProduceRequest, 9, **fields, topic_data=[])
    subject.call("no partitions", ProduceRequest, 9, **fields, topic_data=[{"name": topic, "partition_data": []}])
    other = subject.topic()
    data = [{"name": name, "partition_data": [{"index": 0, "records": batch()}]} for name in (topic, other, "no-such")]
    subject.call("three topics", ProduceRequest, 9, **fields, topic_data=data)


def idempotent(
    sequence: int, epoch: int, *, producer_id: int = PID, values: tuple[bytes, ...] = (b"v",), **fields: Any
) -> bytes:
    return batch(values, producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence, **fields)


@case
def produce_idempotent(subject: Subject) -> None:
    topic = subject.topic()
    steps = [
        ("first, sequence 5", idempotent(5, 0)),
        ("next", idempotent(6, 0)),
        ("duplicate of the last", idempotent(6, 0)),
        ("duplicate of the first", idempotent(5, 0)),
        ("gap", idempotent(8, 0)),
        ("before the first", idempotent(3, 0)),
        ("three at once", idempotent(7, 0, values=(b"a", b"b", b"c"))),
        ("duplicate of the three", idempotent(7, 0, values=(b"a", b"b", b"c"))),
        ("part of the three", idempotent(8, 0, values=(b"b",))),
        ("overlap", idempotent(9, 0, values=(b"c", b"d"))),
        ("new epoch not at zero", idempotent(10, 1)),
        ("new epoch at zero", idempotent(0, 1)),
        ("old epoch", idempotent(10, 0)),
        ("epoch two ahead", idempotent(0, 3)),
        ("other producer in between", idempotent(0, 0, producer_id=PID + 1)),
        ("goes on", idempotent(1, 3)),
    ]
    for label, payload in steps:
        produce(subject, label, topic, payload)
    read_back(subject, topic)


@case
def produce_duplicate_window(subject: Subject) -> None:
    topic = subject.topic()
    for sequence in range(7):
        produce(subject, f"sequence {sequence}", topic, idempotent(sequence, 0))
    for sequence in range(7):
        produce(subject, f"again {sequence}", topic, idempotent(sequence, 0))
    read_back(subject, topic)


@case
def produce_sequence_wraps(subject: Subject) -> None:
    topic = subject.topic()
    largest = 2**31 - 1
    produce(subject, "largest", topic, idempotent(largest - 1, 0, values=(b"a", b"b")))
    produce(subject, "wrapped to zero", topic, idempotent(0, 0))
    produce(subject, "duplicate of the wrapped", topic, idempotent(0, 0))
    other = PID + 1
    produce(subject, "across the end", topic, idempotent(largest, 0, producer_id=other, values=(b"a", b"b")))
    produce(subject, "goes on at 1", topic, idempotent(1, 0, producer_id=other))


@case
def produce_duplicate_after_delete_records(subject: Subject) -> None:
    topic = subject.topic()
    produce(subject, "first", topic, idempotent(0, 0))
    partitions = [{"partition_index": 0, "offset": 1}]
    subject.call("delete", DeleteRecordsRequest, 2, topics=[{"name": topic, "partitions": partitions}], timeout_ms=5000)
    produce(subject, "duplicate of the deleted", topic, idempotent(0, 0))
    produce(subject, "next", topic, idempotent(1, 0))


@case
def produce_same_sequence_other_content(subject: Subject) -> None:
    topic = subject.topic()
    produce(subject, "first", topic, idempotent(0, 0, values=(b"one",)))
    produce(subject, "same sequence, other content", topic, idempotent(0, 0, values=(b"two",)))
    read_back(subject, topic)


@case
def init_producer_id(subject: Subject) -> None:
    given: dict[str, Any] = {"transactional_id": None, "transaction_timeout_ms": 60_000}
    while subject.quiet(InitProducerIdRequest, 4, given).error_code == 14:
        pass  # Kafka's broker fetches its first block of ids
    for version in range(7):
        subject.call(f"v{version}", InitProducerIdRequest, version, **given)
    rows = [("id without epoch", 5, -1), ("epoch without id", -1, 5), ("unknown id and epoch", 5_000_000, 3)]
    for label, producer_id, epoch in rows:
        fields = {**given, "producer_id": producer_id, "producer_epoch": epoch}
        subject.call(label, InitProducerIdRequest, 4, **fields)
    subject.call("timeout 0", InitProducerIdRequest, 4, transactional_id=None, transaction_timeout_ms=0)
    subject.call("timeout -1", InitProducerIdRequest, 4, transactional_id=None, transaction_timeout_ms=-1)
    subject.call("empty transactional id", InitProducerIdRequest, 4, transactional_id="", transaction_timeout_ms=60_000)
