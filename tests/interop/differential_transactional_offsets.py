"""Cases of offsets in transactions: TxnOffsetCommit, what is stable meanwhile, members, groups that go."""

from __future__ import annotations

from typing import Any

from kafka.protocol.admin import DeleteGroupsRequest
from kafka.protocol.consumer import OffsetDeleteRequest, OffsetFetchRequest
from kafka.protocol.producer import AddOffsetsToTxnRequest, TxnOffsetCommitRequest

from tests.interop.differential import Subject, case, wait_for_coordinator
from tests.interop.differential_groups import commit, joined
from tests.interop.differential_groups import describe as describe_group
from tests.interop.differential_transactions import describe
from tests.interop.transactional_producer import TransactionalProducer, begin


def commit_in(
    subject: Subject,
    label: str,
    producer: TransactionalProducer,
    group: str,
    topic: str,
    offset: int = 5,
    *,
    version: int = 4,
    partition: int = 0,
    note: str | None = "",
    **overrides: Any,
) -> Any:
    row = {"partition_index": partition, "committed_offset": offset, "committed_metadata": note}
    fields = {**producer.who, "group_id": group, "topics": [{"name": topic, "partitions": [row]}], **overrides}
    return subject.call(label, TxnOffsetCommitRequest, version, **fields)


def add_group(subject: Subject, producer: TransactionalProducer, group: str) -> None:
    fields = {**producer.who, "group_id": group}
    while (code := subject.quiet(AddOffsetsToTxnRequest, 3, fields).error_code) == 51:
        pass  # the markers of the transaction before
    assert code == 0


def fetch_offsets(subject: Subject, label: str, group: str, topic: str) -> None:
    one = {"group_id": group, "topics": [{"name": topic, "partition_indexes": [0, 1]}]}
    for stable in (False, True):
        word = f"{label}: {'stable' if stable else 'any'}"
        subject.call(word, OffsetFetchRequest, 7, **one, require_stable=stable)
        everything = [{"group_id": group, "topics": None}]
        subject.call(f"{word}, all", OffsetFetchRequest, 9, groups=everything, require_stable=stable)


@case
def transactional_offsets_every_version(subject: Subject) -> None:
    topic, group = subject.topic(2), subject.new_name("group")
    wait_for_coordinator(subject, group)
    for version in range(6):
        producer = begin(subject)
        commit_in(subject, f"v{version} not added", producer, group, topic, version=version)
        describe(subject, f"v{version} not added: described", producer.transactional_id)
        add_group(subject, producer, group)
        commit_in(subject, f"v{version} added", producer, group, topic, 10 + version, version=version)
        commit_in(subject, f"v{version} unknown partition", producer, group, topic, partition=9, version=version)
        commit_in(subject, f"v{version} unknown topic", producer, group, f"{topic}-none", version=version)
        commit_in(subject, f"v{version} large note", producer, group, topic, note="x" * 4_097, version=version)
        commit_in(subject, f"v{version} empty group", producer, "", topic, version=version)
        commit_in(subject, f"v{version} no topics", producer, group, topic, version=version, topics=[])
        for label, more in {
            "other producer id": {"producer_id": 77_000_000},
            "epoch beyond": {"producer_epoch": 9},
            "negative epoch": {"producer_epoch": -1},
            "unknown transactional id": {"transactional_id": "nobody"},
            "empty transactional id": {"transactional_id": ""},
        }.items():
            commit_in(subject, f"v{version} {label}", producer, group, topic, partition=1, version=version, **more)
        commit_in(subject, f"v{version} null note", producer, group, topic, partition=1, note=None, version=version)
        fetch_offsets(subject, f"v{version} open", group, topic)
        producer.end(commit=version % 2 == 0)
        fetch_offsets(subject, f"v{version} ended", group, topic)
        commit_in(subject, f"v{version} after the end", producer, group, topic, version=version)


@case
def transactional_offsets_of_members(subject: Subject) -> None:
    topic, group = subject.topic(2), subject.new_name("group")
    wait_for_coordinator(subject, group)
    member, generation = joined(subject, "joined", group)
    right = {"generation_id": generation, "member_id": member, "group_instance_id": None}
    for version in (2, 3, 4, 5):
        producer = begin(subject)
        add_group(subject, producer, group)
        rows: dict[str, dict[str, Any]] = {"without membership": {}}
        if version >= 3:
            rows |= {
                "member": right,
                "generation beyond": {**right, "generation_id": generation + 1},
                "generation alone": {"generation_id": generation},
                "member alone": {"member_id": member},
                "unknown member": {**right, "member_id": "nobody"},
                "unknown instance": {**right, "group_instance_id": "nobody"},
            }
        for label, more in rows.items():
            commit_in(subject, f"v{version} {label}", producer, group, topic, version=version, **more)
        if version >= 3:
            name = f"{group}-none{version}"
            add_group(subject, producer, name)
            commit_in(subject, f"v{version} unknown group", producer, name, topic, version=version, **right)
            alone = {"member_id": "nobody"}
            commit_in(subject, f"v{version} unknown group, no generation", producer, name, topic, **alone)
        producer.end(commit=False)
    describe_group(subject, "at the end", group)


@case
def transactional_offsets_meanwhile(subject: Subject) -> None:
    """Commits without a transaction, deletions and another producer while a transaction is open."""
    topic, group = subject.topic(2), subject.new_name("group")
    wait_for_coordinator(subject, group)
    producer, other = begin(subject), begin(subject)
    add_group(subject, producer, group)
    commit_in(subject, "pending", producer, group, topic, 5)
    describe_group(subject, "of a transaction alone", group)
    fetch_offsets(subject, "pending", group, topic)
    commit(subject, "plain commit meanwhile", group, topic, 3)
    fetch_offsets(subject, "plain commit meanwhile", group, topic)
    producer.end(commit=True)
    fetch_offsets(subject, "plain, then committed", group, topic)
    for each in (producer, other):
        add_group(subject, each, group)
    commit_in(subject, "by the first", producer, group, topic, 20)
    commit_in(subject, "by the other", other, group, topic, 30)
    other.end(commit=True)
    fetch_offsets(subject, "the other committed", group, topic)
    producer.end(commit=True)
    fetch_offsets(subject, "the first committed", group, topic)
    add_group(subject, producer, group)
    commit_in(subject, "before a deletion", producer, group, topic, 40)
    rows = [{"name": topic, "partitions": [{"partition_index": 0}]}]
    subject.call("offset deleted", OffsetDeleteRequest, 0, group_id=group, topics=rows)
    fetch_offsets(subject, "offset deleted", group, topic)
    producer.end(commit=True)
    fetch_offsets(subject, "offset deleted, then committed", group, topic)
    add_group(subject, producer, group)
    commit_in(subject, "before the group goes", producer, group, topic, 50)
    subject.call("group deleted", DeleteGroupsRequest, 2, groups_names=[group])
    fetch_offsets(subject, "group deleted", group, topic)
    describe_group(subject, "group deleted", group)
    producer.end(commit=True)
    fetch_offsets(subject, "group deleted, then committed", group, topic)
    describe_group(subject, "group deleted, then committed", group)
