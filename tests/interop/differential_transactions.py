"""Cases of the transaction coordinator: producer ids, fencing, taking part, ending, describing."""

from __future__ import annotations

from typing import Any

from kafka.protocol.admin import DescribeTransactionsRequest, ListTransactionsRequest
from kafka.protocol.metadata import FindCoordinatorRequest
from kafka.protocol.producer import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)

from tests.interop.differential import Subject, case, wait_for_coordinator
from tests.interop.transactional_producer import TIMEOUT_MS, TransactionalProducer, begin

UNKNOWN_PRODUCER_ID = 77_000_000


def init(subject: Subject, label: str, transactional_id: str | None, *, version: int = 5, **fields: Any) -> Any:
    given = {"transactional_id": transactional_id, "transaction_timeout_ms": TIMEOUT_MS, **fields}
    return subject.call(label, InitProducerIdRequest, version, **given)


def add(
    subject: Subject,
    label: str,
    producer: TransactionalProducer,
    partitions: dict[str, list[int]],
    *,
    version: int = 3,
    verify_only: bool = False,
    **overrides: Any,
) -> Any:
    """From version 4 on in the shape that brokers use."""
    topics = [{"name": name, "partitions": indexes} for name, indexes in partitions.items()]
    who = {**producer.who, **overrides}
    if version >= 4:
        fields: dict[str, Any] = {"transactions": [{**who, "verify_only": verify_only, "topics": topics}]}
    else:
        fields = {f"v3_and_below_{name}": value for name, value in {**who, "topics": topics}.items()}
    return subject.call(label, AddPartitionsToTxnRequest, version, **fields)


def end(
    subject: Subject,
    label: str,
    producer: TransactionalProducer,
    *,
    commit: bool = True,
    version: int = 4,
    **overrides: Any,
) -> Any:
    """The answer as it comes, and no further step before the markers are written."""
    answer = subject.call(label, EndTxnRequest, version, **{**producer.who, "committed": commit, **overrides})
    producer.settle()
    return answer


def describe(subject: Subject, label: str, *transactional_ids: str) -> None:
    """As an admin client does: each coordinator is asked about its own, and one answer made of all."""
    answer, *others = (
        subject.quiet(DescribeTransactionsRequest, 0, {"transactional_ids": share})
        for share in subject.shares(transactional_ids)
    )
    if others:
        states = [state for one in (answer, *others) for state in one.transaction_states]
        answer.transaction_states = sorted(states, key=lambda state: transactional_ids.index(state.transactional_id))
    subject.note(label, answer)


@case
def transaction_init_every_version(subject: Subject) -> None:
    begin(subject)
    for version in range(6):
        name = subject.new_name("txn")
        init(subject, f"v{version}", name, version=version)
        init(subject, f"v{version} again", name, version=version)
        init(subject, f"v{version} empty", "", version=version)
        init(subject, f"v{version} timeout 0", name, version=version, transaction_timeout_ms=0)
        describe(subject, f"v{version} described", name)


@case
def transaction_init_timeouts(subject: Subject) -> None:
    begin(subject)
    for timeout_ms in (-(2**31), -1, 0, 1, 900_000, 900_001, 2**31 - 1):
        name = subject.new_name("txn")
        init(subject, f"timeout {timeout_ms}", name, transaction_timeout_ms=timeout_ms)
        describe(subject, f"timeout {timeout_ms}: described", name)


