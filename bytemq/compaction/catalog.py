"""Topics as Iceberg tables: which metadata a table has now.

Owns: that each cut through a topic's files has a snapshot, made when somebody asks for it, and that snapshots of
before stay as long as their files do; and that nothing of a topic stays that is deleted. Must not: write metadata (a
worker does), or speak HTTP.

A table is what the manifests of the topic's partitions say at one moment: the same step of metadata that publishes a
Parquet file to consumers publishes it here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from bytemq.compaction.iceberg_jobs import IcebergFile, IcebergMetadata, WriteIceberg
from bytemq.compaction.restructuring import TablePartition
from bytemq.compaction.worker import Worker
from bytemq.runtime.clock import Clock
from bytemq.storage.manifests.manifest import FileKind
from bytemq.storage.tables.published_columns import ColumnStore
from bytemq.storage.tables.table_columns import TableColumns
from bytemq.storage.tables.table_file import folder_of, iceberg_folder_of, iceberg_stem, table_file
from bytemq.types import TopicId


@dataclass(slots=True)
class _Table:
    files: tuple[IcebergFile, ...]
    offsets: str
    columns: TableColumns
    metadata: IcebergMetadata
    objects: list[str]


class Catalog:
    def __init__(
        self,
        worker: Worker,
        discard: Callable[[Sequence[str]], None],
        clock: Clock,
        columns: ColumnStore,
        exists: Callable[[TopicId], bool],
        *,
        root: str,
        session_id: int,
        keep_ms: int,
    ) -> None:
        """`root`: URL of the store. `discard` deletes objects after the grace that readers have. `exists`: whether the
        topic is there, as far as is known here; call `forget` when one is gone.
        """
        self._worker = worker
        self._discard = discard
        self._clock = clock
        self._columns = columns
        self._exists = exists
        self._root = root.rstrip("/")
        self._session_id = session_id
        self._keep_ms = keep_ms
        self._started_ms = clock.wall_ms()
        self._made = 0
        self._tables: dict[TopicId, _Table] = {}
        self._locks: dict[TopicId, asyncio.Lock] = {}

    async def load(
        self, topic: str, topic_id: TopicId, partitions: Sequence[TablePartition], changed_ms: int = 0
    ) -> IcebergMetadata:
        """The metadata of the table as it is now. Raises BytemqError.

        A new snapshot says that it is of `changed_ms`, when the files changed, or of the start: it is made because
        somebody reads, and readers whose transaction began a moment ago (DuckDB) would not take one that is of now.
        """
        async with self._locks.setdefault(topic_id, asyncio.Lock()):
            files, offsets = _cut(partitions)
            columns = (await self._columns.get(topic_id)).columns  # after the files: none of them has others
            known = self._tables.get(topic_id)
            if known is not None and (known.files, known.offsets, known.columns) == (files, offsets, columns):
                return known.metadata
            return await self._write(topic, topic_id, files, offsets, columns, known, max(changed_ms, self._started_ms))

    def forget(self, topics: Iterable[TopicId]) -> None:
        """These are deleted."""
        for topic_id in topics:
            self._locks.pop(topic_id, None)
            table = self._tables.pop(topic_id, None)
            if table is not None:
                self._discard(table.objects)

    async def _write(
        self,
        topic: str,
        topic_id: TopicId,
        files: tuple[IcebergFile, ...],
        offsets: str,
        columns: TableColumns,
        known: _Table | None,
        changed_ms: int,
    ) -> IcebergMetadata:
        self._made += 1
        created: list[str] = []
        job = WriteIceberg(
            topic=topic,
            table_uuid=str(UUID(bytes=topic_id)),
            root=self._root,
            folder=folder_of(topic, topic_id),
            metadata_folder=iceberg_folder_of(topic, topic_id),
            unique=iceberg_stem(self._made, self._session_id),
            files=files,
            offsets=offsets,
            changed_ms=changed_ms,
            columns=columns,
            previous=known.metadata.text if known is not None else "",
            keep_ms=self._keep_ms,
        )
        try:
            metadata = await self._worker.run(job, created)
        except BaseException:
            self._discard(created)
            raise
        self._tables[topic_id] = _Table(files, offsets, columns, metadata, created)
        if known is not None:
            self._discard(known.objects)
        if not self._exists(topic_id):  # it went meanwhile
            self.forget([topic_id])
        return metadata


def _cut(partitions: Sequence[TablePartition]) -> tuple[tuple[IcebergFile, ...], str]:
    """In one step: every file of every partition, and the offsets that they reach."""
    files: list[IcebergFile] = []
    offsets: dict[str, list[int]] = {}
    for partition in partitions:
        log = partition.files
        end = log.log_start_offset
        for info in log.manifest.segments:
            if info.kind is FileKind.PARQUET:
                table = table_file(info)
                end = info.last_offset + 1
                if table.records:
                    files.append(IcebergFile(info.name, table.records, table.parquet_bytes))
        offsets[str(log.partition.index)] = [log.log_start_offset, end]
    return tuple(files), json.dumps(offsets)
