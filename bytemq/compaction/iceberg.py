"""Writing a topic's table as Apache Iceberg tables are written, in a worker process.

Owns: the metadata of a snapshot, by pyiceberg's own classes. Must not: decide what a table consists of: that is what
the manifests of the log say, and each snapshot is a cut through them.

A table's metadata are derived, and may be derived again: nothing else depends on them, and what a crash leaves is
garbage.
"""

from __future__ import annotations

import io
import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from uuid import UUID

import pyarrow.parquet as pq
from pyiceberg.io import InputFile, OutputFile
from pyiceberg.io.pyarrow import (
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
    pyarrow_to_schema,
)
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestEntry,
    ManifestEntryStatus,
    write_manifest,
    write_manifest_list,
)
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import TableMetadataUtil, TableMetadataV2, new_table_metadata
from pyiceberg.table.refs import MAIN_BRANCH, SnapshotRef
from pyiceberg.table.snapshots import Operation, Snapshot, SnapshotLogEntry, Summary
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from pyiceberg.typedef import Record
from pyiceberg.types import NestedField

import bytemq.compaction.arrow_limits  # noqa: F401
from bytemq.compaction.iceberg_jobs import IcebergFile, IcebergMetadata, WriteIceberg
from bytemq.compaction.job import Workspace
from bytemq.compaction.local_files import own_file
from bytemq.storage.parquet.partial_copy import PartialCopy
from bytemq.storage.parquet.record_schema import SCHEMA, table_schema
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.tables.table_columns import TableColumns, paths

VERSION: Final = 2
PROPERTIES = {"write.format.default": "parquet", "write.parquet.compression-codec": "zstd"}
COMPRESSION: Final = "deflate"
# It warns of every column that has no statistics, for every file.
logging.getLogger("pyiceberg.io.pyarrow").setLevel(logging.ERROR)


class KnownStatistics:
    """Of files, by name, whose content never changes; of so many columns in all, which take some hundred bytes each."""

    def __init__(self, most_columns: int) -> None:
        self._most_columns = most_columns
        self._known: dict[str, dict[str, Any]] = {}
        self.columns = 0

    def get(self, name: str) -> dict[str, Any] | None:
        return self._known.get(name)

    def keep(self, name: str, statistics: dict[str, Any]) -> None:
        self._known[name] = statistics
        self.columns += _columns_in(statistics)
        while self.columns > self._most_columns:
            self.columns -= _columns_in(self._known.pop(next(iter(self._known))))


def _columns_in(statistics: dict[str, Any]) -> int:
    return len(statistics["value_counts"])


_statistics = KnownStatistics(most_columns=64 * 1024)


async def write(job: WriteIceberg, space: Workspace) -> IcebergMetadata:
    metadata = TableMetadataUtil.parse_raw(job.previous) if job.previous else _new(job)
    assert isinstance(metadata, TableMetadataV2)
    metadata = _with_columns(metadata, job.columns)
    schema = metadata.schema()
    number = metadata.last_sequence_number + 1
    snapshot_id = (job.changed_ms << 16) | (number & 0xFFFF)
    written: list[_InMemory] = []
    prefix = f"{job.root}/{job.metadata_folder}{job.unique}"
    manifests = []
    if job.files:
        output = _InMemory(f"{prefix}-m0.avro")
        with write_manifest(VERSION, UNPARTITIONED_PARTITION_SPEC, schema, output, snapshot_id, COMPRESSION) as writer:
            for file in job.files:
                writer.add_entry(_entry(file, await _statistics_of(file, schema, space.store), job.root, snapshot_id))
        manifests.append(writer.to_manifest_file())
        written.append(output)
    listing = _InMemory(f"{prefix}-list.avro")
    parent = metadata.current_snapshot_id
    with write_manifest_list(VERSION, listing, snapshot_id, parent, number, COMPRESSION) as lister:
        lister.add_manifests(manifests)
    written.append(listing)
    updated = _with_snapshot(metadata, job, snapshot_id, number, listing.location)
    text = updated.model_dump_json(by_alias=True, exclude_none=True)
    final = _InMemory(f"{prefix}.metadata.json")
    final.data = text.encode()
    for output in [*written, final]:
        await space.create(output.location.removeprefix(f"{job.root}/"), [output.data])
    return IcebergMetadata(final.location, text)


def _new(job: WriteIceberg) -> TableMetadataV2:
    made = new_table_metadata(
        pyarrow_to_schema(SCHEMA),
        UNPARTITIONED_PARTITION_SPEC,
        UNSORTED_SORT_ORDER,
        f"{job.root}/{job.folder.rstrip('/')}",
        {**PROPERTIES, "bytemq.topic": job.topic},
        UUID(job.table_uuid),
    )
    # Ids of the schema's fields are those in the Parquet files, not fresh ones.
    schema = Schema(*pyarrow_to_schema(SCHEMA).fields, schema_id=0)
    changed = made.model_copy(update={"schemas": [schema], "last_column_id": schema.highest_field_id})
    assert isinstance(changed, TableMetadataV2)
    return changed


