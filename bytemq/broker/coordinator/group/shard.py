"""The groups of one partition of `__consumer_offsets`: the whole machine, as the runtime and the handlers see it.

Pure: `replay` rebuilds it from the log; requests go to `joining`, `syncing`, `leaving`, `offsets` and `removal`, which
give records. Offsets are staged when their record is sent off and visible when it is committed. Members, generations
and parked requests are soft state: they change at once, and what of them must survive is in the generation's record
(group_records.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bytemq.broker.coordinator.group.classic_group import ClassicGroup
from bytemq.broker.coordinator.group.consumer.consumer_groups import ConsumerGroups
from bytemq.broker.coordinator.group.consumer.records import CONSUMER_GROUP_RECORDS
from bytemq.broker.coordinator.group.consumer.topics import Topics
from bytemq.broker.coordinator.group.environment import GroupEnvironment, GroupSettings, IsGone, SettingsOf
from bytemq.broker.coordinator.group.group_records import restore_group
from bytemq.broker.coordinator.group.join import Joining
from bytemq.broker.coordinator.group.leave import Leaving
from bytemq.broker.coordinator.group.memory import MembershipMemory
from bytemq.broker.coordinator.group.offset_store import OffsetStore
from bytemq.broker.coordinator.group.offsets import Offsets, is_simple
from bytemq.broker.coordinator.group.pending_offsets import (
    EndTransactionRecord,
    PendingOffsets,
    TransactionalOffsetRecord,
)
from bytemq.broker.coordinator.group.rebalance import Rebalance
from bytemq.broker.coordinator.group.records import (
    HIGHEST_OFFSET_VALUE_VERSION,
    LEAST_OFFSET_VALUE_BYTES,
    GroupMetadataRecord,
    OffsetCommitRecord,
    decode,
)
from bytemq.broker.coordinator.group.removal import Removal
from bytemq.broker.coordinator.group.sync import Syncing
from bytemq.broker.coordinator.group.transactional_offsets import TransactionalOffsets
from bytemq.broker.coordinator.outcome import NOTHING, CoordinatorRecord, Envelope, Outcome, Replayed
from bytemq.broker.coordinator.timers import Timers
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.join_group import JoinGroupResponse
from bytemq.protocol.messages.sync_group import SyncGroupResponse
from bytemq.protocol.primitives import MalformedMessage
from bytemq.protocol.records.builder import Record
from bytemq.protocol.records.control import parse_end_transaction
from bytemq.protocol.records.walk import fold
from bytemq.protocol.records.walk_pure import Buffer

_EXPIRY_KEY = "offset expiry"
_DELETED_TOPICS_KEY = "deleted topics"
_SLICE_GROUPS = 200
_SLICE_OFFSETS = 2_000
_PAUSE_MS = 20


class GroupShard:
    """One shard. Timers start with `loaded`, and end with `unloaded`."""

    __slots__ = (
        "_deleted_topics",
        "_expiring",
        "_forgetting",
        "_replay_topics",
        "consumers",
        "damaged_records",
        "environment",
        "joining",
        "leaving",
        "offsets",
        "pending",
        "rebalance",
        "removal",
        "store",
        "syncing",
        "transactional",
    )

    def __init__(
        self,
        settings: GroupSettings,
        timers: Timers,
        wall_ms: Callable[[], int],
        new_uuid: Callable[[], str],
        memory: MembershipMemory | None = None,
        is_gone: IsGone | None = None,
        topics: Topics | None = None,
        settings_of: SettingsOf | None = None,
        max_record_bytes: Callable[[], int] | None = None,
    ) -> None:
        memory = MembershipMemory(settings.membership_max_bytes) if memory is None else memory
        self.environment = GroupEnvironment(settings, timers, wall_ms, new_uuid, memory)
        if is_gone is not None:
            self.environment.is_gone = is_gone
        if topics is not None:
            self.environment.topics = topics
        self.environment.settings_of = settings_of
        if max_record_bytes is not None:
            self.environment.max_record_bytes = max_record_bytes
        self.store = OffsetStore()
        self.rebalance = Rebalance(self.environment)
        self.pending = PendingOffsets()
        self.offsets = Offsets(self.environment, self.rebalance, self.store, self.pending)
        self.transactional = TransactionalOffsets(self.environment, self.store, self.pending, self.offsets)
        self.removal = Removal(self.environment, self.store, self.pending)
        self.consumers = ConsumerGroups(self.environment, self.rebalance)
        self.joining = Joining(self.environment, self.rebalance, self.consumers.classic_members)
        self.syncing = Syncing(self.environment, self.rebalance, self.consumers.classic_members)
        self.leaving = Leaving(self.environment, self.rebalance, self.consumers.sessions)
        self.damaged_records = 0
        self._replay_topics: dict[bytes, dict[int, bytes]] = {}
        """While the log is replayed: where the offsets of a group and topic go, by their key without its partition."""
        self._expiring: list[str] = []
        self._forgetting: list[str] = []
        self._deleted_topics: set[bytes] = set()

    @property
    def groups(self) -> dict[str, ClassicGroup]:
        """The groups by id. Look, don't touch."""
        return self.environment.groups

    # -- the log

    def replay(self, records: Iterable[tuple[bytes | None, bytes | None]], envelope: Envelope | None = None) -> None:
        """Keys and values from the log, in its order. Damaged ones are counted and left out."""
        if envelope is not None:
            self._replay_transactional(records, envelope)
            return
        for key, value in records:
            self._replay_one(key, value)

    def replay_plain(self, data: Buffer, position: int) -> Replayed:
        """Whole batches from the log, as far as they are neither compressed nor control nor transactional batches. Of a
        million offsets most find the place that the first one of their group and topic has made.
        """
        tables = {} if self.pending else self._replay_topics  # pending ones must hear of what supersedes them
        position, next_offset, count, added = fold(
            data, position, tables, LEAST_OFFSET_VALUE_BYTES, HIGHEST_OFFSET_VALUE_VERSION, self._replay_one
        )
        self.store.count += added
        return Replayed(position, next_offset, count)

    def stage(self, sequence: int, record: CoordinatorRecord) -> None:
        """A record is on its way into the log."""
        if isinstance(record, OffsetCommitRecord):
            self.store.stage(sequence, record)
        elif isinstance(record, CONSUMER_GROUP_RECORDS):
            self.consumers.stage(record)

    def commit(self, sequence: int, record: CoordinatorRecord) -> None:
        """A staged record is durable. Records are committed in the order in which they were staged."""
        if isinstance(record, OffsetCommitRecord):
            self.store.commit(sequence, record)
            self.pending.supersede(record)
        elif isinstance(record, TransactionalOffsetRecord):
            self.pending.add(record.producer_id, record.offset)
        elif isinstance(record, EndTransactionRecord):
            self.transactional.replay_end(record.producer_id, record.marker)
        elif isinstance(record, CONSUMER_GROUP_RECORDS):
            self.consumers.commit()

    def roll_back(self, sequence: int, record: CoordinatorRecord) -> None:
        """A staged record will never be in the log. The latest staged goes first."""
        if isinstance(record, OffsetCommitRecord):
            self.store.roll_back(sequence, record)
        elif isinstance(record, CONSUMER_GROUP_RECORDS):
            self.consumers.roll_back()

    def loaded(self) -> list[Outcome[None]]:
        """The log has been replayed: every member has a session's time to report to the new coordinator."""
        self._replay_topics = {}
        self._forget_doubles()
        self.consumers.loaded()
        settings = self.environment.settings
        outcomes: list[Outcome[None]] = []
        for group in self.groups.values():
            for member in group.members.values():
                self.rebalance.extend_session(group, member)
            if len(group.members) > settings.max_size:
                outcomes.append(self.rebalance.prepare(group))
        interval_ms = settings.offsets_retention_check_interval_ms
        self.environment.timers.schedule(_EXPIRY_KEY, interval_ms, self._expire)
        return outcomes

    def unloaded(self, code: ErrorCode = ErrorCode.NOT_COORDINATOR) -> None:
        """Another broker has the groups: who waits here is sent there."""
        for group in list(self.groups.values()):
            for member in group.members.values():
                group.answer_join(
                    member, JoinGroupResponse(error_code=code, member_id=member.member_id, protocol_name=None)
                )
                member.answer_sync(SyncGroupResponse(error_code=code))
            self.environment.forget_group(group)
        self.consumers.unloaded()
        self.environment.timers.cancel(_EXPIRY_KEY)
        self.environment.timers.cancel(_DELETED_TOPICS_KEY)

    def topics_deleted(self, topic_ids: Iterable[bytes]) -> None:
        """The offsets of these topics go, a slice of the groups at a time."""
        self._deleted_topics.update(topic_ids)
        self._forgetting = self._group_ids()
        self.environment.timers.schedule(_DELETED_TOPICS_KEY, 0, self._forget_deleted_topics)

    # -- within

    def _replay_one(self, key: bytes | None, value: bytes | None) -> None:
        if key is None:
            return
        try:
            record = decode(key, value)
        except MalformedMessage:
            self.damaged_records += 1
            return
        if isinstance(record, GroupMetadataRecord):
            self._replay_topics.clear()
            self._replay_group(record)
        elif isinstance(record, CONSUMER_GROUP_RECORDS):
            self.consumers.apply(record)
        elif record is not None:
            self.store.apply(record)
            self.pending.supersede(record)
            if value is None:
                self._replay_topics.pop(key[:-4], None)
                return
            self.environment.ensure_group(record.group_id)
            if record.encode_key() == key:
                self._replay_topics[key[:-4]] = self.store.partitions_of(record.group_id, record.topic)

    def _replay_transactional(self, records: Iterable[tuple[bytes | None, bytes | None]], envelope: Envelope) -> None:
        """Offsets of a transaction, or the marker that ends it."""
        self._replay_topics.clear()
        for key, value in records:
            if envelope.is_control:
                marker = parse_end_transaction(Record(key, value))
                if marker is not None:
                    self.transactional.replay_end(envelope.producer_id, marker)
                continue
            try:
                record = None if key is None else decode(key, value)
            except MalformedMessage:
                self.damaged_records += 1
                continue
            if isinstance(record, OffsetCommitRecord):
                self.pending.add(envelope.producer_id, record)
                self.environment.ensure_group(record.group_id)

    def _replay_group(self, record: GroupMetadataRecord) -> None:
        earlier = self.groups.get(record.group_id)
        if earlier is not None:
            self.environment.forget_group(earlier)
        if record.metadata is not None:
            group = restore_group(record.group_id, record.metadata, self.environment.memory)
            self.groups[record.group_id] = group

    def _forget_doubles(self) -> None:
        """Offsets may come before the consumer group that committed them: it is not a simple consumer's group then."""
        for group_id in self.environment.consumer_groups:
            group = self.groups.get(group_id)
            if group is not None and is_simple(group):
                self.environment.forget_group(group)

    def _group_ids(self) -> list[str]:
        return [*self.groups, *self.environment.consumer_groups]

    def _expire(self) -> Outcome[None]:
        """Looks for what is past its retention, a slice of the groups at a time, so that a million offsets hold nobody
        up.
        """
        if not self._expiring:
            self._expiring = self._group_ids()
        slice_ids = self._next_slice(self._expiring)
        interval_ms = self.environment.settings.offsets_retention_check_interval_ms
        delay_ms = _PAUSE_MS if self._expiring else interval_ms
        self.environment.timers.schedule(_EXPIRY_KEY, delay_ms, self._expire)
        return self.removal.expire(slice_ids) if slice_ids else NOTHING

    def _forget_deleted_topics(self) -> Outcome[None]:
        deleted = self._deleted_topics
        outcome = self.removal.forget_topics(
            self._next_slice(self._forgetting), lambda _, topic_id: topic_id in deleted
        )
        if self._forgetting:
            self.environment.timers.schedule(_DELETED_TOPICS_KEY, _PAUSE_MS, self._forget_deleted_topics)
        else:
            self._deleted_topics = set()
        return outcome

    def _next_slice(self, group_ids: list[str]) -> Sequence[str]:
        """Takes as many groups off the list as can be looked at without holding up others."""
        taken: list[str] = []
        offsets = 0
        while group_ids and len(taken) < _SLICE_GROUPS and offsets < _SLICE_OFFSETS:
            taken.append(group_ids.pop())
            offsets += self.store.count_of(taken[-1])
        return taken
