"""Who may commit to a consumer group within a transaction: TxnOffsetCommit says who the member is, or nothing."""

from __future__ import annotations

import pytest

from bytemq.broker.coordinator.group.consumer.offset_rules import check_transactional_commit
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from tests.unit.coordinator.consumer_world import Consumer, ConsumerWorld


@pytest.fixture
def world() -> ConsumerWorld:
    world = ConsumerWorld(t=2)
    Consumer(world, "a").heartbeat()
    return world


def test_transactional_commit__of_a_member_or_of_nobody_in_particular(world: ConsumerWorld) -> None:
    check_transactional_commit(world.group, "a", 2)
    check_transactional_commit(world.group, "", -1)


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
        check_transactional_commit(world.group, member_id, epoch)
    assert refused.value.code is code
