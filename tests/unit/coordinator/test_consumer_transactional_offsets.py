"""Offsets of transactions in consumer groups: who may commit them, what they keep alive, and what a restart makes of
them.
"""

from __future__ import annotations

import pytest

from bytemq.broker.coordinator.group.environment import GroupSettings, RequestOrigin
from bytemq.broker.coordinator.outcome import Envelope
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.offset_fetch import OffsetFetchRequestGroup, OffsetFetchRequestTopics
from bytemq.protocol.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
)
from bytemq.protocol.records.control import EndTransactionMarker
from tests.unit.coordinator.consumer_world import Consumer, ConsumerWorld

PRODUCER_ID = 7
RETENTION_MS = 3_600_000
CHECK_INTERVAL_MS = 60_000


class TransactionalWorld(ConsumerWorld):
    """Remembers the batches' envelopes as well, and replays with them."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope | None] = []
        settings = GroupSettings(
            offsets_retention_ms=RETENTION_MS, offsets_retention_check_interval_ms=CHECK_INTERVAL_MS
        )
        super().__init__(settings, t=1)
        self.consumer = Consumer(self, "a")
        self.consumer.heartbeat()

    def release(self, count: int | None = None) -> None:
        for write in self.held[:count]:
            self.envelopes += [write.outcome.envelope] * len(write.outcome.records)
        super().release(count)

    def replay(self) -> None:
        self._start()
        for record, envelope in zip(self.log, self.envelopes, strict=True):
            self.shard.replay([record], envelope)

    def commit_in_transaction(
        self, offset: int, *, member_id: str = "", epoch: int = -1, version: int = 6, metadata: str = ""
    ) -> list[ErrorCode]:
        """The partition's answer. Raises KafkaError."""
        partitions = [TxnOffsetCommitRequestPartition(0, offset, committed_metadata=metadata)]
        topics = [TxnOffsetCommitRequestTopic("t", bytes(16), partitions)]
        request = TxnOffsetCommitRequest("app", "g", PRODUCER_ID, 0, epoch, member_id, None, topics)
        outcome = self.shard.transactional.commit(request, RequestOrigin("c", "/127.0.0.1", version))
        self.submit(outcome)
        return [ErrorCode(each.error_code) for topic in outcome.response.topics for each in topic.partitions]

    def end_transaction(self, *, committed: bool) -> None:
        envelope = Envelope(PRODUCER_ID, 0, True)
        marker = EndTransactionMarker(committed, 0)
        self.submit(self.shard.transactional.end(envelope, marker, lambda code: None))

    def fetched(self) -> int:
        topics = [OffsetFetchRequestTopics(name="t", partition_indexes=[0])]
        [topic] = self.shard.offsets.fetch(OffsetFetchRequestGroup(group_id="g", topics=topics))
        return next(topic.partitions).committed_offset

    def exists(self) -> bool:
        return "g" in self.shard.environment.consumer_groups


@pytest.mark.parametrize("of_member", [True, False])
def test_commit__in_a_transaction_counts_in_the_consumer_group(of_member: bool) -> None:
    world = TransactionalWorld()
    member_id, epoch = ("a", world.consumer.epoch) if of_member else ("", -1)
    assert world.commit_in_transaction(5, member_id=member_id, epoch=epoch) == [ErrorCode.NONE]
    assert world.fetched() == -1
    world.end_transaction(committed=True)
    assert world.fetched() == 5
    assert not world.shard.groups


@pytest.mark.parametrize(
    ("version", "member_id", "epoch", "code"),
    [
        (6, "a", 1, ErrorCode.STALE_MEMBER_EPOCH),
        (5, "a", 1, ErrorCode.ILLEGAL_GENERATION),
        (5, "b", 2, ErrorCode.UNKNOWN_MEMBER_ID),
    ],
)
def test_commit__of_who_is_no_member_by_now_is_refused(
    version: int, member_id: str, epoch: int, code: ErrorCode
) -> None:
    world = TransactionalWorld()
    before = len(world.log)
    with pytest.raises(KafkaError) as refused:
        world.commit_in_transaction(5, member_id=member_id, epoch=epoch, version=version)
    assert refused.value.code is code
    assert len(world.log) == before
    assert not world.shard.groups


def test_commit__that_fails_leaves_the_group_as_it_was() -> None:
    world = TransactionalWorld()
    assert world.commit_in_transaction(5, metadata="m" * 5_000) == [ErrorCode.OFFSET_METADATA_TOO_LARGE]
    world.hold = True
    world.commit_in_transaction(5)
    world.fail()
    assert world.exists()
    assert not world.shard.groups
    assert not world.shard.pending


def test_retention__spares_what_a_transaction_has_pending() -> None:
    world = TransactionalWorld()
    world.commit("g", {("t", 0): 1}, member_id="a", generation=world.consumer.epoch)
    world.commit_in_transaction(5)
    world.consumer.leave()
    world.advance(RETENTION_MS + CHECK_INTERVAL_MS)
    assert world.exists()
    assert world.fetched() == 1
    world.end_transaction(committed=True)
    assert world.fetched() == 5
    world.advance(CHECK_INTERVAL_MS)
    assert not world.exists()


def test_retention__spares_an_empty_group_whose_only_offset_is_pending() -> None:
    world = TransactionalWorld()
    world.commit_in_transaction(5)
    world.consumer.leave()
    world.advance(CHECK_INTERVAL_MS)
    assert world.exists()
    world.end_transaction(committed=False)
    world.advance(CHECK_INTERVAL_MS)
    assert not world.exists()


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("ends_before", [True, False])
def test_replay__makes_no_classic_group_of_pending_offsets(ends_before: bool, committed: bool) -> None:
    world = TransactionalWorld()
    world.commit_in_transaction(5)
    if ends_before:
        world.end_transaction(committed=committed)
    world.replay()
    assert not world.shard.groups
    world.shard.loaded()
    if not ends_before:
        world.end_transaction(committed=committed)
    assert world.exists()
    assert not world.shard.groups
    assert world.fetched() == (5 if committed else -1)


def test_delete_groups__takes_pending_offsets_along() -> None:
    world = TransactionalWorld()
    world.commit_in_transaction(5)
    world.consumer.leave()
    world.submit(world.shard.removal.delete_groups(["g"]))
    world.end_transaction(committed=True)
    assert world.fetched() == -1
    assert not world.exists()
    assert not world.shard.groups
