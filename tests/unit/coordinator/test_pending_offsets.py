"""Offsets of transactions in a group shard: pending until the marker, over a restart as well."""

from __future__ import annotations

import pytest

from bytemq.broker.coordinator.group.environment import GroupSettings, RequestOrigin
from bytemq.broker.coordinator.group.records import CommittedOffset, OffsetCommitRecord
from bytemq.broker.coordinator.group.shard import GroupShard
from bytemq.broker.coordinator.outcome import CoordinatorRecord, Envelope, Outcome
from bytemq.broker.coordinator.timers import TimerQueue
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.offset_fetch import OffsetFetchRequestGroup, OffsetFetchRequestTopics
from bytemq.protocol.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
)
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.protocol.records.control import EndTransactionMarker

Code = ErrorCode
ORIGIN = RequestOrigin("client", "host", 5)


class World:
    """One group shard whose writes are durable at once, and its log with the batches' envelopes."""

    def __init__(self) -> None:
        self.log: list[tuple[CoordinatorRecord, Envelope | None]] = []
        self.restart()

    def restart(self) -> None:
        self.shard = GroupShard(GroupSettings(), TimerQueue(lambda: 0), lambda: 1_000, lambda: "uuid")
        for record, envelope in self.log:
            key_value = (record.encode_key(), record.encode_value())
            if envelope is None:
                self.shard.replay_plain(build_batch([Record(*key_value)]), 0)
            else:
                self.shard.replay([key_value], envelope)
        self.shard.loaded()

    def submit(self, outcome: Outcome[object], *, code: ErrorCode = Code.NONE) -> None:
        for record in outcome.records:
            self.shard.stage(1, record)
        for record in outcome.records:
            if code is Code.NONE:
                self.log.append((record, outcome.envelope))
                self.shard.commit(1, record)
            else:
                self.shard.roll_back(1, record)
        if outcome.on_appended is not None:
            outcome.on_appended(code)

    def commit(self, producer_id: int, offset: int, *, code: ErrorCode = Code.NONE, generation: int = -1) -> None:
        partitions = [TxnOffsetCommitRequestPartition(0, offset)]
        request = TxnOffsetCommitRequest(
            "app", "g", producer_id, 0, generation, "", None, [TxnOffsetCommitRequestTopic("t", bytes(16), partitions)]
        )
        self.submit(self.shard.transactional.commit(request, ORIGIN), code=code)

    def plain_commit(self, offset: int) -> None:
        record = OffsetCommitRecord("g", "t", 0, CommittedOffset(offset).encode())
        self.submit(Outcome(None, [record]))

    def end(self, producer_id: int, *, committed: bool) -> list[ErrorCode]:
        heard: list[ErrorCode] = []
        envelope = Envelope(producer_id, 0, True)
        self.submit(self.shard.transactional.end(envelope, EndTransactionMarker(committed, 3), heard.append))
        return heard

    def fetch(self, *, require_stable: bool = False) -> tuple[int, ErrorCode]:
        topics = [OffsetFetchRequestTopics(name="t", partition_indexes=[0])]
        request = OffsetFetchRequestGroup(group_id="g", topics=topics)
        (topic,) = self.shard.offsets.fetch(request, require_stable=require_stable)
        (partition,) = topic.partitions
        return partition.committed_offset, ErrorCode(partition.error_code)


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("committed", [True, False])
def test_offsets__count_when_the_marker_commits(committed: bool, restarts: bool) -> None:
    world = World()
    world.plain_commit(1)
    world.commit(7, 5)
    if restarts:
        world.restart()
    assert world.fetch() == (1, Code.NONE)
    assert world.fetch(require_stable=True) == (-1, Code.UNSTABLE_OFFSET_COMMIT)
    assert world.end(7, committed=committed) == [Code.NONE]
    for _ in range(2):
        assert world.fetch(require_stable=True) == (5 if committed else 1, Code.NONE)
        world.restart()


@pytest.mark.parametrize("restarts", [False, True])
def test_offsets__committed_later_without_a_transaction_win(restarts: bool) -> None:
    world = World()
    world.commit(7, 5)
    world.plain_commit(9)
    if restarts:
        world.restart()
    assert world.fetch(require_stable=True) == (9, Code.NONE)
    world.end(7, committed=True)
    assert world.fetch() == (9, Code.NONE)


def test_offsets__of_another_producer_stay_pending() -> None:
    world = World()
    world.commit(7, 5)
    world.commit(8, 6)
    world.end(7, committed=True)
    assert world.fetch() == (5, Code.NONE)
    assert world.fetch(require_stable=True) == (-1, Code.UNSTABLE_OFFSET_COMMIT)
    world.end(8, committed=False)
    assert world.fetch(require_stable=True) == (5, Code.NONE)


@pytest.mark.parametrize("restarts", [False, True])
def test_offsets__of_the_later_in_the_log_win_whoever_ends_first(restarts: bool) -> None:
    world = World()
    world.commit(7, 5)
    world.commit(8, 6)
    if restarts:
        world.restart()
    world.end(8, committed=True)
    assert world.fetch(require_stable=True) == (6, Code.NONE)
    world.end(7, committed=True)
    assert world.fetch() == (6, Code.NONE)


def test_offsets__of_an_aborted_transaction_win_over_nothing() -> None:
    world = World()
    world.commit(7, 5)
    world.commit(8, 6)
    world.end(8, committed=False)
    assert world.fetch(require_stable=True) == (-1, Code.UNSTABLE_OFFSET_COMMIT)
    world.end(7, committed=True)
    assert world.fetch() == (5, Code.NONE)


def test_group__made_by_an_aborted_transaction_is_gone() -> None:
    world = World()
    world.commit(7, 5)
    assert "g" in world.shard.groups
    world.end(7, committed=False)
    assert "g" not in world.shard.groups
    world.commit(7, 5, code=Code.INVALID_PRODUCER_EPOCH)
    assert "g" not in world.shard.groups
    with pytest.raises(KafkaError) as refused:
        world.commit(7, 5, generation=3)
    assert refused.value.code is Code.ILLEGAL_GENERATION


def test_group__deleted_meanwhile_takes_its_pending_offsets_along() -> None:
    world = World()
    world.commit(7, 5)
    world.submit(world.shard.removal.delete_groups(["g"]))
    world.restart()
    world.end(7, committed=True)
    assert world.fetch() == (-1, Code.NONE)
    assert "g" not in world.shard.groups
