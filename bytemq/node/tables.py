"""A node's tables: workers, conversion in the background, reading back.

Owns: their wiring, and what a table is made of here: the partitions that this broker has opened, cut and read for
queries as they are at one moment. Must not: convert, run a query, or speak HTTP.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bytemq.broker.log.partition import Partition
from bytemq.broker.log.partitions import PartitionTable
from bytemq.broker.log.reading import READ_COMMITTED
from bytemq.compaction.catalog import Catalog
from bytemq.compaction.iceberg_jobs import IcebergMetadata
from bytemq.compaction.restorer import WorkerRestorer
from bytemq.compaction.restructuring import Restructuring, TablePartition
from bytemq.compaction.table_planner import TableSettings
from bytemq.compaction.worker import Worker
from bytemq.config import TopicConfig
from bytemq.errors import Invalid, NotFound, Unavailable
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.store import MetadataStore
from bytemq.metadata.topic_names import INTERNAL_TOPICS
from bytemq.node.settings import table_settings
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.query.cuts import PartitionCut, cut_of
from bytemq.query.queries import READ_BYTES, Queries, SqlLimits
from bytemq.runtime.clock import Clock
from bytemq.storage.log_files import LogFiles
from bytemq.storage.logs import Logs
from bytemq.storage.manifests.manifest import AbortedTxn, FileKind, SegmentInfo
from bytemq.storage.segments.batch_walk import walk
from bytemq.storage.tables.published_columns import ColumnStore
from bytemq.storage.tables.table_columns import Formats, Seen, TableColumns

WORKER_MEMORY_BYTES = 512 * 1024 * 1024
RESTORE_NICENESS = 10
"""A consumer waits for it, and still the brokers' clients come first."""
UNTOUCHED_INTERVAL_S = 300.0
"""Between two looks at the manifests of logs that nobody has opened."""
SCRATCH = "scratch/restored"
QUERY_SCRATCH = "scratch/queries"


NEEDED = ("pyarrow", "numpy", "duckdb", "orjson")
"""Packages of the extra `tables`, without which there are none."""


def are_available() -> bool:
    """Whether the extra `tables` is installed."""
    return all(importlib.util.find_spec(name) is not None for name in NEEDED)


class OpenedPartition:
    """Implements `TablePartition`."""

    __slots__ = ("_partition",)

    def __init__(self, partition: Partition) -> None:
        self._partition = partition

    @property
    def topic(self) -> str:
        return self._partition.topic

    @property
    def files(self) -> LogFiles:
        return self._partition.files

    @property
    def stable_offset(self) -> int:
        return self._partition.last_stable_offset

    @property
    def settings(self) -> TableSettings:
        return table_settings(self._partition.config, is_internal=self.topic in INTERNAL_TOPICS)

    def aborted(self) -> Sequence[AbortedTxn]:
        return self._partition.aborted_transactions


