"""Topics become tables: when it is done, and that it is published.

Owns: the background pass over all partitions, a build on demand, what could not be converted. Must not: convert (a
worker does), choose files (`table_planner` does) or times (`table_times`), or know where partitions come from (the node
says).

A conversion is: the files are chosen, a worker writes their successor under new names, and one transaction replaces
them in the manifest if they are still what they were. Killed at any step, the log is what its manifest says, and what
was written is garbage; two that convert the same files are harmless, one of them is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import NamedTuple, Protocol

from bytemq.compaction.table_jobs import Convert
from bytemq.compaction.table_planner import TableSettings, level_of, next_files
from bytemq.compaction.table_times import Delay, LogTimes
from bytemq.compaction.worker import Worker
from bytemq.errors import BytemqError, Corrupt, Invalid
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.storage.log_files import LogFiles
from bytemq.storage.manifests.manifest import AbortedTxn, FileKind, Manifest, SegmentInfo
from bytemq.storage.object_names import ObjectNames
from bytemq.storage.tables.published_columns import ColumnChange, ColumnsChanged, ColumnStore, change_of
from bytemq.storage.tables.table_file import new_names, table_file

log = get_logger("compaction.tables")

PASS_INTERVAL_S = 1.0
PASS_S = 2.0
"""After so long a pass begins no further conversion: what has become due meanwhile may be more urgent."""
BUILD_PATIENCE_S = 10.0
BUILD_POLL_S = 0.05


class TablePartition(Protocol):
    """A partition as its owner sees it, at any moment."""

    @property
    def topic(self) -> str: ...

    @property
    def files(self) -> LogFiles: ...

    @property
    def stable_offset(self) -> int:
        """All below is decided."""

    @property
    def settings(self) -> TableSettings: ...

    def aborted(self) -> Sequence[AbortedTxn]: ...


class TableStorage(Protocol):
    """What is asked of the storage."""

    @property
    def names(self) -> ObjectNames: ...

    async def checkpoint(self) -> None: ...

    async def seal(self, files: LogFiles) -> None: ...

    async def replace_files(
        self,
        files: LogFiles,
        before: Sequence[SegmentInfo],
        after: Sequence[SegmentInfo],
        columns: ColumnChange | None = None,
    ) -> None: ...

    def discard(self, names: Sequence[str]) -> None: ...


class Built(NamedTuple):
    """What a build on demand did."""

    conversions: int
    records: int
    """In all the tables' files now."""
    held_back: int
    """Offsets that are not in tables: some transaction after them is still open."""


