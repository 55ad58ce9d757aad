"""OffsetCommit (v2-10), OffsetFetch (v1-10) and OffsetDelete (v0) over the groups of one shard.

Notes: a commit with generation -1 to an empty or unknown group is a simple consumer's, which need not be a member; it
creates the group. Topic names and ids are resolved by the handlers; an offset remembers the topic's id, and one
committed for a deleted topic of the same name is as good as none.
"""

from __future__ import annotations

from collections.abc import Callable

from bytemq.broker.coordinator.group.classic_group import ClassicGroup
from bytemq.broker.coordinator.group.consumer.offset_rules import check_commit, check_fetch
from bytemq.broker.coordinator.group.environment import GroupEnvironment, RequestOrigin
from bytemq.broker.coordinator.group.fetched_offsets import FetchedTopic
from bytemq.broker.coordinator.group.offset_store import OffsetStore
from bytemq.broker.coordinator.group.pending_offsets import PendingOffsets
from bytemq.broker.coordinator.group.rebalance import Rebalance
from bytemq.broker.coordinator.group.records import (
    NO_TIMESTAMP,
    CommittedOffset,
    OffsetCommitRecord,
    fits_a_string,
)
from bytemq.broker.coordinator.group.states import GroupState
from bytemq.broker.coordinator.group.subscription import CONSUMER_PROTOCOL_TYPE
from bytemq.broker.coordinator.outcome import NOTHING, Outcome
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
)
from bytemq.protocol.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
)
from bytemq.protocol.messages.offset_fetch import OffsetFetchRequestGroup

_GROUP_NOT_FOUND_VERSION = 9
_MAX_TIMESTAMP = 0x7FFF_FFFF_FFFF_FFFF


