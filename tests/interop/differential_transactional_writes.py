"""Cases of what transactions do to partitions: admission of batches, markers, what committed readers see."""

from __future__ import annotations

import uuid
from typing import Any

from kafka.protocol.admin import DeleteRecordsRequest, DescribeProducersRequest
from kafka.protocol.producer import EndTxnRequest, ProduceRequest, WriteTxnMarkersRequest

from tests.interop.batches import batch
from tests.interop.differential import FIRST_OWN_PRODUCER_ID, Subject, case
from tests.interop.differential_fetch import fetch, list_offsets
from tests.interop.differential_transactions import describe
from tests.interop.transactional_producer import TRANSACTIONAL, TransactionalProducer, begin, now_ms

READ_COMMITTED = 1


def produce(
    subject: Subject,
    label: str,
    producer: TransactionalProducer,
    topic: str | uuid.UUID,
    records: bytes | None = None,
    *,
    version: int = 9,
    index: int = 0,
    **overrides: Any,
) -> Any:
    """The producer's next batch unless `records` are given. The caller counts its sequence."""
    data = {"index": index, "records": producer.batch() if records is None else records}
    topics = [{"topic_id" if version >= 13 else "name": topic, "partition_data": [data]}]
    fields = {"transactional_id": producer.transactional_id, "acks": -1, "timeout_ms": 5_000, "topic_data": topics}
    return subject.call(label, ProduceRequest, version, **fields | overrides)


def read_committed(subject: Subject, label: str, topic: str, offset: int = 0, *, version: int = 12) -> None:
    fetch(subject, label, [(topic, 0, offset)], isolation_level=READ_COMMITTED, version=version)


def look(subject: Subject, label: str, topic: str) -> None:
    """Everything that shows where the first open transaction begins."""
    fetch(subject, f"{label}: uncommitted", [(topic, 0, 0)])
    read_committed(subject, f"{label}: committed", topic)
    for timestamp in (-1, -2, -4):
        list_offsets(subject, f"{label}: offset {timestamp}", topic, timestamp)
        list_offsets(
            subject, f"{label}: committed offset {timestamp}", topic, timestamp, isolation_level=READ_COMMITTED
        )
    rows = [{"name": topic, "partition_indexes": [0]}]
    subject.call(f"{label}: producers", DescribeProducersRequest, 0, topics=rows)


@case
def transactional_produce_never_added(subject: Subject) -> None:
    topic = subject.topic()
    topic_id = subject.topic_id(topic)
    for version in (*range(3, 14), 12):
        producer = begin(subject)
        name = topic_id if version >= 13 else topic
        label = f"v{version}" if f"v{version}" not in subject.answers else f"v{version} once more"
        produce(subject, label, producer, name, version=version)
        describe(subject, f"{label}: described", producer.transactional_id)
        if version >= 12:
            producer.end(commit=True, version=5)
    look(subject, "at the end", topic)


@case
def transactional_produce_added(subject: Subject) -> None:
    topic = subject.topic(2)
    topic_id = subject.topic_id(topic)
    for version in range(3, 14):
        producer = begin(subject)
        name = topic_id if version >= 13 else topic
        producer.add(topic, 0)
        produce(subject, f"v{version}", producer, name, version=version)
        produce(subject, f"v{version} the same again", producer, name, version=version)
        produce(subject, f"v{version} other partition", producer, name, version=version, index=1)
        producer.end(commit=version % 2 == 0, version=5 if version >= 12 else 4)
        produce(subject, f"v{version} the same after the end", producer, name, version=version)
        producer.sequence = 1
        produce(subject, f"v{version} the next after the end", producer, name, version=version)


@case
def transactional_produce_strange(subject: Subject) -> None:
    topic = subject.topic(2)
    producer = begin(subject)
    begin(subject, producer.transactional_id)
    for version in (9, 11, 12):
        producer.epoch = 0
        produce(subject, f"v{version} old epoch", producer, topic, version=version)
    producer.epoch = 9
    for version in (9, 11, 12):
        produce(subject, f"v{version} epoch beyond", producer, topic, version=version)
    producer.initialise().add(topic, 0)
    for version in (7, 9, 11, 12):
        rest = {"version": version}
        produce(subject, f"v{version} without id", producer, topic, **rest, transactional_id=None)
        produce(subject, f"v{version} empty id", producer, topic, **rest, transactional_id="")
        produce(subject, f"v{version} unknown id", producer, topic, **rest, transactional_id="nobody")
        produce(subject, f"v{version} plain batch", producer, topic, batch(base_timestamp=now_ms()), **rest)
        other = producer.batch(producer_id=FIRST_OWN_PRODUCER_ID + 5)
        produce(subject, f"v{version} other producer id", producer, topic, other, **rest)
        nobody = batch(attributes=TRANSACTIONAL, base_timestamp=now_ms())
        elsewhere = subject.topic()
        produce(subject, f"v{version} transactional without producer id", producer, subject.topic(), nobody, **rest)
        idempotent = begin(subject)
        idempotent.add(elsewhere, 0)
        records = idempotent.batch(attributes=0)
        produce(subject, f"v{version} idempotent batch", idempotent, elsewhere, records, **rest, acks=1)
        control = producer.batch(attributes=TRANSACTIONAL | 0x20)
        produce(subject, f"v{version} control batch", producer, topic, control, **rest)
    produce(subject, "begun", producer, topic)
    producer.sequence = 1
    produce(subject, "idempotent while open", producer, topic, producer.batch(attributes=0), transactional_id=None)
    produce(subject, "idempotent while open, v12", producer, topic, producer.batch(attributes=0), version=12)
    producer.sequence = 5
    produce(subject, "a gap", producer, topic)
    producer.epoch = 0
    produce(subject, "old epoch while open", producer, topic)
    look(subject, "at the end", topic)


