"""The records that consumer groups write to `__consumer_offsets`, in Kafka's formats.

Each record sets one keyed fact of a group; None takes it away. So a group is the latest value of each key, and a record
is undone by what its key had before. Values are immutable: they are shared between the log's queue and the group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from bytemq.broker.coordinator.group.consumer.member import (
    Assigned,
    ClassicTerms,
    CurrentAssignment,
    MemberMetadata,
    MemberState,
    Target,
)
from bytemq.protocol.codec import decode_record, encode_record, record_type
from bytemq.protocol.messages import consumer_group_current_member_assignment_record as current_record
from bytemq.protocol.messages import consumer_group_member_metadata_record as member_record
from bytemq.protocol.messages import consumer_group_metadata_record as group_record
from bytemq.protocol.messages import consumer_group_regular_expression_record as regex_record
from bytemq.protocol.messages import consumer_group_target_assignment_member_record as target_record
from bytemq.protocol.messages import consumer_group_target_assignment_metadata_record as target_epoch_record
from bytemq.protocol.primitives import MalformedMessage
from bytemq.protocol.schema import Message

GROUP_TYPE, MEMBER_TYPE, TARGET_EPOCH_TYPE, TARGET_TYPE, CURRENT_TYPE, REGEX_TYPE = 3, 5, 6, 7, 8, 16


class GroupEpoch(NamedTuple):
    """`metadata_hash` stands for the topics that the group is subscribed to, as they were at this epoch."""

    epoch: int
    metadata_hash: int


class TargetEpoch(NamedTuple):
    epoch: int
    timestamp_ms: int


class ResolvedRegex(NamedTuple):
    """The topics that an expression stands for; `version` is that of the cluster's image that was looked at."""

    topics: frozenset[str]
    version: int
    timestamp_ms: int


class GroupEpochRecord(NamedTuple):
    group_id: str
    value: GroupEpoch | None

    def encode_key(self) -> bytes:
        return bytes(encode_record(group_record.ConsumerGroupMetadataKey(self.group_id)))

    def encode_value(self) -> bytes | None:
        return None if self.value is None else _bytes(group_record.ConsumerGroupMetadataValue(*self.value))


class MemberRecord(NamedTuple):
    group_id: str
    member_id: str
    value: MemberMetadata | None

    def encode_key(self) -> bytes:
        return bytes(encode_record(member_record.ConsumerGroupMemberMetadataKey(self.group_id, self.member_id)))

    def encode_value(self) -> bytes | None:
        if self.value is None:
            return None
        return _bytes(
            member_record.ConsumerGroupMemberMetadataValue(
                instance_id=self.value.instance_id,
                rack_id=self.value.rack_id,
                client_id=self.value.client_id,
                client_host=self.value.client_host,
                subscribed_topic_names=sorted(self.value.topics),
                subscribed_topic_regex=self.value.regex,
                rebalance_timeout_ms=self.value.rebalance_timeout_ms,
                server_assignor=self.value.assignor,
                classic_member_metadata=_encoded_terms(self.value.classic),
            )
        )


class TargetEpochRecord(NamedTuple):
    """Follows the target assignment that it dates."""

    group_id: str
    value: TargetEpoch | None

    def encode_key(self) -> bytes:
        return bytes(encode_record(target_epoch_record.ConsumerGroupTargetAssignmentMetadataKey(self.group_id)))

    def encode_value(self) -> bytes | None:
        if self.value is None:
            return None
        return _bytes(target_epoch_record.ConsumerGroupTargetAssignmentMetadataValue(*self.value))


class TargetRecord(NamedTuple):
    group_id: str
    member_id: str
    value: Target | None

    def encode_key(self) -> bytes:
        return bytes(encode_record(target_record.ConsumerGroupTargetAssignmentMemberKey(self.group_id, self.member_id)))

    def encode_value(self) -> bytes | None:
        if self.value is None:
            return None
        topics = [target_record.TopicPartition(topic, sorted(indexes)) for topic, indexes in self.value.items()]
        return _bytes(target_record.ConsumerGroupTargetAssignmentMemberValue(topics))


class CurrentRecord(NamedTuple):
    group_id: str
    member_id: str
    value: CurrentAssignment | None

    def encode_key(self) -> bytes:
        key = current_record.ConsumerGroupCurrentMemberAssignmentKey(self.group_id, self.member_id)
        return bytes(encode_record(key))

    def encode_value(self) -> bytes | None:
        value = self.value
        if value is None:
            return None
        return _bytes(
            current_record.ConsumerGroupCurrentMemberAssignmentValue(
                value.epoch,
                value.previous_epoch,
                int(value.state),
                _encoded_partitions(value.assigned),
                _encoded_partitions(value.revoking),
            )
        )


class RegexRecord(NamedTuple):
    group_id: str
    regex: str
    value: ResolvedRegex | None

    def encode_key(self) -> bytes:
        return bytes(encode_record(regex_record.ConsumerGroupRegularExpressionKey(self.group_id, self.regex)))

    def encode_value(self) -> bytes | None:
        if self.value is None:
            return None
        topics, version, timestamp_ms = self.value
        return _bytes(regex_record.ConsumerGroupRegularExpressionValue(sorted(topics), version, timestamp_ms))


ConsumerGroupRecord = GroupEpochRecord | MemberRecord | TargetEpochRecord | TargetRecord | CurrentRecord | RegexRecord
CONSUMER_GROUP_RECORDS = (
    GroupEpochRecord,
    MemberRecord,
    TargetEpochRecord,
    TargetRecord,
    CurrentRecord,
    RegexRecord,
)


