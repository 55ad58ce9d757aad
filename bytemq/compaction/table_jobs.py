"""The jobs that make tables and read them back, as data. `restructurer` does them, in a worker process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from bytemq.compaction.job import Job
from bytemq.storage.manifests.manifest import SegmentInfo
from bytemq.storage.tables.restored import RestoredFile
from bytemq.storage.tables.table_columns import Formats, TableColumns
from bytemq.storage.tables.table_file import CODEC_LEVEL, Codec, NewNames


class Converted(NamedTuple):
    file: SegmentInfo
    """What a manifest says of it: in place of all files of the job, or of the first of them."""
    columns: TableColumns
    """Of the table, once the file is part of it."""


@dataclass(frozen=True)
class Convert(Job[Converted]):
    """Files of a log, in either form, become one Parquet file with its companion; where they are too much for one, the
    first of them do.

    All are sealed and decided (below the last stable offset), follow each other, and are cleaned or are not.
    """

    runs = "bytemq.compaction.restructurer:convert"
    files: tuple[SegmentInfo, ...]
    partition: int
    names: NewNames
    aborted: tuple[tuple[int, int, int], ...]
    """(producer id, first offset, offset of the marker) of the aborted transactions that reach into the files."""
    row_group_bytes: int
    codec: Codec
    columns: TableColumns = TableColumns()  # noqa: RUF009
    """That the table has. The file may need more."""
    formats: Formats = Formats()  # noqa: RUF009
    """Of what is not Parquet yet."""
    codec_level: int = CODEC_LEVEL


@dataclass(frozen=True)
class Restore(Job[RestoredFile]):
    """A unit of a Parquet file becomes a segment in a local folder."""

    runs = "bytemq.compaction.restructurer:restore"
    parquet: str
    companion: str
    unit: int
    folder: str
    name: str
    batch_bytes: int
