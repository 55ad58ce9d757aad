"""How groups and offsets end: DeleteGroups (v0-3), retention (KIP-211), and topics that are deleted.

Everything ends by tombstones in the log. Offsets expire offsets.retention.minutes after the group became empty, or,
where it still has consumers or never had members, after their last commit; not while a member is subscribed to the
topic. A group without members and offsets goes with its last offset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from bytemq.broker.coordinator.group.classic_group import NO_TIMESTAMP, ClassicGroup
from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup
from bytemq.broker.coordinator.group.consumer.steps import group_tombstones
from bytemq.broker.coordinator.group.environment import GroupEnvironment, IsGone
from bytemq.broker.coordinator.group.offset_store import OffsetStore
from bytemq.broker.coordinator.group.pending_offsets import PendingOffsets
from bytemq.broker.coordinator.group.records import (
    CommittedOffset,
    GroupMetadataRecord,
    GroupRecord,
    OffsetCommitRecord,
    has_own_retention,
)
from bytemq.broker.coordinator.group.states import GroupState
from bytemq.broker.coordinator.group.subscription import CONSUMER_PROTOCOL_TYPE
from bytemq.broker.coordinator.outcome import NOTHING, Outcome
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.delete_groups import DeletableGroupResult
from bytemq.protocol.primitives import MalformedMessage


class Removal:
    """Deletes groups and offsets, over the groups of one shard."""

    __slots__ = ("_environment", "_pending", "_store")

    def __init__(self, environment: GroupEnvironment, store: OffsetStore, pending: PendingOffsets) -> None:
        self._environment = environment
        self._store = store
        self._pending = pending

    def delete_groups(self, group_ids: Iterable[str]) -> Outcome[list[DeletableGroupResult]]:
        """Each group by itself: gone with its offsets, or its error. NON_EMPTY_GROUP, GROUP_ID_NOT_FOUND."""
        results = []
        removed: list[ClassicGroup] = []
        records: list[GroupRecord] = []
        for group_id in dict.fromkeys(group_ids):
            consumers = self._environment.consumer_groups.get(group_id)
            if consumers is not None:
                code = ErrorCode.NON_EMPTY_GROUP if consumers.members else ErrorCode.NONE
                results.append(DeletableGroupResult(group_id=group_id, error_code=code))
                if not consumers.members:
                    records += self._offset_tombstones(group_id)
                    records += group_tombstones(consumers)
                continue
            try:
                group = self._environment.group(group_id)
                if group.state is not GroupState.EMPTY:
                    raise KafkaError(ErrorCode.NON_EMPTY_GROUP)
            except KafkaError as error:
                results.append(DeletableGroupResult(group_id=group_id, error_code=error.code))
                continue
            records += self._offset_tombstones(group_id)
            records.append(self._remove(group))
            removed.append(group)
            results.append(DeletableGroupResult(group_id=group_id))
        return Outcome(results, records, lambda code: self._ended(removed, code))

    def expire(self, group_ids: Iterable[str]) -> Outcome[None]:
        """Tombstones for what is past its retention in these groups."""
        removed: list[ClassicGroup] = []
        records: list[GroupRecord] = []
        for group_id in group_ids:
            consumers = self._environment.consumer_groups.get(group_id)
            if consumers is not None:
                records += self._expired_consumers(consumers)
                continue
            group = self._environment.groups.get(group_id)
            if group is None:
                continue
            expired, all_expired = self._expired_offsets(group)
            records += expired
            if all_expired and group.state is GroupState.EMPTY and not group.pending_join:
                records.append(self._remove(group))
                removed.append(group)
        if not records:
            return NOTHING
        return Outcome(None, records, lambda code: self._ended(removed, code))

    def forget_topics(self, group_ids: Iterable[str], is_gone: IsGone) -> Outcome[None]:
        """Tombstones for the offsets that these groups have in topics that are gone."""
        records = [
            OffsetCommitRecord(group_id, topic, partition, None)
            for group_id in group_ids
            for topic in self._gone_topics(group_id, is_gone)
            for partition in self._store.committed_topics(group_id)[topic]
        ]
        return Outcome(None, records)

    def _offset_tombstones(self, group_id: str) -> Iterator[OffsetCommitRecord]:
        """Of all that the group has, pending offsets included."""
        present = {(group_id, topic, partition) for topic, partition, _ in self._store.latest_partitions(group_id)}
        for key in sorted(present | self._pending.of_group(group_id)):
            yield OffsetCommitRecord(*key, None)

    def _expired_consumers(self, group: ConsumerGroup) -> list[GroupRecord]:
        """An offset ends by the time of its commit, unless a member reads its topic; an empty group with its last."""
        group_id = group.group_id
        gone = self._gone_topics(group_id, self._environment.is_gone)
        oldest_ms = self._environment.wall_ms() - self._environment.settings.offsets_retention_ms
        expired: list[GroupRecord] = []
        is_bare = not self._pending.of_group(group_id)
        for topic, partition, encoded in self._store.latest_partitions(group_id):
            is_kept = group.is_subscribed_to(topic) or self._pending.is_pending(group_id, topic, partition)
            if topic in gone or (not is_kept and _decoded(encoded).commit_timestamp_ms <= oldest_ms):
                expired.append(OffsetCommitRecord(group_id, topic, partition, None))
            else:
                is_bare = False
        if is_bare and not group.members:
            expired += group_tombstones(group)
        return expired

    def _expired_offsets(self, group: ClassicGroup) -> tuple[list[OffsetCommitRecord], bool]:
        """Tombstones for the offsets that are past their retention or whose topic is gone, and whether none is left."""
        group_id = group.group_id
        expired: list[OffsetCommitRecord] = []
        gone = self._gone_topics(group_id, self._environment.is_gone)
        is_due = self._retention_check(group)
        all_expired = not self._pending.of_group(group_id)
        for topic, partition, encoded in self._store.latest_partitions(group_id):
            is_kept = group.is_subscribed_to(topic) or self._pending.is_pending(group_id, topic, partition)
            if topic in gone or (not is_kept and is_due(encoded)):
                expired.append(OffsetCommitRecord(group_id, topic, partition, None))
            else:
                all_expired = False
        return expired, all_expired

    def _gone_topics(self, group_id: str, is_gone: IsGone) -> set[str]:
        """One offset speaks for all of its topic: a topic's offsets are committed by members who read the same one."""
        return {
            topic
            for topic, partitions in self._store.committed_topics(group_id).items()
            if is_gone(topic, _decoded(next(iter(partitions.values()))).topic_id)
        }

    def _retention_check(self, group: ClassicGroup) -> Callable[[bytes], bool]:
        """Whether an offset of the group is past its retention; decodes it only where that matters."""
        if not _may_expire(group):
            return lambda encoded: False
        now_ms = self._environment.wall_ms()
        oldest_ms = now_ms - self._environment.settings.offsets_retention_ms
        since_empty = group.state is GroupState.EMPTY and group.protocol_type is not None
        since_ms = group.state_timestamp_ms if since_empty else NO_TIMESTAMP

        def is_due(encoded: bytes) -> bool:
            if has_own_retention(encoded):
                return now_ms >= _decoded(encoded).expire_timestamp_ms
            if since_ms != NO_TIMESTAMP:
                return since_ms <= oldest_ms
            return _decoded(encoded).commit_timestamp_ms <= oldest_ms

        return is_due

    def _remove(self, group: ClassicGroup) -> GroupMetadataRecord:
        """Removed at once, so that a member that joins meanwhile founds a new group behind the tombstone."""
        for member_id in tuple(group.pending_join):
            self._environment.timers.cancel(self._environment.session_key(group.group_id, member_id))
            group.remove_pending(member_id)
        self._environment.forget_group(group)
        return GroupMetadataRecord(group.group_id, None)

    def _ended(self, removed: list[ClassicGroup], code: ErrorCode) -> Outcome[None]:
        """Not deleted after all: the groups are back, unless one of that name was founded since."""
        if code is not ErrorCode.NONE:
            for group in removed:
                self._environment.restore_group(group)
        return NOTHING


def _may_expire(group: ClassicGroup) -> bool:
    if group.state is GroupState.EMPTY or group.protocol_type is None:
        return True
    knows_topics = group.protocol_type == CONSUMER_PROTOCOL_TYPE and group.subscribed_topics is not None
    return knows_topics and group.state is GroupState.STABLE


def _decoded(encoded: bytes) -> CommittedOffset:
    try:
        return CommittedOffset.decode(encoded)
    except MalformedMessage:
        return CommittedOffset(-1, commit_timestamp_ms=0)