class Offsets:
    """What requests do to offsets. Errors of a whole request are KafkaError; of a partition, values."""

    __slots__ = ("_environment", "_pending", "_rebalance", "_store")

    def __init__(
        self, environment: GroupEnvironment, rebalance: Rebalance, store: OffsetStore, pending: PendingOffsets
    ) -> None:
        self._environment = environment
        self._rebalance = rebalance
        self._store = store
        self._pending = pending

    def commit(self, request: OffsetCommitRequest, origin: RequestOrigin) -> Outcome[OffsetCommitResponse]:
        """Raises KafkaError for what concerns all partitions: generation, member, group."""
        consumers = self._environment.consumer_groups.get(request.group_id)
        group = None
        if consumers is not None:
            check_commit(consumers, request, origin.api_version)
        else:
            group = self._group_for_commit(request, origin)
        now_ms = self._environment.wall_ms()
        expire_ms = NO_TIMESTAMP
        if request.retention_time_ms != -1:
            expire_ms = min(max(now_ms + request.retention_time_ms, 0), _MAX_TIMESTAMP)
        records: dict[tuple[str, int], OffsetCommitRecord] = {}
        topics = []
        for topic in request.topics:
            partitions = []
            for partition in topic.partitions:
                error = self.metadata_error(partition.committed_metadata or "")
                partitions.append(OffsetCommitResponsePartition(partition.partition_index, error))
                if error is ErrorCode.NONE:
                    value = CommittedOffset(
                        partition.committed_offset,
                        partition.committed_leader_epoch,
                        partition.committed_metadata or "",
                        now_ms,
                        expire_ms,
                        topic.topic_id,
                    )
                    # Of one that is named again and again the last word counts, and nothing else is written.
                    key = topic.name, partition.partition_index
                    records[key] = OffsetCommitRecord(request.group_id, *key, value.encode())
            topics.append(OffsetCommitResponseTopic(topic.name, topic.topic_id, partitions))
        response = OffsetCommitResponse(topics=topics)
        if group is None:
            return Outcome(response, [*records.values()])
        if not records:
            self.forget_if_bare(group)
            return Outcome(response)
        return Outcome(response, [*records.values()], lambda code: self._commit_ended(group, code))

    def fetch(self, request: OffsetFetchRequestGroup, *, require_stable: bool = False) -> list[FetchedTopic]:
        """Committed offsets; -1 where there is none, also for unknown groups. Topics None: all that the group has.

        With `require_stable` an offset that an open transaction may change is UNSTABLE_OFFSET_COMMIT (KIP-447).
        Raises KafkaError for members of consumer groups that are not what they say.
        """
        consumers = self._environment.consumer_groups.get(request.group_id)
        if consumers is not None:
            check_fetch(consumers, request)
        committed = self._store.committed_topics(request.group_id)
        unstable: dict[str, set[int]] = {}
        for _, topic, partition in self._pending.of_group(request.group_id) if require_stable else ():
            unstable.setdefault(topic, set()).add(partition)
        if request.topics is None:
            return [
                FetchedTopic(name, [*partitions.items()], unstable.get(name, ()))
                for name, partitions in committed.items()
            ]
        fetched = []
        for asked in request.topics:
            indexes = asked.partition_indexes
            found = list(zip(indexes, map(committed.get(asked.name, {}).get, indexes), strict=True))
            fetched.append(FetchedTopic(asked.name, found, unstable.get(asked.name, ()), asked.topic_id))
        return fetched

    def delete(self, request: OffsetDeleteRequest) -> Outcome[OffsetDeleteResponse]:
        """Deletes offsets of topics that nobody in the group is subscribed to. Raises KafkaError."""
        is_subscribed_to = self._subscriptions_of(request.group_id)
        group_id = request.group_id
        records: list[OffsetCommitRecord] = []
        topics = []
        for topic in request.topics:
            subscribed = is_subscribed_to(topic.name)
            error = ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC if subscribed else ErrorCode.NONE
            indexes = list(dict.fromkeys(partition.partition_index for partition in topic.partitions))
            topics.append(
                OffsetDeleteResponseTopic(
                    topic.name, [OffsetDeleteResponsePartition(index, error) for index in indexes]
                )
            )
            records += (
                OffsetCommitRecord(group_id, topic.name, index, None)
                for index in indexes
                if not subscribed and self._store.latest(group_id, topic.name, index) is not None
            )
        return Outcome(OffsetDeleteResponse(topics=topics), records)

    def _subscriptions_of(self, group_id: str) -> Callable[[str], bool]:
        """Whether the group reads a topic. Raises KafkaError."""
        consumers = self._environment.consumer_groups.get(group_id)
        if consumers is not None:
            return consumers.is_subscribed_to
        group = self._environment.group(group_id)
        if group.state is not GroupState.EMPTY and group.protocol_type != CONSUMER_PROTOCOL_TYPE:
            # What the members read is not known, so all of it may be.
            raise KafkaError(ErrorCode.NON_EMPTY_GROUP)
        return group.is_subscribed_to

    def _group_for_commit(self, request: OffsetCommitRequest, origin: RequestOrigin) -> ClassicGroup:
        generation_id = request.generation_id_or_member_epoch
        group = self._environment.groups.get(request.group_id)
        if group is None:
            if generation_id >= 0:
                unknown = ErrorCode.GROUP_ID_NOT_FOUND
                raise KafkaError(
                    unknown if origin.api_version >= _GROUP_NOT_FOUND_VERSION else ErrorCode.ILLEGAL_GENERATION
                )
            if not fits_a_string(request.group_id):
                raise KafkaError(ErrorCode.INVALID_GROUP_ID)
            return self._environment.create_group(request.group_id)
        if generation_id < 0 and group.state is GroupState.EMPTY:
            return group
        if generation_id < 0 and not request.member_id and request.group_instance_id is None:
            raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)  # not a member, but the group has some
        group.validate_member(request.member_id, request.group_instance_id)
        if generation_id != group.generation_id:
            raise KafkaError(ErrorCode.ILLEGAL_GENERATION)
        if group.state is GroupState.COMPLETING_REBALANCE:
            # The member knows the generation, so it may only be waiting for its assignment: let it.
            raise KafkaError(ErrorCode.REBALANCE_IN_PROGRESS)
        self._rebalance.extend_session(group, group.members[request.member_id])
        return group

    def metadata_error(self, metadata: str) -> ErrorCode:
        """OFFSET_METADATA_TOO_LARGE or NONE."""
        limit = self._environment.settings.offset_metadata_max_bytes
        if _java_length(metadata) > limit or not fits_a_string(metadata):
            return ErrorCode.OFFSET_METADATA_TOO_LARGE
        return ErrorCode.NONE

    def _commit_ended(self, group: ClassicGroup, code: ErrorCode) -> Outcome[None]:
        if code is not ErrorCode.NONE:
            self.forget_if_bare(group)
        return NOTHING

    def forget_if_bare(self, group: ClassicGroup) -> None:
        """A simple consumer's group is nothing but its offsets: without any, it does not exist."""
        has_offsets = self._store.has_any(group.group_id) or self._pending.of_group(group.group_id)
        if is_simple(group) and not group.pending_join and not has_offsets:
            self._environment.forget_group(group)


def is_simple(group: ClassicGroup) -> bool:
    """A group without members that exists for its offsets only and has no record of its own."""
    return group.state is GroupState.EMPTY and group.protocol_type is None and group.generation_id == 0


def _java_length(text: str) -> int:
    """Characters as Java counts them: UTF-16 code units."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2
