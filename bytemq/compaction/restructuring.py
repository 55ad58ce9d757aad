"""Topics become tables: when it is done, and that it is published.

Owns: the background pass over all partitions, a build on demand, what could not be converted. Must not: convert (a
worker does), choose files (`table_planner` does), or know where partitions come from (the node says).

A conversion is: the files are chosen, a worker writes their successor under new names, and one transaction replaces
them in the manifest if they are still what they were. Killed at any step, the log is what its manifest says, and what
was written is garbage; two that convert the same files are harmless, one of them is refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from bytemq.compaction.table_jobs import Convert
from bytemq.compaction.table_planner import TableSettings, next_files
from bytemq.compaction.worker import Worker
from bytemq.errors import BytemqError, Corrupt, Invalid
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.storage.log_files import LogFiles
from bytemq.storage.manifests.manifest import AbortedTxn, FileKind, Manifest, SegmentInfo
from bytemq.storage.tables.published_columns import ColumnChange, ColumnsChanged, ColumnStore, change_of
from bytemq.storage.tables.table_file import new_names, table_file

log = get_logger("compaction.tables")

PASS_INTERVAL_S = 1.0
MARKS = 16
"""Of a log within `after_ms`: so exactly it is known when a record came."""
LEFT_SHARE, LEFT_SHORT_SHARE, LEFT_S = 1 / 8, 1 / 4, 15.0
"""Of `after_ms`, what is left for a mark in between and the conversion itself, so that a record is in the table when
that is over. The start of a worker may take seconds on a busy machine: of a short time a quarter is left.
"""
ALONG_SHARE = 1 / 4
"""Of `after_ms`: what has been there for so long goes along, or a busy log would become a file for each mark."""
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


class _Mark(NamedTuple):
    """That the log had reached `offset` at `monotonic`."""

    offset: int
    monotonic: float


class Restructuring:
    def __init__(
        self,
        partitions: Callable[[], Iterable[TablePartition]],
        storage: TableStorage,
        worker: Worker,
        clock: Clock,
        session_id: int,
        columns: ColumnStore,
    ) -> None:
        self._columns = columns
        self._partitions = partitions
        self._storage = storage
        self._worker = worker
        self._clock = clock
        self._session_id = session_id
        self._made = 0
        self._marks: dict[LogFiles, deque[_Mark]] = {}
        self._due: dict[LogFiles, int] = {}
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
                # As long again for everybody else: a backlog of terabytes is no reason to use the disk all day.
                await self._clock.sleep(self._clock.monotonic() - began)

    async def pass_over_all(self) -> int:
        """Converts what is due now; how many conversions that were."""
        partitions = [partition for partition in self._partitions() if partition.settings.enabled]
        self._forget_all_but({partition.files for partition in partitions})
        due = [partition for partition in partitions if self._is_due(partition)]
        due.sort(key=lambda partition: partition.files.rewriting.locked())  # what the cleaner is at work on comes last
        conversions = 0
        try:
            if any(self._due[partition.files] > partition.files.manifest.end_offset for partition in due):
                await self._storage.checkpoint()
            for partition in due:
                conversions += await self._convert_below(partition, self._due[partition.files], partition.settings)
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

    def _is_due(self, partition: TablePartition) -> bool:
        """Whether there is something that has been there for long. The time of a restart counts as its arrival."""
        files, now = partition.files, self._clock.monotonic()
        after_s = partition.settings.after_ms / 1000
        done = self._due.get(files, 0)
        marks = self._marks.get(files) or deque()
        if files.end_offset > done and (not marks or now - marks[-1].monotonic >= after_s / MARKS):
            marks.append(_Mark(files.end_offset, now))
        while marks and marks[0].offset <= done:
            marks.popleft()
        if marks and now - marks[0].monotonic >= due_s(after_s):
            while marks and now - marks[0].monotonic >= after_s * ALONG_SHARE:
                self._due[files] = marks.popleft().offset
        if marks:
            self._marks[files] = marks
        else:  # most partitions have nothing new, and cost nothing here
            self._marks.pop(files, None)
        limit = min(self._due.get(files, 0), partition.stable_offset)
        return limit > 0 and (limit > _first_unconverted(files.manifest) or self._has_something_to_merge(partition))

    def _has_something_to_merge(self, partition: TablePartition) -> bool:
        return bool(next_files(partition.files.manifest.segments, 0, partition.settings, self._given_up))

    async def _convert_below(self, partition: TablePartition, offset: int, settings: TableSettings) -> int:
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
        return conversions

    async def _convert(self, partition: TablePartition, chosen: Sequence[SegmentInfo], settings: TableSettings) -> bool:
        """False: not yet, because the table's columns changed while the file was made."""
        files = partition.files
        self._made += 1
        names = new_names(partition.topic, files.partition, chosen[0].base_offset, self._session_id, self._made)
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
            settings.codec_level,
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
            offsets=f"{first}..{last}",
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
        for files in (self._marks.keys() | self._due.keys()) - known:
            self._marks.pop(files, None)
            self._due.pop(files, None)


def due_s(after_s: float) -> float:
    """When the conversion of a record begins after it came."""
    return after_s - max(after_s * LEFT_SHARE, min(after_s * LEFT_SHORT_SHARE, LEFT_S))


def _first_unconverted(manifest: Manifest) -> int:
    for segment in manifest.segments:
        if segment.kind is not FileKind.PARQUET:
            return segment.base_offset
    return manifest.end_offset
