"""Cases of the log cleaner: the same records go in, and what it leaves is compared: offsets, keys, tombstones, markers.

What counts is what a raw fetch shows, record by record. How records that stay are cut into batches, and which empty
batches are kept, is each server's own affair.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from kafka.protocol.consumer import FetchRequest, ListOffsetsRequest
from kafka.protocol.producer import ProduceRequest

from tests.interop.batches import batch, records_of
from tests.interop.differential import Subject, hasty_case
from tests.interop.transactional_producer import TransactionalProducer, begin, now_ms

CLEANED_S = 120.0
POLL_S = 0.1
OFFSET_OUT_OF_RANGE = 1
COMPACTED = {
    "cleanup_policy": "compact",
    "min_cleanable_dirty_ratio": "0.0001",
    "segment_ms": "1000",
    "delete_retention_ms": "86400000",
}
OLD_MS = 3_600_000
"""How long ago records are that a segment of its own is made of."""


def put(
    subject: Subject, topic: str, rows: list[tuple[bytes | None, bytes | None]], *, age_ms: int = OLD_MS, **fields: Any
) -> None:
    """Each row, key and value, as a batch of its own."""
    for key, value in rows:
        _send(subject, topic, batch([value], key=key, base_timestamp=now_ms() - age_ms, **fields))


def _send(subject: Subject, topic: str, records: bytes, transactional_id: str | None = None) -> None:
    data = [{"name": topic, "partition_data": [{"index": 0, "records": records}]}]
    fields = {"transactional_id": transactional_id, "acks": -1, "timeout_ms": 5_000, "topic_data": data}
    [answer] = subject.quiet(ProduceRequest, 9, fields).responses
    assert answer.partition_responses[0].error_code == 0, answer


def roll(subject: Subject, topic: str) -> None:
    """What is newer by more than segment.ms begins a segment: all before it can be cleaned."""
    put(subject, topic, [(b"newest", b"-")], age_ms=0)


def log(subject: Subject, topic: str, *, committed: bool = False) -> list[list[Any]]:
    """Every record and marker: offset, key, value."""
    found: list[list[Any]] = []
    offset, end = _listed(subject, topic, -2), _listed(subject, topic, -1)
    while offset < end:
        row = {"partition": 0, "current_leader_epoch": -1, "fetch_offset": offset, "last_fetched_epoch": -1}
        row |= {"log_start_offset": -1, "partition_max_bytes": 1_048_576}
        fields: dict[str, Any] = {"replica_id": -1, "max_wait_ms": 50, "min_bytes": 1, "max_bytes": 52_428_800}
        fields |= {"isolation_level": int(committed), "session_id": 0, "session_epoch": -1}
        fields |= {"topics": [{"topic": topic, "partitions": [row]}], "forgotten_topics_data": [], "rack_id": ""}
        [answer] = subject.quiet(FetchRequest, 12, fields).responses
        [partition] = answer.partitions
        if partition.error_code == OFFSET_OUT_OF_RANGE:  # the beginning was deleted meanwhile
            return log(subject, topic, committed=committed)
        assert partition.error_code == 0, partition
        batches = records_of(bytes(partition.records or b""))
        if not batches:
            break
        aborted = {each.producer_id: each.first_offset for each in partition.aborted_transactions or ()}
        for each in batches:
            found += each.rows(aborted if committed else {})
        offset = batches[-1].last_offset + 1
    return [row for row in found if row[0] >= 0]


def _listed(subject: Subject, topic: str, timestamp: int) -> int:
    rows = [{"partition_index": 0, "current_leader_epoch": -1, "timestamp": timestamp}]
    fields = {"replica_id": -1, "isolation_level": 0, "topics": [{"name": topic, "partitions": rows}]}
    [answer] = subject.quiet(ListOffsetsRequest, 6, fields).topics
    return int(answer.partitions[0].offset)


def note_cleaned(subject: Subject, label: str, topic: str, *gone: int) -> None:
    """What is left once the records at these offsets are gone."""
    _wait_for(subject, topic, lambda rows: not any(row[0] in gone for row in rows))
    subject.note(label, log(subject, topic))
    subject.note(f"{label}: committed", log(subject, topic, committed=True))


def _wait_for(subject: Subject, topic: str, condition: Callable[[list[list[Any]]], bool]) -> None:
    deadline = time.monotonic() + CLEANED_S
    while not condition(rows := log(subject, topic)):
        assert time.monotonic() < deadline, rows
        time.sleep(POLL_S)


@hasty_case
def cleaned_plain(subject: Subject) -> None:
    topic = subject.topic(**COMPACTED)
    put(
        subject,
        topic,
        [(b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"c", b"1"), (b"b", None), (b"d", b""), (b"e", None)],
    )
    _send(subject, topic, batch([b"3", b"4", b"5"], key=b"many", base_timestamp=now_ms() - OLD_MS))
    put(subject, topic, [(b"", b"an empty key"), (b"a", b"3")])
    roll(subject, topic)
    note_cleaned(subject, "once", topic, 0, 1, 2, 7, 8)
    put(subject, topic, [(b"d", None), (b"c", b"2"), (b"a", b"4")], age_ms=-2_000)
    put(subject, topic, [(b"newest", b"-")], age_ms=-10_000)
    note_cleaned(subject, "again", topic, 3, 5, 11)


@hasty_case
def cleaned_tombstones(subject: Subject) -> None:
    """Where they may go at once, they do when the cleaner has seen them twice."""
    topic = subject.topic(**{**COMPACTED, "delete_retention_ms": "0"})
    put(subject, topic, [(b"a", b"1"), (b"b", b"1"), (b"a", None), (b"c", b"1")])
    roll(subject, topic)
    put(subject, topic, [(b"c", b"2")], age_ms=-2_000)
    put(subject, topic, [(b"newest", b"-")], age_ms=-10_000)
    _wait_for(subject, topic, lambda rows: [1, "b", "1"] in rows and [0, "a", "1"] not in rows)
    put(subject, topic, [(b"c", b"3")], age_ms=-12_000)
    put(subject, topic, [(b"newest", b"-")], age_ms=-20_000)
    _wait_for(subject, topic, lambda rows: not any(row[0] in (2, 4, 5) for row in rows))
    subject.note("without the tombstone", log(subject, topic))


@hasty_case
def cleaned_transactions(subject: Subject) -> None:
    topic = subject.topic(**COMPACTED)
    committed, aborted, second = begin(subject), begin(subject), begin(subject)
    put(subject, topic, [(b"a", b"plain"), (b"b", b"plain"), (b"c", b"plain")])
    for producer in (committed, aborted):
        producer.add(topic, 0)
    for key in (b"a", b"d"):
        _send_of(subject, committed, topic, key, b"committed")
    for key in (b"b", b"e"):
        _send_of(subject, aborted, topic, key, b"aborted")
    committed.end(commit=True)
    aborted.end(commit=False)
    second.add(topic, 0)
    _send_of(subject, second, topic, b"d", b"committed later")
    _send_of(subject, second, topic, b"f", None)
    second.end(commit=True)
    put(subject, topic, [(b"newest", b"-")], age_ms=-10_000)
    note_cleaned(subject, "cleaned", topic, 0, 4, 5, 6)


@hasty_case
def cleaned_below_an_open_transaction(subject: Subject) -> None:
    """Nothing at or above the last stable offset is touched."""
    topic = subject.topic(**COMPACTED)
    producer = begin(subject)
    put(subject, topic, [(b"a", b"1"), (b"a", b"2")])
    put(subject, topic, [(b"b", b"1")], age_ms=-2_000)
    producer.add(topic, 0)
    producer.timestamp_ms += 10_000
    _send_of(subject, producer, topic, b"b", b"open")
    put(subject, topic, [(b"b", b"2"), (b"b", b"3")], age_ms=-10_000)
    put(subject, topic, [(b"newest", b"-")], age_ms=-20_000)
    note_cleaned(subject, "while it is open", topic, 0)
    producer.end(commit=False)
    put(subject, topic, [(b"newest", b"-")], age_ms=-30_000)
    note_cleaned(subject, "when it is aborted", topic, 2, 3, 4)


@hasty_case
def cleaned_and_deleted(subject: Subject) -> None:
    """compact,delete: what is too old goes, key or not."""
    both = {**COMPACTED, "cleanup_policy": "compact,delete", "retention_ms": str(OLD_MS // 2)}
    topic = subject.topic(**both)
    put(subject, topic, [(b"a", b"1"), (b"b", b"1")])
    put(subject, topic, [(b"newest", b"-")], age_ms=600_000)
    note_cleaned(subject, "too old", topic, 0, 1)
    put(subject, topic, [(b"a", b"2"), (b"c", b"1"), (b"c", b"2")], age_ms=599_000)
    roll(subject, topic)
    note_cleaned(subject, "cleaned", topic, 4)


@hasty_case
def cleaned_not_before_the_lag(subject: Subject) -> None:
    topic = subject.topic(**COMPACTED, min_compaction_lag_ms="3000000")
    put(subject, topic, [(b"a", b"1"), (b"a", b"2")])
    put(subject, topic, [(b"a", b"3"), (b"a", b"4")], age_ms=1_000_000)
    roll(subject, topic)
    note_cleaned(subject, "the old ones", topic, 0)


def _send_of(subject: Subject, producer: TransactionalProducer, topic: str, key: bytes, value: bytes | None) -> None:
    fields: dict[str, Any] = {"producer_id": producer.producer_id, "producer_epoch": producer.epoch}
    fields |= {"base_sequence": producer.sequence, "attributes": 0x10, "base_timestamp": producer.timestamp_ms}
    _send(subject, topic, batch([value], key=key, **fields), producer.transactional_id)
    producer.sequence += 1
