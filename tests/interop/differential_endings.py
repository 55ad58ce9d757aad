"""Cases of how transactional ids end, and of what transactions commit for groups in the newest versions: epochs used
up, ids expired, topics named by id, members of consumer groups.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from kafka.protocol.admin import DescribeTransactionsRequest
from kafka.protocol.producer import EndTxnRequest, InitProducerIdRequest

from tests.interop.differential import OWN, Subject, case, hasty_case, wait_for_coordinator
from tests.interop.differential_consumer_groups import Member, consumer_group, settle, subscription
from tests.interop.differential_groups import joined
from tests.interop.differential_transactional_offsets import add_group, fetch_offsets
from tests.interop.differential_transactional_writes import look, produce
from tests.interop.differential_transactions import add, describe, end, init
from tests.interop.newer_messages import TxnOffsetCommitRequest
from tests.interop.transactional_producer import NOT_YET, TransactionalProducer, begin

LAST_EPOCH = 32_766
"""The highest that a producer is given: one more is for fencing it."""
EXPIRED_S = 60.0


def commit_by_id(
    subject: Subject,
    label: str,
    producer: TransactionalProducer,
    group: str,
    topic_id: uuid.UUID,
    offset: int = 5,
    partition: int = 0,
    **overrides: Any,
) -> Any:
    """TxnOffsetCommit v6, which names topics by their ids."""
    row = {"partition_index": partition, "committed_offset": offset, "committed_metadata": ""}
    fields = {**producer.who, "group_id": group, "topics": [{"topic_id": topic_id, "partitions": [row]}], **overrides}
    return subject.call(label, TxnOffsetCommitRequest, 6, **fields)


@case
def transactional_offsets_by_topic_id(subject: Subject) -> None:
    topic, group = subject.topic(2), subject.new_name("group")
    topic_id = subject.topic_id(topic)
    wait_for_coordinator(subject, group)
    producer = begin(subject)
    commit_by_id(subject, "not added", producer, group, topic_id)
    describe(subject, "not added: described", producer.transactional_id)
    commit_by_id(subject, "unknown topic", producer, group, uuid.UUID(int=54))
    commit_by_id(subject, "no topic", producer, group, uuid.UUID(int=0))
    commit_by_id(subject, "unknown partition", producer, group, topic_id, partition=9)
    commit_by_id(subject, "negative partition", producer, group, topic_id, partition=-1)
    commit_by_id(subject, "negative offset", producer, group, topic_id, -5, 1)
    commit_by_id(subject, "empty group", producer, "", topic_id)
    for label, more in {
        "other producer id": {"producer_id": 77_000_000},
        "epoch beyond": {"producer_epoch": 9},
        "unknown transactional id": {"transactional_id": "nobody"},
        "unknown member": {"member_id": "nobody", "generation_id_or_member_epoch": 3},
    }.items():
        commit_by_id(subject, label, producer, group, topic_id, **more)
    fetch_offsets(subject, "open", group, topic)
    producer.end(commit=True, version=5)
    fetch_offsets(subject, "committed", group, topic)
    commit_by_id(subject, "next transaction", producer, group, topic_id, 9)
    producer.end(commit=False, version=5)
    fetch_offsets(subject, "aborted", group, topic)


@case
def transactional_offsets_of_consumers(subject: Subject) -> None:
    """A member of a consumer group says its epoch where one of a classic group says its generation."""
    topic = subject.topic(2)
    first = consumer_group(subject, topic, 2)
    second = Member(subject, first.group, f"{OWN}2", **subscription(topic))
    settle(first, second, shares=(1, 1))
    topic_id = subject.topic_id(topic)
    producer = begin(subject)
    add_group(subject, producer, first.group)
    [kept] = first.owned[topic_id]
    rows: dict[str, dict[str, Any]] = {
        "its epoch": {"generation_id_or_member_epoch": first.epoch},
        "the epoch before, of what it kept": {"generation_id_or_member_epoch": first.epoch - 1},
        "the epoch before, of what it gave up": {
            "generation_id_or_member_epoch": first.epoch - 1,
            "partition": 1 - kept,
        },
        "two epochs before": {"generation_id_or_member_epoch": first.epoch - 2},
        "an epoch beyond": {"generation_id_or_member_epoch": first.epoch + 1},
        "no epoch": {"generation_id_or_member_epoch": -1},
        "an unknown member": {"generation_id_or_member_epoch": first.epoch, "member_id": f"{OWN}nobody"},
        "an epoch alone": {"generation_id_or_member_epoch": first.epoch, "member_id": ""},
        "without membership": {"generation_id_or_member_epoch": -1, "member_id": ""},
    }
    for label, more in rows.items():
        given = {"partition": kept, "member_id": first.id, **more}
        commit_by_id(subject, label, producer, first.group, topic_id, **given)
    producer.end(commit=False)


@case
def transactional_offsets_of_classic_members_by_topic_id(subject: Subject) -> None:
    topic, group = subject.topic(2), subject.new_name("group")
    topic_id = subject.topic_id(topic)
    wait_for_coordinator(subject, group)
    member, generation = joined(subject, "joined", group)
    producer = begin(subject)
    add_group(subject, producer, group)
    for label, more in {
        "member": {"generation_id_or_member_epoch": generation, "member_id": member},
        "generation before": {"generation_id_or_member_epoch": generation - 1, "member_id": member},
        "generation beyond": {"generation_id_or_member_epoch": generation + 1, "member_id": member},
        "unknown member": {"generation_id_or_member_epoch": generation, "member_id": f"{OWN}nobody"},
        "without membership": {},
    }.items():
        commit_by_id(subject, label, producer, group, topic_id, **more)
    producer.end(commit=False)


@hasty_case
def epochs_used_up_by_beginning(subject: Subject) -> None:
    """At the end of its epochs a transactional id goes on with another producer id."""
    topic = subject.topic()
    producer = begin(subject)
    _spend(subject, producer, InitProducerIdRequest, {"transaction_timeout_ms": 60_000})
    former = producer.producer_id
    subject.note("the last epoch but one", producer.epoch)
    producer.initialise()
    subject.note("the last epoch", [producer.epoch, producer.producer_id == former])
    producer.initialise()
    subject.note("anew", [producer.epoch, producer.producer_id == former])
    add(subject, "the new id takes part", producer, {topic: [0]})
    produce(subject, "the new id writes", producer, topic)
    producer.end(commit=True)
    look(subject, "at the end", topic)


@hasty_case
def epochs_used_up_by_ending(subject: Subject) -> None:
    topic = subject.topic()
    producer = begin(subject)
    _spend(subject, producer, EndTxnRequest, {"committed": False})
    for commit in (True, False, True):
        former = producer.producer_id
        add(subject, f"takes part at {producer.epoch}", producer, {topic: [0]})
        produce(subject, f"writes at {producer.epoch}", producer, topic)
        answer = end(subject, f"ends at {producer.epoch}", producer, version=5, commit=commit)
        end(subject, f"ends again at {producer.epoch}", producer, version=5, commit=commit)
        subject.note(f"ended at {producer.epoch}", answer.producer_id == former)
        producer.producer_id, producer.epoch, producer.sequence = answer.producer_id, answer.producer_epoch, 0
        describe(subject, f"now at {producer.epoch}", producer.transactional_id)
    look(subject, "at the end", topic)


def _current(producer: TransactionalProducer) -> dict[str, int]:
    return {"producer_id": producer.producer_id, "producer_epoch": producer.epoch}


def _spend(subject: Subject, producer: TransactionalProducer, request_class: Any, more: dict[str, Any]) -> None:
    """Every epoch but the last two, by beginning anew or, from transaction version 2 on, by aborting nothing."""
    while producer.epoch < LAST_EPOCH - 1:
        fields = {**producer.who, **more} if request_class is EndTxnRequest else more
        answer = subject.quiet(request_class, 5, {**fields, "transactional_id": producer.transactional_id})
        if answer.error_code not in NOT_YET:
            assert answer.error_code == 0, answer
            producer.producer_id, producer.epoch = answer.producer_id, answer.producer_epoch
    producer.settle()  # the last abort is answered before it is complete


@hasty_case
def transactional_ids_expired(subject: Subject) -> None:
    topic = subject.topic()
    fresh, ended, opened = begin(subject), begin(subject), begin(subject)
    ended.add(topic, 0)
    ended.send(topic)
    ended.end(commit=True)
    opened.add(topic, 0)
    opened.send(topic)
    _wait_expired(subject, fresh)
    _wait_expired(subject, ended)
    describe(subject, "which is left", fresh.transactional_id, ended.transactional_id, opened.transactional_id)
    add(subject, "the expired takes part", ended, {topic: [0]})
    end(subject, "the expired ends", ended)
    produce(subject, "the expired writes", ended, topic)
    init(subject, "the expired with its id", ended.transactional_id, **_current(ended))
    init(subject, "the expired anew", fresh.transactional_id)
    end(subject, "the open one ends", opened)
    look(subject, "at the end", topic)


def _wait_expired(subject: Subject, producer: TransactionalProducer) -> None:
    deadline = time.monotonic() + EXPIRED_S
    asked = {"transactional_ids": [producer.transactional_id]}
    while subject.quiet(DescribeTransactionsRequest, 0, asked).transaction_states[0].error_code == 0:
        assert time.monotonic() < deadline, "it does not expire"
        time.sleep(0.1)
