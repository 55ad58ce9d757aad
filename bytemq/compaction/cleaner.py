"""The cleaner: keeps compacted logs small, one after the other, the filthiest first.

Owns: when a log is cleaned, and the publishing of what the worker made. Must not: look at a record, or do anything that
takes long: this runs in the broker.

A cleaning is a plan (pure), a write-behind where the plan reaches into the write-ahead log, a job in the worker
process, and one change of the manifest which compares that the files read are still the log's. Whatever dies in between
leaves the log as it was, and objects whose names are known, or found as garbage at the next start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from bytemq.compaction.clean_log import CleanedLog, CleanLog, TableForm
from bytemq.compaction.planner import CleaningPlan, CleaningPolicy, plan_cleaning, within
from bytemq.compaction.worker import Worker
from bytemq.errors import BytemqError
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.storage.log_files import LogFiles
from bytemq.storage.logs import Logs
from bytemq.storage.manifests.manifest import AbortedTxn, FileKind, SegmentInfo, cleaned_end
from bytemq.storage.manifests.manifest_codec import directory_of
from bytemq.storage.tables.published_columns import ColumnStore
from bytemq.storage.tables.table_file import Codec, partition_folder
from bytemq.types import PartitionId

if TYPE_CHECKING:
    from bytemq.config import TopicConfig

log = get_logger("compaction")

MAX_BACKOFF_MS = 600_000


class OwnedLog(Protocol):
    """A partition of a compacted topic, as its owner has it."""

    pid: PartitionId
    topic: str
    config: TopicConfig

    @property
    def files(self) -> LogFiles: ...

    @property
    def is_closed(self) -> bool: ...

    @property
    def last_stable_offset(self) -> int: ...

    @property
    def aborted_transactions(self) -> Sequence[AbortedTxn]: ...

    def forget_aborted(self, below: int) -> None: ...


class OwnedLogs(Protocol):
    async def compacted(
        self, worth_opening: Callable[[TopicConfig, Sequence[SegmentInfo]], bool]
    ) -> Sequence[OwnedLog]: ...


class CleanerSettings(NamedTuple):
    """log.cleaner.* of the broker, and the storage's sizes."""

    is_enabled: bool
    backoff_ms: int
    map_bytes: int
    load_factor: float
    segment_bytes: int
    chunk_bytes: int


@dataclass(slots=True)
class CleanerCounts:
    cleanings: int = 0
    failures: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    removed_records: int = 0
    raw_batches: int = 0
    max_dirty_ratio: float = 0.0
    """Of any log, when last looked."""
    failing: dict[PartitionId, _Failing] = field(default_factory=dict)
    """Logs whose last cleaning failed."""


class _Failing(NamedTuple):
    times: int
    retry_at_ms: int