@case
def transaction_init_with_id_and_epoch(subject: Subject) -> None:
    producer = begin(subject)
    name, current = producer.transactional_id, {"producer_id": producer.producer_id}
    init(subject, "id without epoch", name, **current, producer_epoch=-1)
    init(subject, "epoch without id", name, producer_id=-1, producer_epoch=0)
    init(subject, "other id", name, producer_id=UNKNOWN_PRODUCER_ID, producer_epoch=0)
    init(subject, "epoch beyond", name, **current, producer_epoch=5)
    init(subject, "current", name, **current, producer_epoch=0)
    init(subject, "current, said again", name, **current, producer_epoch=0)
    init(subject, "from epoch 1", name, **current, producer_epoch=1)
    for version in (3, 4, 5):
        init(subject, f"two epochs ago, v{version}", name, **current, producer_epoch=0, version=version)
    init(subject, "without either", name)
    init(subject, "the epoch before that", name, **current, producer_epoch=2)
    init(subject, "a new name with id and epoch", subject.new_name("txn"), producer_id=5_000_000, producer_epoch=3)
    fields = {"producer_id": 5_000_000, "producer_epoch": -1}
    init(subject, "a new name with id alone", subject.new_name("txn"), **fields)


@case
def transaction_init_while_open(subject: Subject) -> None:
    topic = subject.topic()
    for version in (2, 5):
        producer = begin(subject)
        producer.add(topic, 0)
        init(subject, f"v{version} while open", producer.transactional_id, version=version)
        producer.settle()
        init(subject, f"v{version} when aborted", producer.transactional_id, version=version)
        describe(subject, f"v{version} described", producer.transactional_id)
    producer = begin(subject)
    producer.add(topic, 0)
    fields = {"producer_id": producer.producer_id, "producer_epoch": producer.epoch}
    init(subject, "current while open", producer.transactional_id, **fields)
    producer.settle()
    describe(subject, "current while open: aborted", producer.transactional_id)
    init(subject, "current when aborted", producer.transactional_id, **fields)
    end(subject, "end by the fenced", producer)


@case
def transaction_fencing(subject: Subject) -> None:
    topic, group = subject.topic(), subject.new_name("group")
    wait_for_coordinator(subject, group)
    old = begin(subject)
    begin(subject, old.transactional_id)
    new = begin(subject, old.transactional_id)
    for version in range(6):
        add(subject, f"AddPartitionsToTxn v{version}", old, {topic: [0]}, version=version)
        end(subject, f"EndTxn v{version}", old, version=version)
    for version in range(5):
        subject.call(f"AddOffsetsToTxn v{version}", AddOffsetsToTxnRequest, version, **old.who, group_id=group)
    new.add(topic, 0)
    for version in range(6):
        add(subject, f"open: AddPartitionsToTxn v{version}", old, {topic: [0]}, version=version)
        end(subject, f"open: EndTxn v{version}", old, version=version)
        end(subject, f"open: EndTxn v{version}, epoch beyond", old, version=version, producer_epoch=99)
    add(subject, "open: verify", old, {topic: [0]}, version=5, verify_only=True)
    for version in range(5):
        subject.call(f"open: AddOffsetsToTxn v{version}", AddOffsetsToTxnRequest, version, **old.who, group_id=group)
    describe(subject, "still open", new.transactional_id)


@case
def transaction_add_partitions(subject: Subject) -> None:
    topic = subject.topic(3)
    for version in range(6):
        producer = begin(subject)
        both = {topic: [0, 1], f"{topic}-none": [0]}
        add(subject, f"v{version} an unknown topic", producer, both, version=version)
        add(subject, f"v{version} an unknown partition", producer, {topic: [0, 9, 1, -1]}, version=version)
        describe(subject, f"v{version} nothing added", producer.transactional_id)
        add(subject, f"v{version} added", producer, {topic: [0, 1]}, version=version)
        add(subject, f"v{version} added again", producer, {topic: [1]}, version=version)
        add(subject, f"v{version} one more", producer, {topic: [2, 0]}, version=version)
        add(subject, f"v{version} no topics", producer, {}, version=version)
        add(subject, f"v{version} no partitions", producer, {topic: []}, version=version)
        other: dict[str, Any] = {"producer_id": UNKNOWN_PRODUCER_ID}
        add(subject, f"v{version} other producer id", producer, {topic: [0]}, version=version, **other)
        other = {"transactional_id": f"{producer.transactional_id}-none"}
        add(subject, f"v{version} unknown transactional id", producer, {topic: [0]}, version=version, **other)
        other = {"transactional_id": ""}
        add(subject, f"v{version} empty transactional id", producer, {topic: [0]}, version=version, **other)
        describe(subject, f"v{version} described", producer.transactional_id)


