"""The job of cleaning a log: what goes in and what comes back. Data only; `cleaning` does it, in the worker process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from bytemq.compaction.job import Job
from bytemq.storage.manifests.manifest import AbortedTxn, SegmentInfo
from bytemq.storage.tables.table_columns import TableColumns
from bytemq.storage.tables.table_file import CODEC_LEVEL, Codec


class CleaningStats(NamedTuple):
    """What one job did."""

    read_bytes: int
    written_bytes: int
    read_records: int
    kept_records: int
    keys: int
    """How many different keys the dirty part had."""
    raw_batches: int
    """Batches, or damaged places, that could not be understood and were kept as they are."""


class CleanedLog(NamedTuple):
    replaced: tuple[SegmentInfo, ...]
    """The files whose place `written` takes."""
    written: tuple[SegmentInfo, ...]
    first_dirty_offset: int
    """Where the cleaned part of the log ends now."""
    stats: CleaningStats


class TableForm(NamedTuple):
    """Of the Parquet files that take the place of others."""

    folder: str
    """Where they are; their companions are in the log's directory."""
    partition: int
    target_file_bytes: int
    row_group_bytes: int
    codec: Codec
    columns: TableColumns
    """All that the topic's table has."""
    codec_level: int = CODEC_LEVEL


@dataclass(frozen=True, slots=True)
class CleanLog(Job[CleanedLog]):
    """Removes from the beginning of a log what later records of it have made obsolete.

    As many of the dirty segments are cleaned as there is room for their keys.
    """

    runs = "bytemq.compaction.cleaning:clean"

    segments: tuple[SegmentInfo, ...]
    """The first files of the log, in a row and sealed: the cleaned ones, then some dirty ones."""
    first_dirty_offset: int
    aborted: tuple[AbortedTxn, ...]
    """All transactions with records in these segments that were aborted. None is open there."""
    now_ms: int
    delete_retention_ms: int
    """The topic's delete.retention.ms: how long a tombstone stays after it was first seen by a cleaning."""
    map_bytes: int
    load_factor: float
    segment_bytes: int
    """Segments written are no larger, but for a single larger batch."""
    chunk_bytes: int
    directory: str
    """Of the log, in the pool that its new segments go to; companions are where Parquet files are, in the primary."""
    suffix: str
    """Segments written are named `<directory><base offset><suffix>-<number>.log`, other files alike."""
    tables: TableForm | None = None
    """None where no file is Parquet."""
