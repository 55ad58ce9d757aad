"""Cleaning a log, in the worker process: Kafka's Cleaner over the files of a log, whatever form they have.

Owns: the two passes, and which files they are over. Must not: publish, delete, or know what a form of file is.

First the newest offset of each key in the dirty part is put into a table of fixed size; where the table is full, the
dirty part ends. Then the log is copied from its beginning, without the records that a newer one of the same key has
replaced, tombstones past their horizon, aborted transactions, and markers past theirs. What was copied before may be
cut out of the middle of a file: the rest of that one becomes a file of its own.

Files are replaced by files of their own form: segments by segments, Parquet by Parquet.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import Protocol

from bytemq.compaction import cleaned_segments
from bytemq.compaction.clean_log import CleanedLog, CleaningStats, CleanLog
from bytemq.compaction.cleaning_rules import CleaningRules, Pass
from bytemq.compaction.job import Workspace
from bytemq.compaction.transactions import CleanedTransactions
from bytemq.storage.manifests.manifest import FileKind, SegmentInfo


class Form(Protocol):
    """What the passes need of a form of file."""

    async def put_file(self, over: Pass, file: SegmentInfo, end_offset: int) -> tuple[int, bool]:
        """Puts the keys of a file of the dirty part into the table; the part reaches to `end_offset` so far. Where it
        ends now, and whether that is because the table is full.
        """

    async def copy_files(
        self, over: Pass, files: Sequence[SegmentInfo], end_offset: int, written: list[SegmentInfo]
    ) -> None:
        """Writes what stays of files in a row below `end_offset`, and all that they have from there on."""


def _form_of(kind: FileKind) -> Form:
    if kind is not FileKind.PARQUET:
        return cleaned_segments
    from bytemq.compaction import cleaned_tables  # a log without tables needs no pyarrow, nor the memory for it

    return cleaned_tables


async def clean(job: CleanLog, space: Workspace) -> CleanedLog:
    """Raises Corrupt, NotFound and Unavailable of the store."""
    rules = CleaningRules(job)
    end_offset = await _fill(job, space, rules)
    replaced = tuple(file for file in job.segments if file.base_offset < end_offset)
    over = Pass(job, space, rules, CleanedTransactions(job.aborted))
    written: list[SegmentInfo] = []
    for kind, files in groupby(replaced, key=attrgetter("kind")):
        await _form_of(kind).copy_files(over, list(files), end_offset, written)
    stats = CleaningStats(
        sum(file.size_bytes for file in replaced),
        sum(file.size_bytes for file in written),
        rules.read_records,
        rules.kept_records,
        len(rules.newest),
        rules.raw_batches,
    )
    return CleanedLog(replaced, tuple(written), end_offset, stats)


async def _fill(job: CleanLog, space: Workspace, rules: CleaningRules) -> int:
    """Puts the dirty part's keys into the table; the offset up to which there was room."""
    end_offset = job.first_dirty_offset
    ended_later = (one for one in job.aborted if one.last_offset >= job.first_dirty_offset)
    over = Pass(job, space, rules, CleanedTransactions(ended_later))
    for file in job.segments:
        if file.last_offset < job.first_dirty_offset:
            end_offset = file.last_offset + 1
            continue
        end_offset, is_full = await _form_of(file.kind).put_file(over, file, end_offset)
        if is_full:
            break
    return end_offset
