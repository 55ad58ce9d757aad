"""One partition that this broker owns: the face of its log.

Owns: joining the parts (append path, reading, offsets by time, leader epochs, retention) over one state and one log
in storage, and their end when ownership ends. Must not: keep rules of its own, touch bytes, or create an asyncio
object per request.

All methods run on the broker's event loop. The sync ones are complete when they return; no failure of storage leaves
them as an exception.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bytemq.broker.log import reading
from bytemq.broker.log.append_rules import AppendRules
from bytemq.broker.log.appender import Appender, Done
from bytemq.broker.log.failures import read_failure
from bytemq.broker.log.leader_epochs import LeaderEpochs, check_leader_epoch
from bytemq.broker.log.results import ActiveProducer, EpochEnd, Fetched, ListedOffset, LowWatermark, Origin
from bytemq.broker.log.retention import RetentionPolicy, retained_from
from bytemq.broker.log.services import LogServices
from bytemq.broker.log.state import LogState
from bytemq.broker.log.timestamps import OffsetFinder
from bytemq.broker.log.waiters import Waiters
from bytemq.errors import BytemqError
from bytemq.metadata.topic_names import INTERNAL_TOPICS
from bytemq.protocol.error_codes import ErrorCode
from bytemq.storage.manifests.manifest import AbortedTxn, PartitionSnapshot, SegmentInfo
from bytemq.types import PartitionId

if TYPE_CHECKING:
    from bytemq.config import TopicConfig
    from bytemq.storage.log_files import LogFiles

HIGH_WATERMARK = -1
"""DeleteRecords: everything up to the high watermark."""


class PartitionTraffic:
    """What has passed since the partition was opened: for the controller, which balances it between brokers."""

    __slots__ = ("by_zone", "bytes_in", "bytes_out", "requests")

    def __init__(self) -> None:
        self.bytes_in = self.bytes_out = self.requests = 0
        self.by_zone: dict[str, int] | None = None
        """Of `bytes_in`, what came from where it is known; None: nothing."""

    def count_zone(self, zone: str, size_bytes: int) -> None:
        by_zone = self.by_zone = self.by_zone or {}
        by_zone[zone] = by_zone.get(zone, 0) + size_bytes


class Partition:
    """The owner's view of one log, made by `opening.open_partition`. Offsets are ints, times are ms since 1970."""

    __slots__ = (
        "_epochs",
        "_files",
        "_moving_start",
        "_services",
        "_state",
        "appender",
        "config",
        "leader_epoch",
        "pid",
        "topic",
        "traffic",
        "waiters",
    )

    def __init__(
        self,
        pid: PartitionId,
        topic: str,
        leader_epoch: int,
        config: TopicConfig,
        files: LogFiles,
        state: LogState[Done],
        epochs: LeaderEpochs,
        services: LogServices,
    ) -> None:
        self.pid = pid
        self.topic = topic
        self.leader_epoch = leader_epoch
        self.traffic = PartitionTraffic()
        self.waiters: Waiters[Partition] = Waiters()
        """Called once per commit that moves the high watermark, and when the partition is lost or closed."""
        self._files = files
        self._state = state
        self._epochs = epochs
        self._services = services
        self._moving_start: asyncio.Lock | None = None
        rules = self._rules(config)
        self.appender = Appender(pid, topic, leader_epoch, rules, files, state, services, self._grown, self.waiters)
        """For those who have plain batches to append; any other is appended by `append`."""
        self._take(config)
        files.is_urgent = True  # until something is committed: whoever had it opened has waited for that already
        files.is_coordinators = topic in INTERNAL_TOPICS
        files.snapshot_source = self.snapshot

    # What it is now.

    @property
    def log_start_offset(self) -> int:
        return self._state.log_start_offset

    @property
    def high_watermark(self) -> int:
        """The next offset to be committed: all below is durable."""
        return self._state.high_watermark

    @property
    def last_stable_offset(self) -> int:
        """Below it no transaction is open."""
        return self._state.last_stable_offset

    @property
    def end_offset(self) -> int:
        """The next offset to be assigned."""
        return self._state.end_offset

    @property
    def is_closed(self) -> bool:
        return self.appender.refusal is not None

    @property
    def size_bytes(self) -> int:
        return self._files.size_bytes

    @property
    def segments(self) -> Sequence[SegmentInfo]:
        return self._files.segments

    @property
    def files(self) -> LogFiles:
        """For those who rewrite old files behind the log: they change only what a manifest says, never what is read."""
        return self._files

    @property
    def aborted_transactions(self) -> Sequence[AbortedTxn]:
        """Those of which something is in the log."""
        return self._state.producers.transactions.aborted

    def snapshot(self) -> PartitionSnapshot:
        """What the next owner must know of the committed log. Storage calls this when a checkpoint captures it."""
        producers = self._state.producers
        return PartitionSnapshot(
            offset=self._state.high_watermark,
            leader_epochs=self._epochs.entries,
            producers=producers.snapshot(),
            aborted=producers.transactions.aborted,
        )

    def reconfigure(self, config: TopicConfig) -> None:
        """Everything from now on obeys `config`; appends on their way keep what they began with."""
        self.appender.rules = self._rules(config)
        self._take(config)

    def _take(self, config: TopicConfig) -> None:
        self.config = config
        self._files.segment_bytes = config.segment_bytes
        is_rolled_for_cleaning = config.is_compacted and config.max_compaction_lag_ms < config.segment_ms
        self._files.segment_ms = config.max_compaction_lag_ms if is_rolled_for_cleaning else config.segment_ms

    def _rules(self, config: TopicConfig) -> AppendRules:
        rules = AppendRules.of(config)
        return (rules.for_internal_topics() if self.topic in INTERNAL_TOPICS else rules).shared()

    # Appending.

    def append(
        self,
        payload: memoryview,
        done: Done,
        *,
        origin: Origin = Origin.CLIENT,
        zstd_allowed: bool = True,
    ) -> None:
        """Append the one batch in `payload`, which must be writable and left alone until `done`; longer while others
        have it in view.

        `done` is called exactly once with the answer: before this returns if the batch is refused or a duplicate,
        else when it is durable. acks=1 promises no less here than acks=all. `zstd_allowed` is False
        below Produce v7 (KIP-110).
        """
        traffic = self.traffic
        traffic.requests += 1
        traffic.bytes_in += len(payload)
        self.appender.append(payload, done, origin, zstd_allowed)

    def awaits_admission(self, producer_id: int, producer_epoch: int) -> bool:
        """Whether a transactional batch of this producer would be the first of its transaction here: the transaction
        coordinator is to be asked before it is appended (KIP-890).
        """
        known = self._state.producers.get(producer_id)
        return known is None or known.txn_first_offset < 0 or known.producer_epoch != producer_epoch

    def await_beginning(self, producer_id: int, producer_epoch: int) -> None:
        """The first batch of an idempotent producer was refused, and will come again: nothing else begins for it."""
        self._state.producers.await_beginning(producer_id, producer_epoch, 0)

    # Reading.

    def read_cached(self, offset: int, max_bytes: int, *, isolation: int, at_least_one: bool = True) -> Fetched | None:
        """Whole batches from the one that contains `offset`, up to the high watermark (isolation 0) or the last
        stable offset (1).

        At most `max_bytes`, or a single larger batch if `at_least_one`. Never waits: None if the bytes are not at
        hand, then use `read`.
        """
        if self.appender.refusal is not None:
            return reading.failed(self._state, self.appender.refusal)
        if offset == self._state.high_watermark:
            return reading.nothing_new(self._state, isolation)
        gate = self._services.unreadable
        return reading.read_cached(self._files, self._state, offset, max_bytes, isolation, at_least_one, gate)

    def read_in_memory(self, offset: int, max_bytes: int, *, isolation: int) -> Fetched | None:
        """As `read_cached`, of what costs no copy, however much that is, or if there is nothing new; else None."""
        if self.appender.refusal is not None:
            return None
        return reading.read_in_memory(self._files, self._state, offset, max_bytes, isolation)

    async def read(self, offset: int, max_bytes: int, *, isolation: int, at_least_one: bool = True) -> Fetched:
        """As `read_cached`, from wherever the bytes are."""
        if self.appender.refusal is not None:
            return reading.failed(self._state, self.appender.refusal)
        gate = self._services.unreadable
        fetched = await reading.read(self._files, self._state, offset, max_bytes, isolation, at_least_one, gate)
        if fetched.error is not ErrorCode.NONE and self.appender.refusal is not None:
            return reading.failed(self._state, self.appender.refusal)  # deleted or given up meanwhile
        return fetched

    async def behind_damage(self, offset: int) -> int:
        """See `LogFiles.behind_damage`."""
        return await self._files.behind_damage(offset)

    async def bring_near(self, offset: int, size_bytes: int) -> int:
        """See `LogFiles.bring_near`."""
        return await self._files.bring_near(offset, size_bytes)

    def available_bytes(self, offset: int, isolation: int, enough_bytes: int) -> int | None:
        """About how many bytes a reader at `offset` could get, for min_bytes of a long poll: 0 only if there are none;
        what is beyond `enough_bytes` is not counted. None: what is to be said to it is something else.
        """
        state = self._state
        if self.appender.refusal is not None or not state.log_start_offset <= offset <= state.end_offset:
            return None
        is_committed = isolation == reading.READ_COMMITTED
        end_offset = state.last_stable_offset if is_committed else state.high_watermark
        if offset >= end_offset:
            return 0
        return 1 if enough_bytes <= 1 else max(1, self._files.bytes_between(offset, end_offset, enough_bytes))

    async def list_offset(self, timestamp_ms: int, isolation: int) -> ListedOffset:
        """The first record at or after a time, or -1 latest, -2 earliest, -3 the first with the largest timestamp, -4
        earliest local, -5 none.

        Any other negative number: UNSUPPORTED_VERSION. No such record: NONE with offset -1.
        """
        if self.appender.refusal is not None:
            return ListedOffset(self.appender.refusal)
        finder = OffsetFinder(self._files, self._state, self._epochs, self._services)
        return await finder.find(timestamp_ms, isolation, self.leader_epoch)

    # Leader epochs.

    def check_leader_epoch(self, current_leader_epoch: int) -> ErrorCode:
        """FENCED_LEADER_EPOCH or UNKNOWN_LEADER_EPOCH for a client whose metadata is old or newer than ours; -1 asks
        nothing.
        """
        return check_leader_epoch(current_leader_epoch, self.leader_epoch)

    def offset_for_leader_epoch(self, epoch: int, current_leader_epoch: int) -> EpochEnd:
        """Where `epoch` ends (KIP-101): the high watermark for the latest."""
        error = self.appender.refusal or self.check_leader_epoch(current_leader_epoch)
        if error is not ErrorCode.NONE:
            return EpochEnd(error)
        return EpochEnd(ErrorCode.NONE, *self._epochs.end_offset_for(epoch, self._state.high_watermark))

    # What goes, and what there is.

    async def delete_records(self, offset: int) -> LowWatermark:
        """Delete everything below `offset` (-1: below the high watermark). Going backwards is no error; durable
        before it returns.
        """
        if self.appender.refusal is not None:
            return LowWatermark(self.appender.refusal)
        if not self.config.deletes_old_data:
            return LowWatermark(ErrorCode.POLICY_VIOLATION)
        target = self._state.high_watermark if offset == HIGH_WATERMARK else offset
        if not 0 <= target <= self._state.high_watermark:
            return LowWatermark(ErrorCode.OFFSET_OUT_OF_RANGE)
        try:
            await self._advance_log_start(target)
        except BytemqError as error:
            return LowWatermark(read_failure(error))
        return LowWatermark(ErrorCode.NONE, self._state.log_start_offset)

    async def apply_retention(self, now_ms: int) -> None:
        """Let go of the segments that retention.ms and retention.bytes no longer keep. Raises BytemqError if storage
        cannot now.
        """
        if self.is_closed or not self.config.deletes_old_data:
            return
        start = retained_from(
            self._files.segments,
            RetentionPolicy(self.config.retention_ms, self.config.retention_bytes),
            log_start_offset=self._state.log_start_offset,
            high_watermark=self._state.high_watermark,
            now_ms=now_ms,
        )
        await self._advance_log_start(start)

    def expire_producers(self, now_ms: int) -> int:
        """Forget producers that have been silent for producer.id.expiration.ms; how many."""
        return self._state.producers.expire(now_ms, self._services.producer_id_expiration_ms)

    def describe_producers(self) -> list[ActiveProducer]:
        """The producers that DescribeProducers lists: those with something committed and not yet expired."""
        return [
            ActiveProducer(
                producer.producer_id,
                producer.producer_epoch,
                producer.last_sequence,
                producer.last_timestamp_ms,
                producer.coordinator_epoch,
                producer.txn_first_offset,
            )
            for producer in self._state.producers.committed()
        ]

    # Compaction.

    def forget_aborted(self, below: int) -> None:
        """Nothing is left of the aborted transactions that ended there, and nobody is reading what was."""
        self._state.producers.transactions.forget_below(below)

    # The end of ownership.

    async def close(self, *, drain: bool = False) -> None:
        """Stop being the owner: from now on everything is answered NOT_LEADER_OR_FOLLOWER, what is on its way as well.

        With `drain` what is on its way is first decided by storage and answered so: nothing is appended after this
        returns.
        """
        self.appender.refuse(ErrorCode.NOT_LEADER_OR_FOLLOWER)
        if drain:
            if self._state.pending_count:
                self._services.storage.hasten()
            await self.appender.drained()
        self.appender.abandon()
        self.waiters.wake(self)
        self._state.producers.release()

    def _grown(self) -> None:
        self._files.is_urgent = self._files.is_coordinators
        self.waiters.wake(self)

    async def _advance_log_start(self, offset: int) -> None:
        """Durable first, visible after; one at a time, so that storage never sees it go back."""
        if offset <= self._state.log_start_offset:
            return
        if self._moving_start is None:
            self._moving_start = asyncio.Lock()
        async with self._moving_start:
            try:
                if offset > self._state.log_start_offset:
                    await self._files.advance_log_start(offset)
            finally:  # storage may have moved it although it could not say so
                start = self._files.log_start_offset
                self._state.advance_log_start(start)
                self._epochs.advance_log_start(start)
