"""Who may commit and fetch offsets of a consumer group: members, by their epochs. Changes nothing."""

from __future__ import annotations

from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup
from bytemq.broker.coordinator.group.consumer.member import MemberMetadata
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.offset_commit import OffsetCommitRequest
from bytemq.protocol.messages.offset_fetch import OffsetFetchRequestGroup
from bytemq.protocol.messages.txn_offset_commit import TxnOffsetCommitRequest

_MEMBER_EPOCH_VERSION = 9


def check_commit(group: ConsumerGroup, request: OffsetCommitRequest, api_version: int) -> None:
    """Whoever it is may commit while nobody is in the group. A member that has moved on since it read may still commit
    what it has kept all the time (KIP-1251), whichever protocol it speaks: the generation of a classic member is its
    epoch.
    Raises UNKNOWN_MEMBER_ID, STALE_MEMBER_EPOCH, ILLEGAL_GENERATION, UNSUPPORTED_VERSION.
    """
    epoch = request.generation_id_or_member_epoch
    if epoch < 0 and not group.members:
        return
    member = group.require_member(request.member_id)
    if member.classic is None and api_version < _MEMBER_EPOCH_VERSION:
        text = "OffsetCommit version 9 or above must be used by members using the modern group protocol"
        raise KafkaError(ErrorCode.UNSUPPORTED_VERSION, text)
    _check_epoch(group, member, request, epoch)


def check_transactional_commit(group: ConsumerGroup, request: TxnOffsetCommitRequest) -> None:
    """The same for TxnOffsetCommit, which says who the member is from v3 only; what it does not say is not checked, nor
    is anything while nobody is in the group. Raises UNKNOWN_MEMBER_ID, STALE_MEMBER_EPOCH, ILLEGAL_GENERATION.
    """
    epoch = request.generation_id_or_member_epoch
    if epoch < 0 and not group.members:
        return
    if epoch < 0 and not request.member_id and request.group_instance_id is None:
        return
    _check_epoch(group, group.require_member(request.member_id), request, epoch)


def _check_epoch(
    group: ConsumerGroup, member: MemberMetadata, request: OffsetCommitRequest | TxnOffsetCommitRequest, epoch: int
) -> None:
    current = group.current_of(request.member_id)
    if epoch == current.epoch:
        return
    if not 0 <= epoch < current.epoch:
        raise _stale(member, epoch, current.epoch)
    for topic in request.topics:
        since = current.assigned.get(topic.topic_id, {})
        if any(since.get(each.partition_index, epoch + 1) > epoch for each in topic.partitions):
            raise _stale(member, epoch, current.epoch)


def check_fetch(group: ConsumerGroup, request: OffsetFetchRequestGroup) -> None:
    """From v9 members say who they are; administrators do not. Raises UNKNOWN_MEMBER_ID, STALE_MEMBER_EPOCH,
    ILLEGAL_GENERATION.
    """
    if request.member_id is None and request.member_epoch < 0:
        return
    member = group.require_member(request.member_id or "")
    current = group.current_of(request.member_id or "")
    if request.member_epoch != current.epoch:
        raise _stale(member, request.member_epoch, current.epoch)


def _stale(member: MemberMetadata, epoch: int, expected: int) -> KafkaError:
    if member.classic is not None:
        text = f"The received generation id {epoch} does not match the expected member epoch {expected}."
        return KafkaError(ErrorCode.ILLEGAL_GENERATION, text)
    text = f"The received member epoch {epoch} does not match the expected member epoch {expected}."
    return KafkaError(ErrorCode.STALE_MEMBER_EPOCH, text)