class Cleaner:
    def __init__(
        self,
        logs: OwnedLogs,
        storage: Logs,
        worker: Worker,
        clock: Clock,
        settings: Callable[[], CleanerSettings],
        columns: ColumnStore,
    ) -> None:
        self._columns = columns
        self.counts = CleanerCounts()
        self._logs = logs
        self._storage = storage
        self._worker = worker
        self._clock = clock
        self._settings = settings

    async def run(self) -> None:
        """For ever: everything that is due, then a pause of log.cleaner.backoff.ms."""
        while True:
            await self._clock.sleep(self._settings().backoff_ms / 1000)
            while self._settings().is_enabled and await self.clean_filthiest():
                pass

    async def clean_filthiest(self) -> bool:
        """Cleans the log that needs it most, once. False when none needs it."""
        candidates: list[tuple[bool, float, OwnedLog]] = []
        self.counts.max_dirty_ratio = 0.0
        logs = await self._logs.compacted(self._is_worth_opening)
        for gone in self.counts.failing.keys() - {owned.pid for owned in logs}:  # deleted, or another broker's by now
            del self.counts.failing[gone]
        for owned in logs:
            plan = self._plan(owned)
            self.counts.max_dirty_ratio = max(self.counts.max_dirty_ratio, plan.dirty_ratio)
            failing = self.counts.failing.get(owned.pid)
            is_waiting = failing is not None and self._clock.wall_ms() < failing.retry_at_ms
            if plan.is_due(_policy(owned.config)) and not is_waiting and not owned.is_closed:
                candidates.append((plan.is_overdue, plan.dirty_ratio, owned))
        for *_, owned in sorted(candidates, key=lambda candidate: candidate[:2], reverse=True):
            if await self._try(owned):
                return True
        return False

    async def _try(self, owned: OwnedLog) -> bool:
        """Whether it was cleaned. What is wrong with one log must not keep the others dirty."""
        try:
            cleaned = await self._clean(owned)
        except BytemqError as error:
            if not owned.is_closed and not owned.files.deleted:
                self._failed(owned, error)
            return False
        self.counts.failing.pop(owned.pid, None)
        return cleaned

    async def _clean(self, owned: OwnedLog) -> bool:
        async with owned.files.rewriting:
            return await self._clean_alone(owned)

    async def _clean_alone(self, owned: OwnedLog) -> bool:
        plan = self._plan(owned)
        segments = within(plan, owned.files.stored.snapshot_offset)
        if len(segments) < len(plan.segments):
            await self._storage.write_behind(owned.files)
            plan = self._plan(owned)
            segments = within(plan, owned.files.stored.snapshot_offset)
        if not segments or not plan.is_due(_policy(owned.config)) or not self._has_work(plan, segments):
            return False
        created: list[str] = []
        try:
            cleaned = await self._worker.run(await self._job(owned, segments), created)
        except BaseException:
            self._storage.discard(created)
            raise
        if owned.is_closed:
            self._storage.discard(created)
            return False
        await self._storage.replace_files(owned.files, cleaned.replaced, cleaned.written)
        owned.files.rewritten_ms = self._clock.wall_ms()
        owned.forget_aborted(cleaned.first_dirty_offset)
        self._count(owned, cleaned)
        return True

    def _has_work(self, plan: CleaningPlan, segments: Sequence[SegmentInfo]) -> bool:
        return plan.is_overdue or any(not segment.is_cleaned for segment in segments)

    async def _job(self, owned: OwnedLog, segments: tuple[SegmentInfo, ...]) -> CleanLog:
        settings, config = self._settings(), owned.config
        has_tables = any(segment.kind is FileKind.PARQUET for segment in segments)
        tables = await self._table_form(owned) if has_tables else None
        return CleanLog(
            segments=segments,
            first_dirty_offset=cleaned_end(segments, segments[0].base_offset),
            aborted=tuple(one for one in owned.aborted_transactions if one.first_offset <= segments[-1].last_offset),
            now_ms=self._clock.wall_ms(),
            delete_retention_ms=config.delete_retention_ms,
            map_bytes=settings.map_bytes,
            load_factor=settings.load_factor,
            segment_bytes=min(config.segment_bytes, settings.segment_bytes),
            chunk_bytes=settings.chunk_bytes,
            directory=self._storage.placed(directory_of(owned.pid)),
            suffix=f"-{self._storage.names.mark()}",
            tables=tables,
        )

    async def _table_form(self, owned: OwnedLog) -> TableForm:
        config, pid = owned.config, owned.pid
        return TableForm(
            partition_folder(owned.topic, pid),
            pid.index,
            config.bytemq_table_target_file_bytes,
            config.bytemq_table_row_group_bytes,
            cast(Codec, config.bytemq_table_codec),
            (await self._columns.get(pid.topic_id)).columns,
            config.bytemq_table_codec_level,
        )

    def _plan(self, owned: OwnedLog) -> CleaningPlan:
        segments = owned.files.segments
        return plan_cleaning(segments, owned.last_stable_offset, _policy(owned.config), self._clock.wall_ms())

    def _is_worth_opening(self, config: TopicConfig, segments: Sequence[SegmentInfo]) -> bool:
        end_offset = segments[-1].last_offset + 1 if segments else 0
        plan = plan_cleaning(segments, end_offset, _policy(config), self._clock.wall_ms())
        return plan.is_due(_policy(config))

    def _failed(self, owned: OwnedLog, error: BytemqError) -> None:
        before = self.counts.failing.get(owned.pid)
        times = before.times + 1 if before is not None else 1
        delay_ms = min(self._settings().backoff_ms << min(times, 10), MAX_BACKOFF_MS)
        self.counts.failing[owned.pid] = _Failing(times, self._clock.wall_ms() + delay_ms)
        self.counts.failures += 1
        log.error(
            "a log could not be cleaned", topic=owned.topic, partition=owned.pid.index, reason=str(error), times=times
        )

    def _count(self, owned: OwnedLog, cleaned: CleanedLog) -> None:
        counts, stats = self.counts, cleaned.stats
        counts.cleanings += 1
        counts.read_bytes += stats.read_bytes
        counts.written_bytes += stats.written_bytes
        counts.removed_records += stats.read_records - stats.kept_records
        counts.raw_batches += stats.raw_batches
        log.info(
            "cleaned",
            topic=owned.topic,
            partition=owned.pid.index,
            bytes_before=stats.read_bytes,
            bytes_after=stats.written_bytes,
            records_before=stats.read_records,
            records_after=stats.kept_records,
            keys=stats.keys,
            first_dirty_offset=cleaned.first_dirty_offset,
        )


def _policy(config: TopicConfig) -> CleaningPolicy:
    return CleaningPolicy(
        config.min_cleanable_dirty_ratio,
        config.min_compaction_lag_ms,
        config.max_compaction_lag_ms,
        config.delete_retention_ms,
    )
