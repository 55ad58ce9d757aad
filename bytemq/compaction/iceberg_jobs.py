"""The job that writes Iceberg metadata, as data. `iceberg` does it, in a worker process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from bytemq.compaction.job import Job
from bytemq.storage.tables.table_columns import TableColumns


class IcebergFile(NamedTuple):
    """A data file of the table."""

    name: str
    records: int
    size_bytes: int


class IcebergMetadata(NamedTuple):
    location: str
    text: str
    """The table's metadata as JSON."""


@dataclass(frozen=True)
class WriteIceberg(Job[IcebergMetadata]):
    """A snapshot of a topic's table: manifest, manifest list and metadata, in `metadata_folder`."""

    runs = "bytemq.compaction.iceberg:write"
    topic: str
    table_uuid: str
    root: str
    """URL of the store, without "/" at the end: what readers of the table know the files by."""
    folder: str
    """Of the Parquet files, with "/" at the end."""
    metadata_folder: str
    """Of what is written, with "/" at the end."""
    unique: str
    """Part of the names of what is written; nobody else uses it."""
    files: tuple[IcebergFile, ...]
    offsets: str
    """The cut, as JSON: for each partition the log start offset and the end of its table."""
    changed_ms: int
    """When it became what it is."""
    columns: TableColumns
    previous: str
    """Metadata to go on from; "" for none."""
    keep_ms: int
    """How long earlier snapshots stay in the metadata: their files are there so long."""