@case
def transaction_add_partitions_from_brokers(subject: Subject) -> None:
    topic = subject.topic(3)
    producer, other = begin(subject), begin(subject)
    for version in (4, 5):
        ask = {"version": version, "verify_only": True}
        if version == 4:
            add(subject, "verify before all", producer, {topic: [0]}, **ask)
            producer.add(topic, 0)
        add(subject, f"v{version} verify added", producer, {topic: [0]}, **ask)
        add(subject, f"v{version} verify not added", producer, {topic: [0, 1]}, **ask)
        add(subject, f"v{version} verify unknown", producer, {topic: [0, 7]}, **ask)
        add(subject, f"v{version} verify other id", producer, {topic: [0]}, **ask, producer_id=UNKNOWN_PRODUCER_ID)
        add(subject, f"v{version} verify unknown name", producer, {topic: [0]}, **ask, transactional_id="nobody")
        rows = [
            {**producer.who, "verify_only": True, "topics": [{"name": topic, "partitions": [0, 2]}]},
            {**other.who, "verify_only": False, "topics": [{"name": topic, "partitions": [version - 4]}]},
        ]
        rows.append({**producer.who, "transactional_id": "nobody", "verify_only": False, "topics": rows[0]["topics"]})
        subject.call(f"v{version} several", AddPartitionsToTxnRequest, version, transactions=rows)
    subject.call("no transactions", AddPartitionsToTxnRequest, 5, transactions=[])
    describe(subject, "described", producer.transactional_id, other.transactional_id)
    producer.end(commit=True)
    add(subject, "verify after the end", producer, {topic: [0]}, version=5, verify_only=True)


@case
def transaction_add_offsets(subject: Subject) -> None:
    group = subject.new_name("group")
    wait_for_coordinator(subject, group)
    for version in range(5):
        producer = begin(subject)
        for label, more in {
            "added": {},
            "added again": {},
            "empty group": {"group_id": ""},
            "other producer id": {"producer_id": UNKNOWN_PRODUCER_ID},
            "unknown transactional id": {"transactional_id": "nobody"},
            "empty transactional id": {"transactional_id": ""},
        }.items():
            fields = {**producer.who, "group_id": group, **more}
            subject.call(f"v{version} {label}", AddOffsetsToTxnRequest, version, **fields)
        end(subject, f"v{version} ended", producer)


@case
def transaction_end(subject: Subject) -> None:
    topic = subject.topic()
    for version in range(5):
        producer = begin(subject)
        end(subject, f"v{version} commit of nothing", producer, version=version)
        end(subject, f"v{version} abort of nothing", producer, version=version, commit=False)
        producer.add(topic, 0)
        end(subject, f"v{version} other id", producer, version=version, producer_id=UNKNOWN_PRODUCER_ID)
        end(subject, f"v{version} epoch beyond", producer, version=version, producer_epoch=9)
        end(subject, f"v{version} negative epoch", producer, version=version, producer_epoch=-1)
        end(subject, f"v{version} commit", producer, version=version)
        end(subject, f"v{version} commit again", producer, version=version)
        end(subject, f"v{version} abort after commit", producer, version=version, commit=False)
        describe(subject, f"v{version} committed", producer.transactional_id)
        producer.add(topic, 0)
        end(subject, f"v{version} abort", producer, version=version, commit=False)
        end(subject, f"v{version} abort again", producer, version=version, commit=False)
        end(subject, f"v{version} commit after abort", producer, version=version)
        describe(subject, f"v{version} aborted", producer.transactional_id)
        name = producer.transactional_id
        nobody: dict[str, Any] = {"transactional_id": f"{name}-none"}
        end(subject, f"v{version} unknown transactional id", producer, version=version, **nobody)
        end(subject, f"v{version} empty transactional id", producer, version=version, transactional_id="")