@case
def transactional_sequences_after_bumps(subject: Subject) -> None:
    topic = subject.topic()
    producer = begin(subject)
    producer.send(topic, version=12)
    producer.end(commit=True, version=5)
    producer.sequence = 1
    produce(subject, "sequence goes on", producer, topic, version=12)
    producer.sequence = 0
    produce(subject, "sequence restarts", producer, topic, version=12)
    producer.epoch -= 1
    producer.sequence = 1
    produce(subject, "epoch before", producer, topic, version=12)
    produce(subject, "epoch before, v11", producer, topic, version=11)
    producer.epoch += 1
    producer.end(commit=False, version=5)
    producer.end(commit=False, version=5)
    look(subject, "at the end", topic)


@case
def transactional_reads(subject: Subject) -> None:
    topic = subject.topic()
    first, second, plain = begin(subject), begin(subject), begin(subject)
    look(subject, "empty", topic)
    plain.add(topic, 0)
    plain.send(topic, b"committed at once")
    plain.end(commit=True)
    first.add(topic, 0)
    second.add(topic, 0)
    look(subject, "added", topic)
    first.send(topic, b"first")
    second.send(topic, b"second")
    produce(
        subject,
        "without a transaction",
        plain,
        topic,
        batch([b"plain"], base_timestamp=now_ms()),
        transactional_id=None,
    )
    look(subject, "both open", topic)
    list_offsets(subject, "by time, both open", topic, 0, isolation_level=READ_COMMITTED)
    second.end(commit=False)
    look(subject, "second aborted", topic)
    first.send(topic, b"first again")
    first.end(commit=False)
    look(subject, "both aborted", topic)
    for offset in range(9):
        read_committed(subject, f"from {offset}", topic, offset)
    for version in (4, 5, 7, 10, 11, 12):
        read_committed(subject, f"v{version}", topic, version=version)
    first.add(topic, 0)
    first.send(topic, b"third")
    first.end(commit=True)
    look(subject, "one more committed", topic)


@case
def transactional_delete_records(subject: Subject) -> None:
    topic = subject.topic()
    plain, producer = begin(subject), begin(subject)
    produce(subject, "plain", plain, topic, batch([b"plain"], base_timestamp=now_ms()), transactional_id=None)
    producer.add(topic, 0)
    producer.send(topic)
    producer.send(topic)
    for offset in (1, 2, -1):
        rows = [{"name": topic, "partitions": [{"partition_index": 0, "offset": offset}]}]
        subject.call(f"delete before {offset}", DeleteRecordsRequest, 2, topics=rows, timeout_ms=5_000)
        look(subject, f"deleted before {offset}", topic)
        read_committed(subject, f"deleted before {offset}, from 2", topic, 2)
    producer.end(commit=False)
    look(subject, "aborted", topic)
    read_committed(subject, "aborted, from 3", topic, 3)


@case
def transaction_markers(subject: Subject) -> None:
    topic = subject.topic(2)
    number = FIRST_OWN_PRODUCER_ID + 500

    def mark(label: str, version: int = 1, index: int = 0, name: str = topic, **more: Any) -> None:
        topics = [{"name": name, "partition_indexes": [index]}]
        marker = {"producer_id": number, "producer_epoch": 1, "transaction_result": False, "coordinator_epoch": 3}
        subject.call(label, WriteTxnMarkersRequest, version, markers=[{**marker, "topics": topics, **more}])

    mark("of nobody")
    mark("again")
    mark("an older producer epoch", producer_epoch=0)
    mark("an older coordinator", coordinator_epoch=2)
    mark("a later coordinator", coordinator_epoch=4, transaction_result=True)
    mark("older than that", coordinator_epoch=3)
    mark("negative coordinator epoch", coordinator_epoch=-1)
    mark("negative producer epoch", coordinator_epoch=4, producer_epoch=-1)
    mark("negative producer id", coordinator_epoch=4, producer_id=-1)
    mark("unknown partition", index=9)
    mark("unknown topic", name=f"{topic}-none")
    subject.call("no markers", WriteTxnMarkersRequest, 1, markers=[])
    for version in (0, 1, 2, 3, -1):
        number += 1
        fields = {"version": 2, "transaction_version": version}
        mark(f"version {version}", **fields)
        mark(f"version {version} again", **fields)
        mark(f"version {version}, next epoch", **fields, producer_epoch=2)
    look(subject, "at the end", topic)


@case
def transaction_markers_by_hand(subject: Subject) -> None:
    """An administrator aborts what hangs, which the coordinator does not know."""
    topic = subject.topic()
    for version in (1, 2):
        producer = begin(subject)
        producer.add(topic, 0)
        producer.send(topic)
        marker = {"producer_id": producer.producer_id, "producer_epoch": producer.epoch, "transaction_result": False}
        marker |= {"coordinator_epoch": 0, "topics": [{"name": topic, "partition_indexes": [0]}]}
        for transaction_version in (2, 0) if version == 2 else (0,):
            given = marker | ({"transaction_version": transaction_version} if version == 2 else {})
            label = f"v{version} of version {transaction_version}"
            subject.call(label, WriteTxnMarkersRequest, version, markers=[given])
            look(subject, label, topic)
        describe(subject, f"v{version} described", producer.transactional_id)
        subject.call(f"v{version} commit all the same", EndTxnRequest, 4, **producer.who, committed=True)
        producer.settle()
        look(subject, f"v{version} committed", topic)
