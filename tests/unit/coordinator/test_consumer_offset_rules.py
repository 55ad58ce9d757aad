"""Who may commit to a consumer group within a transaction: TxnOffsetCommit says who the member is, or nothing."""

from __future__ import annotations

import pytest

from bytemq.broker.coordinator.group.consumer.offset_rules import check_transactional_commit
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
)
from tests.unit.coordinator.consumer_world import Consumer, ConsumerWorld


@pytest.fixture
def world() -> ConsumerWorld:
    world = ConsumerWorld(t=2)
    Consumer(world, "a").heartbeat()
    return world


def of(member_id: str, epoch: int, topic_id: bytes = b"?" * 16, partition: int = 0) -> TxnOffsetCommitRequest:
    rows = [TxnOffsetCommitRequestPartition(partition)]
    topics = [TxnOffsetCommitRequestTopic("t", topic_id, rows)]
    return TxnOffsetCommitRequest(generation_id_or_member_epoch=epoch, member_id=member_id, topics=topics)


def test_transactional_commit__of_a_member_or_of_nobody_in_particular(world: ConsumerWorld) -> None:
    check_transactional_commit(world.group, of("a", 2))
    check_transactional_commit(world.group, of("", -1))


def test_transactional_commit__what_a_member_kept_it_may_commit_at_the_epoch_before(world: ConsumerWorld) -> None:
    first, other = Consumer(world, "a"), Consumer(world, "b")
    for _ in range(4):
        first.heartbeat()
        other.heartbeat()
        world.advance(1_000)
    [(topic_id, since)] = world.group.current_of("a").assigned.items()
    [(kept, at)] = since.items()
    assert at < world.group.current_of("a").epoch
    check_transactional_commit(world.group, of("a", at, topic_id, kept))
    with pytest.raises(KafkaError):
        check_transactional_commit(world.group, of("a", at, topic_id, 1 - kept))


@pytest.mark.parametrize(
    ("member_id", "epoch", "code"),
    [
        ("a", 1, ErrorCode.STALE_MEMBER_EPOCH),
        ("a", 3, ErrorCode.STALE_MEMBER_EPOCH),
        ("b", 2, ErrorCode.UNKNOWN_MEMBER_ID),
        ("", 2, ErrorCode.UNKNOWN_MEMBER_ID),
    ],
)
def test_transactional_commit__of_others_is_refused(
    world: ConsumerWorld, member_id: str, epoch: int, code: ErrorCode
) -> None:
    with pytest.raises(KafkaError) as refused:
        check_transactional_commit(world.group, of(member_id, epoch))
    assert refused.value.code is code