class Restructuring:
    def __init__(
        self,
        partitions: Callable[[], Iterable[TablePartition]],
        storage: TableStorage,
        worker: Worker,
        clock: Clock,
        columns: ColumnStore,
    ) -> None:
        self._columns = columns
        self._partitions = partitions
        self._storage = storage
        self._worker = worker
        self._clock = clock
        self._times: dict[LogFiles, LogTimes] = {}
        self._delay = Delay()
        self._looked: float | None = None
        """When the last pass began. The time of a restart counts as the arrival of what was there before."""
        self._failed: dict[LogFiles, float] = {}
        """When the last conversion failed, of those that have not succeeded since."""
        self._given_up: set[str] = set()
        self.conversions = self.failures = self.kept_raw = 0
        self.invalid = self.left_out = self.retyped = 0
        """See `TableFile`."""
        self.converted_bytes = 0
        """Of the inputs."""

    @property
    def given_up(self) -> int:
        """How many files stay as they are, because they cannot be converted."""
        return len(self._given_up)

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._clock.sleep(PASS_INTERVAL_S)
            began = self._clock.monotonic()
            if await self.pass_over_all():
                await self._clock.sleep(rest_s(self._clock.monotonic() - began))

    async def pass_over_all(self) -> int:
        """Converts what is due now; how many conversions that were."""
        partitions = [partition for partition in self._partitions() if partition.settings.enabled]
        self._forget_all_but({partition.files for partition in partitions})
        now = self._clock.monotonic()
        looked, self._looked = now if self._looked is None else self._looked, now
        conversions = 0
        try:
            await self._seal_in_time(partitions, now, looked)
            due = [
                (partition, offset) for partition in partitions if (offset := self._due_offset(partition, now, looked))
            ]
            due.sort(key=lambda one: self._urgency(one[0]))
            for partition, offset in due:
                conversions += await self._convert_due(partition, offset, now + PASS_S)
                if self._clock.monotonic() > now + PASS_S:
                    break
        except BytemqError as error:
            self.failures += 1
            log.warning("a conversion was put off", reason=str(error))
        return conversions

    async def build(self, partitions: Sequence[TablePartition]) -> Built:
        """All that is committed now is in tables when this returns, and its segments are superseded.

        Transactions that are open are waited for, but not long; `held_back` tells of what they held back then.
        Raises BytemqError for the first that cannot be.
        """
        ends = {partition.files: partition.files.end_offset for partition in partitions}
        if any(files.manifest.end_offset < end for files, end in ends.items()):
            await self._storage.checkpoint()
        conversions = held_back = 0
        patient_until = self._clock.monotonic() + BUILD_PATIENCE_S
        for partition in partitions:
            settings = partition.settings._replace(min_bytes=0)
            # A file is converted as a whole: an open transaction at its end would hold all of it back.
            while partition.stable_offset < ends[partition.files] and self._clock.monotonic() < patient_until:
                await self._clock.sleep(BUILD_POLL_S)
            conversions += await self._convert_below(partition, ends[partition.files], settings)
            held_back += max(ends[partition.files] - _first_unconverted(partition.files.manifest), 0)
        tables = [
            table_file(info)
            for partition in partitions
            for info in partition.files.manifest.segments
            if info.kind is FileKind.PARQUET
        ]
        return Built(conversions, sum(table.records for table in tables), held_back)

    async def _seal_in_time(self, partitions: Sequence[TablePartition], now: float, looked: float) -> None:
        delay_s = self._delay.seconds
        found = []
        for partition in partitions:
            times = self._times.setdefault(partition.files, LogTimes())
            times.saw(partition.files.end_offset, looked)
            if times.has_news and times.is_to_be_sealed(now, _after_s(partition), delay_s, along=True):
                found.append((partition, times))
        if not any(times.is_to_be_sealed(now, _after_s(partition), delay_s) for partition, times in found):
            return
        if any(partition.files.manifest.end_offset < partition.files.end_offset for partition, _ in found):
            await self._storage.checkpoint()
        outcomes = await asyncio.gather(
            *(self._seal(partition.files) for partition, _ in found), return_exceptions=True
        )
        for (partition, times), outcome in zip(found, outcomes, strict=True):
            if isinstance(outcome, BytemqError):  # the next pass tries again
                log.warning("a segment is not sealed yet", topic=partition.topic, reason=str(outcome))
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                times.was_sealed(outcome)

    async def _seal(self, files: LogFiles) -> int:
        """The offset below which all is sealed."""
        manifest = files.manifest
        if manifest.segments and not manifest.segments[-1].sealed:
            await self._storage.seal(files)
        return manifest.end_offset

    def _due_offset(self, partition: TablePartition, now: float, looked: float) -> int:
        """Below which there is something to be converted, or to be merged; 0: nothing."""
        times, first = self._times[partition.files], _first_unconverted(partition.files.manifest)
        times.was_converted(first)
        if times.is_waiting:
            offset = times.due_offset(now, looked, _after_s(partition), self._delay.seconds)
            if first < min(offset, partition.stable_offset):
                return offset
            times.waits_for_more(now)
        return first if times.sealed_offset and self._has_something_to_merge(partition) else 0

    def _urgency(self, partition: TablePartition) -> tuple[bool, float, float]:
        """The least comes first. What the cleaner is at work on, and what failed, keeps nobody waiting, nor does one
        that fails again and again keep another that failed once; what is only to be merged has no time.
        """
        files = partition.files
        by = self._times[files].by(_after_s(partition))
        return files.rewriting.locked(), self._failed.get(files, -inf), by

    async def _convert_due(self, partition: TablePartition, offset: int, until: float) -> int:
        files, times = partition.files, self._times[partition.files]
        try:
            conversions = await self._convert_below(partition, offset, partition.settings, until)
        except BytemqError:
            self._failed[files] = self._clock.monotonic()
            raise
        self._failed.pop(files, None)
        since = times.was_converted(_first_unconverted(files.manifest))
        if since is not None:
            self._delay.was(self._clock.monotonic() - since)
        elif not conversions:
            times.waits_for_more(self._clock.monotonic())
        return conversions

    def _is_late(self, partition: TablePartition) -> bool:
        times = self._times.get(partition.files)
        return times is not None and times.is_late(self._clock.monotonic(), _after_s(partition), self._delay.seconds)

    def _has_something_to_merge(self, partition: TablePartition) -> bool:
        return bool(next_files(partition.files.manifest.segments, 0, partition.settings, self._given_up))

    async def _convert_below(
        self, partition: TablePartition, offset: int, settings: TableSettings, until: float = inf
    ) -> int:
        """How many conversions that were; none is begun after `until`, but the first."""
        files, conversions = partition.files, 0
        limit = min(offset, partition.stable_offset)
        segments = files.manifest.segments
        if segments and not segments[-1].sealed and segments[-1].base_offset < limit:
            await self._storage.seal(files)
        while not files.deleted:
            async with files.rewriting:
                # Opening a log reads it from its snapshot on; so what is above stays as it can be read at once.
                limit = min(offset, partition.stable_offset, files.stored.snapshot_offset)
                chosen = next_files(files.manifest.segments, limit, settings, self._given_up)
                if not chosen:
                    break
                conversions += await self._convert(partition, chosen, settings)
            if self._clock.monotonic() > until:
                break
        return conversions

    async def _convert(self, partition: TablePartition, chosen: Sequence[SegmentInfo], settings: TableSettings) -> bool:
        """False: not yet, because the table's columns changed while the file was made."""
        files = partition.files
        names = new_names(partition.topic, files.partition, chosen[0].base_offset, self._storage.names.mark())
        first, last = chosen[0].base_offset, chosen[-1].last_offset
        known = await self._columns.get(files.partition.topic_id)
        job = Convert(
            tuple(chosen),
            files.partition.index,
            names,
            tuple(txn[:3] for txn in partition.aborted() if txn.last_offset >= first and txn.first_offset <= last),
            settings.row_group_bytes,
            settings.codec,
            known.columns,
            settings.formats,
            level_of(chosen, settings, is_late=self._is_late(partition)),
        )
        created: list[str] = []
        began = self._clock.monotonic()
        try:
            written, columns = await self._worker.run(job, created)
        except BaseException as error:
            self._storage.discard(created)
            if isinstance(error, (Corrupt, Invalid)):
                self._given_up.update(file.name for file in chosen)
                log.error("files stay as they are, they cannot be converted", files=len(chosen), reason=str(error))
            raise
        chosen = [file for file in chosen if file.last_offset <= written.last_offset]
        change = None if columns == known.columns else change_of(files.partition.topic_id, known, columns)
        try:
            await self._storage.replace_files(files, chosen, [written], change)
        except ColumnsChanged:
            log.info("columns came meanwhile", topic=partition.topic, partition=files.partition.index)
            return False
        files.rewritten_ms = self._clock.wall_ms()
        self._count(written, chosen)
        self.converted_bytes += sum(file.size_bytes for file in chosen)
        log.info(
            "converted",
            topic=partition.topic,
            partition=files.partition.index,
            offsets=f"{first}..{written.last_offset}",
            files=len(chosen),
            records=table_file(written).records,
            bytes=written.size_bytes,
            seconds=round(self._clock.monotonic() - began, 3),
        )
        return True

    def _count(self, written: SegmentInfo, chosen: Sequence[SegmentInfo]) -> None:
        """What is new in a file that replaces others."""
        before = [table_file(file) for file in chosen if file.kind is FileKind.PARQUET]
        after = table_file(written)
        self.conversions += 1
        self.kept_raw += after.kept_raw - sum(table.kept_raw for table in before)
        self.invalid += after.invalid - sum(table.invalid for table in before)
        self.left_out += after.left_out - sum(table.left_out for table in before)
        self.retyped += after.retyped - sum(table.retyped for table in before)

    def _forget_all_but(self, known: set[LogFiles]) -> None:
        for gone in self._times.keys() - known:
            del self._times[gone]
            self._failed.pop(gone, None)
        if self._given_up:
            self._given_up.intersection_update(info.name for files in known for info in files.manifest.segments)


def rest_s(pass_s: float) -> float:
    """As long again for everybody else: a backlog of terabytes is no reason to use the disk all day. But where a
    conversion is slow, what is due next does not wait for as long.
    """
    return min(pass_s, PASS_S)


def _after_s(partition: TablePartition) -> float:
    return partition.settings.after_ms / 1000


def _first_unconverted(manifest: Manifest) -> int:
    for segment in manifest.segments:
        if segment.kind is not FileKind.PARQUET:
            return segment.base_offset
    return manifest.end_offset