def decode_consumer_record(key: bytes, value: bytes | None) -> ConsumerGroupRecord | None:
    """A stored record; None for a type that is not a consumer group's. Raises MalformedMessage."""
    kind = record_type(key)
    if kind == GROUP_TYPE:
        group = decode_record(group_record.ConsumerGroupMetadataKey, key)
        stored = _decoded(group_record.ConsumerGroupMetadataValue, value)
        return GroupEpochRecord(
            group.group_id, None if stored is None else GroupEpoch(stored.epoch, stored.metadata_hash)
        )
    if kind == MEMBER_TYPE:
        return _decode_member(key, value)
    if kind == TARGET_EPOCH_TYPE:
        of = decode_record(target_epoch_record.ConsumerGroupTargetAssignmentMetadataKey, key)
        made = _decoded(target_epoch_record.ConsumerGroupTargetAssignmentMetadataValue, value)
        epoch = None if made is None else TargetEpoch(made.assignment_epoch, made.assignment_timestamp)
        return TargetEpochRecord(of.group_id, epoch)
    if kind == TARGET_TYPE:
        target_key = decode_record(target_record.ConsumerGroupTargetAssignmentMemberKey, key)
        target = _decoded(target_record.ConsumerGroupTargetAssignmentMemberValue, value)
        assigned: Target | None = None
        if target is not None:
            assigned = {each.topic_id: frozenset(each.partitions) for each in target.topic_partitions}
        return TargetRecord(target_key.group_id, target_key.member_id, assigned)
    if kind == CURRENT_TYPE:
        return _decode_current(key, value)
    if kind == REGEX_TYPE:
        regex = decode_record(regex_record.ConsumerGroupRegularExpressionKey, key)
        found = _decoded(regex_record.ConsumerGroupRegularExpressionValue, value)
        resolved = None if found is None else ResolvedRegex(frozenset(found.topics), found.version, found.timestamp)
        return RegexRecord(regex.group_id, regex.regular_expression, resolved)
    return None


def _decode_member(key: bytes, value: bytes | None) -> MemberRecord:
    member = decode_record(member_record.ConsumerGroupMemberMetadataKey, key)
    stored = _decoded(member_record.ConsumerGroupMemberMetadataValue, value)
    if stored is None:
        return MemberRecord(member.group_id, member.member_id, None)
    metadata = MemberMetadata(
        instance_id=stored.instance_id,
        rack_id=stored.rack_id,
        client_id=stored.client_id,
        client_host=stored.client_host,
        topics=frozenset(stored.subscribed_topic_names),
        regex=stored.subscribed_topic_regex or "",
        rebalance_timeout_ms=stored.rebalance_timeout_ms,
        assignor=stored.server_assignor,
        classic=_decoded_terms(stored.classic_member_metadata),
    )
    return MemberRecord(member.group_id, member.member_id, metadata)


def _encoded_terms(terms: ClassicTerms | None) -> member_record.ClassicMemberMetadata | None:
    if terms is None:
        return None
    protocols = [member_record.ClassicProtocol(name, metadata) for name, metadata in terms.protocols]
    return member_record.ClassicMemberMetadata(terms.session_timeout_ms, protocols)


def _decoded_terms(stored: member_record.ClassicMemberMetadata | None) -> ClassicTerms | None:
    if stored is None:
        return None
    if not stored.supported_protocols:
        raise MalformedMessage("a classic member without a protocol")
    protocols = tuple((each.name, bytes(each.metadata)) for each in stored.supported_protocols)
    return ClassicTerms(stored.session_timeout_ms, protocols)


def _decode_current(key: bytes, value: bytes | None) -> CurrentRecord:
    member = decode_record(current_record.ConsumerGroupCurrentMemberAssignmentKey, key)
    stored = _decoded(current_record.ConsumerGroupCurrentMemberAssignmentValue, value)
    if stored is None:
        return CurrentRecord(member.group_id, member.member_id, None)
    try:
        state = MemberState(stored.state)
    except ValueError as error:
        raise MalformedMessage(f"{stored.state} is no state of a member") from error
    current = CurrentAssignment(
        stored.member_epoch,
        stored.previous_member_epoch,
        state,
        _decoded_partitions(stored.assigned_partitions, stored.member_epoch),
        _decoded_partitions(stored.partitions_pending_revocation, stored.member_epoch),
    )
    return CurrentRecord(member.group_id, member.member_id, current)


def _encoded_partitions(assigned: Assigned) -> list[current_record.TopicPartitions]:
    return [
        current_record.TopicPartitions(topic, list(epochs), list(epochs.values())) for topic, epochs in assigned.items()
    ]


def _decoded_partitions(stored: list[current_record.TopicPartitions], epoch: int) -> Assigned:
    """Records of before Kafka 4.4 lack the epochs of partitions: the member's own holds for all."""
    decoded: dict[bytes, Mapping[int, int]] = {}
    for topic in stored:
        epochs = topic.assignment_epochs
        if epochs is None or len(epochs) != len(topic.partitions):
            epochs = [epoch] * len(topic.partitions)
        decoded[topic.topic_id] = dict(zip(topic.partitions, epochs, strict=True))
    return decoded


_M = TypeVar("_M", bound=Message)


def _decoded(cls: type[_M], value: bytes | None) -> _M | None:
    return None if value is None else decode_record(cls, value)


def _bytes(value: Message) -> bytes:
    return bytes(encode_record(value))