@case
def transaction_end_with_a_bump(subject: Subject) -> None:
    topic = subject.topic()
    producer = begin(subject)
    end(subject, "commit of nothing", producer, version=5)
    end(subject, "abort of nothing", producer, version=5, commit=False)
    end(subject, "abort of nothing again", producer, version=5, commit=False)
    describe(subject, "after aborts of nothing", producer.transactional_id)
    producer.initialise()
    for number, commit in enumerate((True, False)):
        word = "commit" if commit else "abort"
        producer.add(topic, 0)
        end(subject, f"{word}: other id", producer, version=5, commit=commit, producer_id=UNKNOWN_PRODUCER_ID)
        end(subject, f"{word}: epoch beyond", producer, version=5, commit=commit, producer_epoch=99)
        end(subject, f"{word}: epoch before", producer, version=5, commit=commit, producer_epoch=producer.epoch - 1)
        answer = end(subject, word, producer, version=5, commit=commit)
        end(subject, f"{word} again", producer, version=5, commit=commit)
        end(subject, f"{word} again, the other way", producer, version=5, commit=not commit)
        end(subject, f"{word} again by v4", producer, version=4, commit=commit)
        describe(subject, f"after {word}", producer.transactional_id)
        assert answer is not None
        producer.epoch = answer.producer_epoch
        if number == 0:
            end(subject, "commit of nothing with the new epoch", producer, version=5)
    end(subject, "commit of nothing by v4 with the new epoch", producer, version=4)
    end(subject, "abort of nothing with the new epoch", producer, version=5, commit=False)
    end(subject, "abort of nothing repeated", producer, version=5, commit=False)
    describe(subject, "at the end", producer.transactional_id)


@case
def transaction_end_of_what_never_began(subject: Subject) -> None:
    """A client that lost its connection may end a transaction of which the coordinator has heard nothing."""
    topic = subject.topic()
    for version in (0, 1, 2, 4, 5):
        for commit in (True, False):
            asked: dict[str, Any] = {"version": version, "commit": commit}
            word = f"v{version} {'commit' if commit else 'abort'}"
            producer = begin(subject)
            for beside in (1, -1):
                end(subject, f"{word}, fresh, epoch {beside:+}", producer, **asked, producer_epoch=beside)
            end(subject, f"{word}, fresh", producer, **asked)
            end(subject, f"{word}, fresh, again", producer, **asked)
            describe(subject, f"{word}, fresh: described", producer.transactional_id)
            for before in (True, False):
                after = f"after {'a commit' if before else 'an abort'} and a new beginning"
                producer = begin(subject)
                producer.add(topic, 0)
                producer.end(commit=before, version=version)
                producer.initialise()
                for beside in (-2, -1, 1):
                    epoch = producer.epoch + beside
                    end(subject, f"{word}, {after}, epoch {beside:+}", producer, **asked, producer_epoch=epoch)
                end(subject, f"{word}, {after}", producer, **asked)
                describe(subject, f"{word}, {after}: described", producer.transactional_id)


@case
def transaction_end_repeated(subject: Subject) -> None:
    """The answer was lost, or the client is another by now: a version that bumps the epoch meets one that does not."""
    topic = subject.topic()
    for first in (1, 4, 5):
        for second in (1, 4, 5):
            for commit in (True, False):
                producer = begin(subject)
                producer.add(topic, 0)
                sent = producer.epoch
                producer.end(commit=commit, version=first)
                word = f"v{first} {'commit' if commit else 'abort'}, v{second}"
                for other in (False, True):
                    way = "the other way" if other else "the same"
                    asked: dict[str, Any] = {"version": second, "commit": commit is not other}
                    for beside in (-1, 0, 1, 2):
                        label = f"{word} {way}, epoch {beside:+}"
                        end(subject, label, producer, **asked, producer_epoch=sent + beside)
                describe(subject, f"{word}: described", producer.transactional_id)


