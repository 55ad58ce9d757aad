"""TxnOffsetCommit (v0-6) and the markers of transactions, over the groups of one shard.

Owns what makes an offset of a transaction count. That the producer's transaction is open and has this partition in it
is the transaction coordinator's to say, before.
"""

from __future__ import annotations

from collections.abc import Callable

from bytemq.broker.coordinator.group.classic_group import ClassicGroup
from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup
from bytemq.broker.coordinator.group.consumer.offset_rules import check_transactional_commit
from bytemq.broker.coordinator.group.environment import GroupEnvironment, RequestOrigin
from bytemq.broker.coordinator.group.offset_store import OffsetStore
from bytemq.broker.coordinator.group.offsets import Offsets
from bytemq.broker.coordinator.group.pending_offsets import (
    EndTransactionRecord,
    PendingOffsets,
    TransactionalOffsetRecord,
)
from bytemq.broker.coordinator.group.records import CommittedOffset, OffsetCommitRecord, fits_a_string
from bytemq.broker.coordinator.group.states import GroupState
from bytemq.broker.coordinator.outcome import NOTHING, Envelope, Outcome
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
    TxnOffsetCommitResponsePartition,
    TxnOffsetCommitResponseTopic,
)
from bytemq.protocol.records.control import EndTransactionMarker

_NEW_ERRORS_VERSION = 6
"""From here on clients know GROUP_ID_NOT_FOUND and STALE_MEMBER_EPOCH; before, both are ILLEGAL_GENERATION."""


class TransactionalOffsets:
    """What transactions do to offsets. Errors of a whole request are KafkaError; of a partition, values."""

    __slots__ = ("_environment", "_offsets", "_pending", "_store")

    def __init__(
        self, environment: GroupEnvironment, store: OffsetStore, pending: PendingOffsets, offsets: Offsets
    ) -> None:
        self._environment = environment
        self._store = store
        self._pending = pending
        self._offsets = offsets

    def commit(self, request: TxnOffsetCommitRequest, origin: RequestOrigin) -> Outcome[TxnOffsetCommitResponse]:
        """Pending when this is answered. Raises KafkaError for what concerns all: generation, member, group."""
        group = self._group_for_commit(request, origin)
        now_ms = self._environment.wall_ms()
        records: dict[tuple[str, int], TransactionalOffsetRecord] = {}
        topics = []
        for topic in request.topics:
            partitions = []
            for each in topic.partitions:
                metadata = each.committed_metadata or ""
                error = self._offsets.metadata_error(metadata)
                partitions.append(TxnOffsetCommitResponsePartition(each.partition_index, error))
                if error is ErrorCode.NONE:
                    value = CommittedOffset(
                        each.committed_offset, each.committed_leader_epoch, metadata, now_ms, topic_id=topic.topic_id
                    )
                    key = topic.name, each.partition_index  # as in OffsetCommit, the last word counts
                    offset = OffsetCommitRecord(request.group_id, *key, value.encode())
                    records[key] = TransactionalOffsetRecord(request.producer_id, offset)
            topics.append(TxnOffsetCommitResponseTopic(topic.name, topic.topic_id, partitions))
        response = TxnOffsetCommitResponse(topics=topics)
        if not records:
            if group is not None:
                self._offsets.forget_if_bare(group)
            return Outcome(response)
        envelope = Envelope(request.producer_id, request.producer_epoch)
        return Outcome(response, [*records.values()], lambda code: self._commit_ended(group, code), envelope)

    def end(
        self, envelope: Envelope, marker: EndTransactionMarker, written: Callable[[ErrorCode], None]
    ) -> Outcome[None]:
        """The marker of a producer's transaction; `written` hears when it is durable, or why it is not."""

        def appended(code: ErrorCode) -> Outcome[None]:
            written(code)
            return NOTHING

        return Outcome(None, [EndTransactionRecord(envelope.producer_id, marker)], appended, envelope)

    def replay_end(self, producer_id: int, marker: EndTransactionMarker) -> None:
        """A marker is durable: the producer's pending offsets count from now on, or never did."""
        for record in self._pending.end(producer_id, committed=marker.committed):
            if marker.committed:
                self._store.apply(record)
                self._environment.ensure_group(record.group_id)
            else:
                group = self._environment.groups.get(record.group_id)
                if group is not None:
                    self._offsets.forget_if_bare(group)

    def _group_for_commit(self, request: TxnOffsetCommitRequest, origin: RequestOrigin) -> ClassicGroup | None:
        """None: a consumer group, which offsets neither found nor end."""
        consumers = self._environment.consumer_groups.get(request.group_id)
        if consumers is not None:
            _check_consumers(consumers, request, origin)
            return None
        generation_id = request.generation_id_or_member_epoch
        group = self._environment.groups.get(request.group_id)
        if group is None:
            if generation_id >= 0:
                is_new = origin.api_version >= _NEW_ERRORS_VERSION
                raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND if is_new else ErrorCode.ILLEGAL_GENERATION)
            if not fits_a_string(request.group_id):
                raise KafkaError(ErrorCode.INVALID_GROUP_ID)
            return self._environment.create_group(request.group_id)
        if generation_id < 0 and group.state is GroupState.EMPTY:
            return group
        if generation_id >= 0 or request.member_id or request.group_instance_id is not None:
            group.validate_member(request.member_id, request.group_instance_id)
            if generation_id != group.generation_id:
                raise KafkaError(ErrorCode.ILLEGAL_GENERATION)
        return group

    def _commit_ended(self, group: ClassicGroup | None, code: ErrorCode) -> Outcome[None]:
        if group is not None and code is not ErrorCode.NONE:
            self._offsets.forget_if_bare(group)
        return NOTHING


def _check_consumers(group: ConsumerGroup, request: TxnOffsetCommitRequest, origin: RequestOrigin) -> None:
    try:
        check_transactional_commit(group, request)
    except KafkaError as error:
        if error.code is ErrorCode.STALE_MEMBER_EPOCH and origin.api_version < _NEW_ERRORS_VERSION:
            raise KafkaError(ErrorCode.ILLEGAL_GENERATION) from error
        raise