class Tables:
    """What of the node makes and reads tables."""

    def __init__(self, data: Path, url: str) -> None:
        """`data`: the node's own folder; `url`: the storage."""
        self._data = data.resolve()
        self._root = unquote(urlsplit(url).path) if url.startswith("file:") else ""
        """Where Parquet files are; "" where that is no folder of this machine."""
        self._reader = Worker("restore", url, memory_bytes=WORKER_MEMORY_BYTES, niceness=RESTORE_NICENESS)
        self.restorer = WorkerRestorer(self._reader, data / SCRATCH)
        self._url = url
        self._catalog: Catalog | None = None
        self._converter = Worker("tables", url, memory_bytes=WORKER_MEMORY_BYTES)
        self._partitions: PartitionTable | None = None
        self._image: Callable[[], ClusterImage] = ClusterImage
        self._restructuring: Restructuring | None = None
        self._columns: ColumnStore | None = None
        self._clock: Clock | None = None

    def attach(
        self,
        partitions: PartitionTable,
        image: Callable[[], ClusterImage],
        storage: Logs,
        clock: Clock,
        session_id: int,
        grace_ms: int,
        metadata: MetadataStore,
    ) -> Restructuring:
        """Once there are partitions. What is returned is to be run."""
        self._partitions, self._image, self._clock = partitions, image, clock
        self._columns = columns = ColumnStore(metadata)
        self._restructuring = Restructuring(self._opened, storage, self._converter, clock, session_id, columns)
        # Metadata are what a reader waits for: not behind a conversion.
        self._catalog = Catalog(
            self._reader, storage.discard, clock, columns, root=self._url, session_id=session_id, keep_ms=grace_ms
        )
        return self._restructuring

    @property
    def restructuring(self) -> Restructuring:
        assert self._restructuring is not None, "attached"
        return self._restructuring

    async def run_untouched(self) -> None:
        """For ever: history that nobody has asked for since the start is opened when it is old enough for a table."""
        assert self._partitions is not None and self._clock is not None
        while True:
            await self._clock.sleep(UNTOUCHED_INTERVAL_S)
            await self._partitions.open_untouched(partial(_has_history, self._clock.wall_ms()))

    async def partitions_of(self, topic: str) -> list[TablePartition]:
        """All partitions of a topic, opened. Raises KafkaError, Invalid for a topic that is never a table."""
        known = self._image().topics.get(topic)
        if known is None:
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"there is no topic {topic}")
        if topic in INTERNAL_TOPICS:
            raise Invalid(f"{topic} is internal and never a table")
        assert self._partitions is not None
        return [OpenedPartition(await self._partitions.open(topic, index)) for index in range(len(known.partitions))]

    def queries(self, limits: SqlLimits) -> Queries:
        return Queries(self, self._root, self._data / QUERY_SCRATCH, limits)

    def topics(self) -> list[str]:
        return sorted(name for name in self._image().topics if name not in INTERNAL_TOPICS)

    async def iceberg_metadata(self, topic: str) -> IcebergMetadata:
        """Raises KafkaError for a topic that there is not, BytemqError."""
        partitions = await self.partitions_of(topic)
        assert self._catalog is not None
        changed_ms = max((partition.files.rewritten_ms for partition in partitions), default=0)
        return await self._catalog.load(topic, self._image().topics[topic].topic_id, partitions, changed_ms)

    # Implements `query.queries.Topics`.

    async def open(self, names: Sequence[str]) -> None:
        for name in names:
            if self._is_table(name):
                try:
                    await self.partitions_of(name)
                except KafkaError as error:
                    raise Unavailable(f"not all partitions of {name} can be read here: {error}") from error

    def cut(self, names: Sequence[str]) -> dict[str, list[PartitionCut]]:
        return {name: self._cut(name) for name in names if self._is_table(name)}

    async def columns(self, name: str, seen: Mapping[str, Seen]) -> tuple[TableColumns, Formats]:
        topic = self._image().topics.get(name)
        if topic is None:
            raise NotFound(f"there is no topic {name}")
        assert self._columns is not None and self._partitions is not None
        found = self._partitions.get(name, 0)
        if not isinstance(found, Partition):
            raise Unavailable(f"partition 0 of {name} is not here any more")
        formats = OpenedPartition(found).settings.formats
        wanted = {root: what for root, what in seen.items() if getattr(formats, root) != "raw"}
        return await self._columns.grow(name, topic.topic_id, wanted), formats

    async def read(self, topic: str, partition: int, offset: int) -> tuple[Sequence[bytes | memoryview], int]:
        assert self._partitions is not None
        found = self._partitions.get(topic, partition)
        if not isinstance(found, Partition):
            raise Unavailable(f"partition {partition} of {topic} is not here any more")
        fetched = await found.read(offset, READ_BYTES, isolation=READ_COMMITTED)
        if fetched.error is ErrorCode.OFFSET_OUT_OF_RANGE:  # retention was faster
            return (), max(offset, fetched.log_start_offset)
        if fetched.error is not ErrorCode.NONE:
            raise Unavailable(f"partition {partition} of {topic} cannot be read: {fetched.error.name}")
        if not fetched.buffers:
            return (), offset
        *_, last = walk(memoryview(fetched.buffers[-1]), verify=False)
        return fetched.buffers, last.last_offset + 1

    def _is_table(self, name: str) -> bool:
        return name in self._image().topics and name not in INTERNAL_TOPICS

    def _cut(self, name: str) -> list[PartitionCut]:
        assert self._partitions is not None
        cuts = []
        for index in range(len(self._image().topics[name].partitions)):
            found = self._partitions.get(name, index)
            if not isinstance(found, Partition):
                raise Unavailable(f"partition {index} of {name} is not here")
            if not self._root and any(info.kind is FileKind.PARQUET for info in found.files.manifest.segments):
                raise Unavailable("SQL reads Parquet files from a folder of this machine only, not from this storage")
            cuts.append(
                cut_of(found.files, found.log_start_offset, found.last_stable_offset, found.aborted_transactions)
            )
        return cuts

    async def close(self) -> None:
        await self._converter.close()
        await self.restorer.close()

    def _opened(self) -> Iterator[TablePartition]:
        assert self._partitions is not None
        return (OpenedPartition(partition) for partition in self._partitions.open_partitions())


def _has_history(now_ms: int, topic: str, config: TopicConfig, segments: Sequence[SegmentInfo]) -> bool:
    """Whether something of a log that is not open should be part of its table by now."""
    settings = table_settings(config, is_internal=topic in INTERNAL_TOPICS)
    return settings.enabled and any(
        info.kind is FileKind.SEGMENT and max(info.max_timestamp, info.created_ms) < now_ms - settings.after_ms
        for info in segments
    )