def _with_columns(metadata: TableMetadataV2, columns: TableColumns) -> TableMetadataV2:
    """A schema of its own for each set of columns that the table had, as long as a snapshot has it."""
    places = dict(paths(columns))
    fields = [_documented(field, places) for field in pyarrow_to_schema(table_schema(columns)).fields]
    if tuple(fields) == metadata.schema().fields:
        return metadata
    schema = Schema(*fields, schema_id=max(one.schema_id for one in metadata.schemas) + 1)
    changed = metadata.model_copy(
        update={
            "schemas": [*metadata.schemas, schema],
            "current_schema_id": schema.schema_id,
            "last_column_id": max(metadata.last_column_id, schema.highest_field_id),
        }
    )
    assert isinstance(changed, TableMetadataV2)
    return changed


def _documented(field: NestedField, places: dict[int, str]) -> NestedField:
    doc = places.get(field.field_id)
    return field if doc is None else field.model_copy(update={"doc": doc})


def _with_snapshot(
    metadata: TableMetadataV2, job: WriteIceberg, snapshot_id: int, number: int, manifest_list: str
) -> TableMetadataV2:
    time_ms = max(job.changed_ms, metadata.last_updated_ms + 1) if metadata.snapshots else job.changed_ms
    kept = [old for old in metadata.snapshots if old.timestamp_ms >= time_ms - job.keep_ms]
    known = {old.snapshot_id for old in kept}
    parent = metadata.current_snapshot_id if metadata.current_snapshot_id in known else None
    records, size_bytes = sum(file.records for file in job.files), sum(file.size_bytes for file in job.files)
    summary = Summary(
        Operation.OVERWRITE if parent else Operation.APPEND,
        **{
            "total-records": str(records),
            "total-data-files": str(len(job.files)),
            "total-files-size": str(size_bytes),
            "bytemq.offsets": job.offsets,
        },
    )
    ids = {"snapshot-id": snapshot_id, "timestamp-ms": time_ms}
    snapshot = Snapshot.model_validate(
        {
            **ids,
            "parent-snapshot-id": parent,
            "sequence-number": number,
            "manifest-list": manifest_list,
            "summary": summary,
            "schema-id": metadata.current_schema_id,
        }
    )
    in_use = {metadata.current_schema_id, *(old.schema_id for old in kept)}
    log = [entry for entry in metadata.snapshot_log if entry.snapshot_id in known]
    updated = metadata.model_copy(
        update={
            "last_updated_ms": time_ms,
            "last_sequence_number": number,
            "current_snapshot_id": snapshot_id,
            "schemas": [schema for schema in metadata.schemas if schema.schema_id in in_use],
            "snapshots": [*kept, snapshot],
            "snapshot_log": [*log, SnapshotLogEntry.model_validate(ids)],
            "refs": {MAIN_BRANCH: SnapshotRef.model_validate({"snapshot-id": snapshot_id, "type": "branch"})},
        }
    )
    assert isinstance(updated, TableMetadataV2)
    return updated


def _entry(file: IcebergFile, statistics: dict[str, Any], root: str, snapshot_id: int) -> ManifestEntry:
    return ManifestEntry.from_args(
        status=ManifestEntryStatus.ADDED,
        snapshot_id=snapshot_id,
        sequence_number=None,
        file_sequence_number=None,
        data_file=DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=f"{root}/{file.name}",
            file_format=FileFormat.PARQUET,
            partition=Record(),
            file_size_in_bytes=file.size_bytes,
            sort_order_id=None,
            spec_id=0,
            equality_ids=None,
            key_metadata=None,
            **statistics,
        ),
    )


async def _statistics_of(file: IcebergFile, schema: Schema, store: ObjectStore) -> dict[str, Any]:
    found = _statistics.get(file.name)
    if found is None:
        found = data_file_statistics_from_parquet_metadata(
            await _footer(file.name, store), compute_statistics_plan(schema, {}), parquet_path_to_id_mapping(schema)
        ).to_serialized_dict()
        _statistics.keep(file.name, found)
    return found


async def _footer(name: str, store: ObjectStore) -> pq.FileMetaData:
    own = await own_file(name, store)
    if own is not None:
        return pq.read_metadata(own)
    with TemporaryDirectory(prefix="bytemq-iceberg-") as folder:
        return (await PartialCopy.open(store, name, Path(folder) / "footer.parquet")).metadata


class _InMemory(OutputFile):
    """What pyiceberg writes, until the store has it."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.data = b""

    def __len__(self) -> int:
        return len(self.data)

    def exists(self) -> bool:
        return False

    def to_input_file(self) -> InputFile:
        raise NotImplementedError("written once, read by others")

    def create(self, overwrite: bool = False) -> Any:
        return _Kept(self)


class _Kept(io.BytesIO):
    def __init__(self, output: _InMemory) -> None:
        super().__init__()
        self._output = output

    def close(self) -> None:
        if not self.closed:
            self._output.data = self.getvalue()
        super().close()