@case
def transaction_end_by_the_fenced(subject: Subject) -> None:
    topic = subject.topic()
    for version in (1, 2, 4, 5):
        for commit in (True, False):
            producer = begin(subject)
            producer.add(topic, 0)
            begin(subject, producer.transactional_id)
            word = f"v{version} {'commit' if commit else 'abort'}"
            for beside in (0, 1, 2, 3):
                label, epoch = f"{word}, epoch {beside:+}", producer.epoch + beside
                end(subject, label, producer, version=version, commit=commit, producer_epoch=epoch)
            describe(subject, f"{word}: described", producer.transactional_id)


@case
def transaction_describe(subject: Subject) -> None:
    topic = subject.topic(2)
    fresh, opened, committed = begin(subject), begin(subject), begin(subject)
    opened.add(topic, 1, 0)
    committed.add(topic, 0)
    committed.end(commit=True)
    names = [each.transactional_id for each in (fresh, opened, committed)]
    describe(subject, "all", *names)
    describe(subject, "unknown", "nobody", names[0])
    describe(subject, "empty", "")
    describe(subject, "none")
    describe(subject, "twice", names[0], names[0])


@case
def transaction_list(subject: Subject) -> None:
    topic = subject.topic()
    fresh, opened, committed, aborted = (begin(subject) for _ in range(4))
    opened.add(topic, 0)
    for each in (committed, aborted):
        each.add(topic, 0)
        each.end(commit=each is committed)
    ours = {each.transactional_id for each in (fresh, opened, committed, aborted)}
    ids = [opened.producer_id, fresh.producer_id, UNKNOWN_PRODUCER_ID]
    prefix = fresh.transactional_id[: fresh.transactional_id.rindex("txn")]
    filters: dict[str, dict[str, Any]] = {"nothing": {}}
    states = ("Empty", "Ongoing", "PrepareCommit", "CompleteCommit", "CompleteAbort", "Dead", "PrepareEpochFence")
    states += ("ongoing", "ONGOING", "Strange", "")
    filters |= {f"state {state!r}": {"state_filters": [state]} for state in states}
    filters["states, one unknown"] = {"state_filters": ["Ongoing", "Strange", "Empty"]}
    filters["ids"] = {"producer_id_filters": ids}
    filters["ids and state"] = {"producer_id_filters": ids, "state_filters": ["Empty"]}
    for duration in (-5, -1, 0, 3_600_000, 2**62):
        filters[f"duration {duration}"] = {"duration_filter": duration}
    for pattern in (None, "", f"{prefix}txn[0-9]*", prefix, ".*", f"{prefix}.*", "(", "nobody", "d-.*|x"):
        shown = pattern and pattern.replace(prefix, "<prefix>")
        filters[f"pattern {shown!r}"] = {"transactional_id_pattern": pattern}
    for label, fields in filters.items():
        needed = 2 if "transactional_id_pattern" in fields else 1 if "duration_filter" in fields else 0
        for version in range(needed, 3):
            given = {"state_filters": [], "producer_id_filters": [], **fields}
            response = subject.quiet(ListTransactionsRequest, version, given)
            rows = [[each.transactional_id, each.transaction_state] for each in response.transaction_states]
            found = sorted(row for row in rows if row[0] in ours)
            subject.answers[f"v{version} {label}"] = [
                response.error_code,
                sorted(response.unknown_state_filters),
                found,
            ]


@case
def transaction_find_coordinator(subject: Subject) -> None:
    name = begin(subject).transactional_id
    for version in range(1, 7):
        one: dict[str, Any] = {"key": name} if version < 4 else {"coordinator_keys": [name, "other", "", name]}
        subject.call(f"v{version}", FindCoordinatorRequest, version, **one, key_type=1)
    subject.call("empty", FindCoordinatorRequest, 3, key="", key_type=1)
