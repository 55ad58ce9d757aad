"""Cases of Fetch, ListOffsets, OffsetForLeaderEpoch and DeleteRecords."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from kafka.protocol.admin import DeleteRecordsRequest, DescribeProducersRequest
from kafka.protocol.consumer import FetchRequest, ListOffsetsRequest, OffsetForLeaderEpochRequest
from kafka.protocol.producer import ProduceRequest

from tests.interop.batches import TIMESTAMP_MS, batch
from tests.interop.differential import FIRST_OWN_PRODUCER_ID, Subject, case, wait_for_coordinator


def fetch(
    subject: Subject,
    label: str,
    wanted: Sequence[tuple[str | uuid.UUID, int, int]],
    *,
    version: int = 12,
    current_leader_epoch: int = -1,
    partition_max_bytes: int = 1_048_576,
    forgotten: Sequence[tuple[str | uuid.UUID, list[int]]] = (),
    **overrides: Any,
) -> Any:
    """`wanted` is (topic name or id, partition, offset)."""
    key = "topic_id" if version >= 13 else "topic"
    topics: list[dict[str, Any]] = []
    for topic, partition, offset in wanted:
        row = {"partition": partition, "current_leader_epoch": current_leader_epoch, "fetch_offset": offset}
        row |= {"last_fetched_epoch": -1, "log_start_offset": -1, "partition_max_bytes": partition_max_bytes}
        topics.append({key: topic, "partitions": [row]})
    fields: dict[str, Any] = {"replica_id": -1, "max_wait_ms": 50, "min_bytes": 1, "max_bytes": 52_428_800}
    fields |= {"isolation_level": 0, "session_id": 0, "session_epoch": -1, "topics": topics, "rack_id": ""}
    fields |= {"forgotten_topics_data": [{key: topic, "partitions": indexes} for topic, indexes in forgotten]}
    if version >= 15:
        del fields["replica_id"]
    return subject.call(label, FetchRequest, version, **fields | overrides)


def fill(subject: Subject, topic: str, count: int, index: int = 0, **fields: Any) -> None:
    """`count` batches of one record, each a second later than the one before."""
    for number in range(count):
        timestamp = TIMESTAMP_MS + number * 1000
        records = batch([f"record {number}".encode()], base_timestamp=timestamp, **fields)
        data = [{"name": topic, "partition_data": [{"index": index, "records": records}]}]
        request = {"transactional_id": None, "acks": -1, "timeout_ms": 5_000, "topic_data": data}
        [answer] = subject.quiet(ProduceRequest, 9, request).responses
        assert answer.partition_responses[0].error_code == 0


@case
def fetch_every_version(subject: Subject) -> None:
    topic = subject.topic()
    fill(subject, topic, 2)
    topic_id = subject.topic_id(topic)
    for version in range(4, 19):
        name: str | uuid.UUID = topic_id if version >= 13 else topic
        unknown: str | uuid.UUID = uuid.UUID(int=99) if version >= 13 else "no-such-topic"
        fetch(subject, f"v{version}", [(name, 0, 0)], version=version)
        fetch(subject, f"v{version} unknown topic", [(unknown, 0, 0)], version=version)
        fetch(subject, f"v{version} unknown partition", [(name, 4, 0)], version=version)
        fetch(subject, f"v{version} beyond the end", [(name, 0, 5)], version=version)


@case
def fetch_offsets(subject: Subject) -> None:
    topic = subject.topic()
    fill(subject, topic, 3)
    for offset in (-1, 0, 1, 2, 3, 4, 2**62):
        fetch(subject, f"offset {offset}", [(topic, 0, offset)])
    for epoch in (0, 1, 100):
        fetch(subject, f"current leader epoch {epoch}", [(topic, 0, 0)], current_leader_epoch=epoch)
    for isolation_level in (0, 1, 2):
        fetch(subject, f"isolation level {isolation_level}", [(topic, 0, 2)], isolation_level=isolation_level)
    for replica in (0, 1, 7):
        fetch(subject, f"replica id {replica}", [(topic, 0, 0)], replica_id=replica)
    fetch(subject, "negative partition", [(topic, -1, 0)])
    fetch(subject, "the same partition twice", [(topic, 0, 0), (topic, 0, 1)])
    fetch(subject, "no topics", [])


@case
def fetch_limits(subject: Subject) -> None:
    topic = subject.topic(2)
    fill(subject, topic, 3, 0)
    fill(subject, topic, 3, 1)
    both = [(topic, 0, 0), (topic, 1, 0)]
    one = len(batch([b"record 0"]))
    for size in (0, 1, one, one + 1, 2 * one, 3 * one):
        fetch(subject, f"partition_max_bytes {size}", both, partition_max_bytes=size)
        fetch(subject, f"max_bytes {size}", both, max_bytes=size)
        fetch(subject, f"v4 partition_max_bytes {size}", both, partition_max_bytes=size, version=4)
    fetch(subject, "min_bytes never reached", both, min_bytes=1_000_000)
    fetch(subject, "min_bytes 0", [(topic, 0, 3)], min_bytes=0)


@case
def fetch_sessions(subject: Subject) -> None:
    topic = subject.topic(3)
    fill(subject, topic, 1, 0)
    opened = fetch(subject, "open", [(topic, 0, 0), (topic, 1, 0)], session_epoch=0)
    session_id = opened.session_id
    fetch(subject, "nothing new", [(topic, 0, 1)], session_id=session_id, session_epoch=1)
    fill(subject, topic, 1, 1)
    fetch(subject, "partition 1 grew", [], session_id=session_id, session_epoch=2)
    fetch(subject, "wrong epoch", [], session_id=session_id, session_epoch=9)
    fetch(subject, "unknown session", [], session_id=123_456, session_epoch=1)
    fetch(subject, "add partition 2", [(topic, 2, 0)], session_id=session_id, session_epoch=3)
    fetch(subject, "add an unknown one", [(topic, 9, 0)], session_id=session_id, session_epoch=4)
    fetch(subject, "the error is repeated", [], session_id=session_id, session_epoch=5)
    forgotten = [(topic, [9, 1])]
    fetch(subject, "forget two", [], session_id=session_id, session_epoch=6, forgotten=forgotten)
    fetch(subject, "after forgetting", [], session_id=session_id, session_epoch=7)
    topic_id = subject.topic_id(topic)
    fetch(subject, "v13 on a v12 session", [(topic_id, 0, 0)], session_id=session_id, session_epoch=8, version=13)
    fetch(subject, "close", [], session_id=session_id, session_epoch=-1)
    fetch(subject, "after closing", [], session_id=session_id, session_epoch=9)
    fetch(subject, "id 5 with epoch 0", [(topic, 0, 0)], session_id=5, session_epoch=0)
    fetch(subject, "epoch -2", [(topic, 0, 0)], session_id=0, session_epoch=-2)
    fetch(subject, "epoch 1 without session", [(topic, 0, 0)], session_id=0, session_epoch=1)


@case
def fetch_sessions_by_id(subject: Subject) -> None:
    topic = subject.topic(2)
    fill(subject, topic, 1, 0)
    topic_id = subject.topic_id(topic)
    opened = fetch(subject, "open", [(topic_id, 0, 0), (topic_id, 1, 0)], session_epoch=0, version=17)
    follow = {"session_id": opened.session_id, "version": 17}
    fetch(subject, "nothing new", [(topic_id, 0, 1)], session_epoch=1, **follow)
    fetch(subject, "unknown id joins", [(uuid.UUID(int=98), 0, 0)], session_epoch=2, **follow)
    fetch(subject, "the error is repeated", [], session_epoch=3, **follow)
    fetch(subject, "v12 on a v17 session", [(topic, 0, 0)], session_id=opened.session_id, session_epoch=4)


def list_offsets(subject: Subject, label: str, topic: str, timestamp: int, *, version: int = 9, **more: Any) -> Any:
    row = {"partition_index": more.get("index", 0), "timestamp": timestamp}
    row["current_leader_epoch"] = more.get("epoch", -1)
    topics = [{"name": topic, "partitions": [row] * more.get("times", 1)}]
    fields = {"replica_id": -1, "isolation_level": more.get("isolation_level", 0), "topics": topics}
    return subject.call(label, ListOffsetsRequest, version, **fields)


@case
def list_offsets_by_time(subject: Subject) -> None:
    topic = subject.topic()
    for timestamp in (-1, -2, -3, -4, -5, 0, TIMESTAMP_MS):
        list_offsets(subject, f"empty log, {timestamp}", topic, timestamp)
    fill(subject, topic, 4)
    several = batch([b"a", b"b"], base_timestamp=TIMESTAMP_MS + 10_000)
    data = [{"name": topic, "partition_data": [{"index": 0, "records": several}]}]
    subject.quiet(ProduceRequest, 9, {"transactional_id": None, "acks": -1, "timeout_ms": 5_000, "topic_data": data})
    specials = (-1, -2, -3, -4, -5, -6, -7, -100)
    times = (0, TIMESTAMP_MS, TIMESTAMP_MS + 1, TIMESTAMP_MS + 3_000, TIMESTAMP_MS + 10_000, TIMESTAMP_MS + 10_001)
    for timestamp in specials + times:
        list_offsets(subject, f"{timestamp}", topic, timestamp)
        list_offsets(subject, f"committed {timestamp}", topic, timestamp, isolation_level=1)
    for version in range(1, 12):
        list_offsets(subject, f"v{version} latest", topic, -1, version=version)
        list_offsets(subject, f"v{version} earliest", topic, -2, version=version)
        list_offsets(subject, f"v{version} maximum", topic, -3, version=version)
        list_offsets(subject, f"v{version} local", topic, -4, version=version)
        list_offsets(subject, f"v{version} tiered", topic, -5, version=version)
        list_offsets(subject, f"v{version} unknown topic", f"{topic}-no", -1, version=version)
    list_offsets(subject, "unknown partition", topic, -1, index=3)
    list_offsets(subject, "twice", topic, -1, times=2)
    list_offsets(subject, "epoch 0", topic, -1, epoch=0)
    list_offsets(subject, "epoch 5", topic, -1, epoch=5)
    list_offsets(subject, "isolation level 7", topic, -1, isolation_level=7)


@case
def offset_for_leader_epoch(subject: Subject) -> None:
    topic = subject.topic()
    fill(subject, topic, 2)
    for version in (2, 3, 4):
        for current, epoch in ((-1, 0), (-1, 1), (-1, -1), (0, 0), (5, 0), (-1, 100)):
            row = {"partition": 0, "current_leader_epoch": current, "leader_epoch": epoch}
            topics = [{"topic": topic, "partitions": [row]}]
            fields = {"topics": topics} if version < 3 else {"topics": topics, "replica_id": -1}
            label = f"v{version} current {current} epoch {epoch}"
            subject.call(label, OffsetForLeaderEpochRequest, version, **fields)
    row = {"partition": 9, "current_leader_epoch": -1, "leader_epoch": 0}
    topics = [{"topic": topic, "partitions": [row]}]
    subject.call("unknown partition", OffsetForLeaderEpochRequest, 4, replica_id=-1, topics=topics)


@case
def delete_records(subject: Subject) -> None:
    topic = subject.topic()
    fill(subject, topic, 5)
    for version in (0, 1, 2):
        fields = {"topics": [{"name": topic, "partitions": [{"partition_index": 0, "offset": version}]}]}
        subject.call(f"v{version}", DeleteRecordsRequest, version, **fields, timeout_ms=5_000)
    for label, name, index, offset in (
        ("backwards", topic, 0, 1),
        ("beyond the end", topic, 0, 6),
        ("negative", topic, 0, -2),
        ("to the high watermark", topic, 0, -1),
        ("unknown partition", topic, 3, 0),
        ("unknown topic", f"{topic}-none", 0, 0),
    ):
        topics = [{"name": name, "partitions": [{"partition_index": index, "offset": offset}]}]
        subject.call(label, DeleteRecordsRequest, 2, topics=topics, timeout_ms=5_000)
    fetch(subject, "below the log start", [(topic, 0, 2)])
    list_offsets(subject, "earliest", topic, -2)
    list_offsets(subject, "latest", topic, -1)
    list_offsets(subject, "by time", topic, 0)
    compacted = subject.topic(cleanup_policy="compact")
    topics = [{"name": compacted, "partitions": [{"partition_index": 0, "offset": 0}]}]
    subject.call("compacted topic", DeleteRecordsRequest, 2, topics=topics, timeout_ms=5_000)
    wait_for_coordinator(subject, subject.new_name("group"))  # which makes the internal topic
    topics = [{"name": "__consumer_offsets", "partitions": [{"partition_index": 0, "offset": 0}]}]
    subject.call("internal topic", DeleteRecordsRequest, 2, topics=topics, timeout_ms=5_000)


@case
def describe_producers(subject: Subject) -> None:
    topic = subject.topic()
    producer = {"producer_id": FIRST_OWN_PRODUCER_ID + 9, "producer_epoch": 2, "base_sequence": 7}
    fill(subject, topic, 1, **producer)
    rows = [{"name": topic, "partition_indexes": [0, 5]}, {"name": f"{topic}-none", "partition_indexes": [0]}]
    subject.call("known and unknown", DescribeProducersRequest, 0, topics=rows)
