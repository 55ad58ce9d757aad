"""A node's tables: workers, conversion in the background, reading back.

Owns: their wiring, and what a table is made of: the partitions of a topic, whoever owns them. Must not: convert, run a
query, or speak HTTP.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bytemq.broker.context import Broker
from bytemq.broker.whole_topics import Readable, WholeTopics
from bytemq.compaction.catalog import Catalog
from bytemq.compaction.iceberg_jobs import IcebergMetadata
from bytemq.compaction.restorer import WorkerRestorer
from bytemq.compaction.restructuring import Built, Restructuring, TablePartition
from bytemq.compaction.table_builds import Asker, Moved, TableBuilds
from bytemq.compaction.table_planner import TableSettings
from bytemq.compaction.worker import Worker
from bytemq.config import TopicConfig
from bytemq.errors import Fenced, Invalid, NotFound
from bytemq.metadata.image import ImageChange, TopicImage
from bytemq.metadata.topic_names import INTERNAL_TOPICS
from bytemq.node.queried_topics import QueriedTopics
from bytemq.node.settings import table_settings
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.query.queries import Queries, SqlLimits
from bytemq.query.signed_urls import SignedUrls, Signer
from bytemq.storage.log_files import LogFiles
from bytemq.storage.logs import Logs
from bytemq.storage.manifests.manifest import AbortedTxn, FileKind, SegmentInfo
from bytemq.storage.pools.opening import PoolUrls
from bytemq.storage.tables.published_columns import ColumnStore
from bytemq.storage.tables.table_columns import Formats
from bytemq.storage.tables.table_file import table_file

WORKER_MEMORY_BYTES = 512 * 1024 * 1024
RESTORE_NICENESS = 10
"""A consumer waits for it, and still the brokers' clients come first."""
UNTOUCHED_INTERVAL_S = 300.0
"""Between two looks at the manifests of logs that nobody has opened."""
SCRATCH = "scratch/restored"
RESTORER_SCRATCH, CONVERTER_SCRATCH = "scratch/restorer", "scratch/converter"
QUERY_SCRATCH = "scratch/queries"


NEEDED = ("pyarrow", "numpy", "duckdb", "orjson", "fsspec", "urllib3")
"""Packages of the extra `tables`, without which there are none."""


def are_available() -> bool:
    """Whether the extra `tables` is installed."""
    return all(importlib.util.find_spec(name) is not None for name in NEEDED)


NOT_INSTALLED = "it has no tables and no SQL: install them with pip install 'bytemq[tables]' and start it again"


async def refused_build(topic: str, indexes: Sequence[int]) -> Built:
    """What a broker without tables answers to those that want one built."""
    raise Invalid(NOT_INSTALLED)


class OpenedPartition:
    """Implements `TablePartition`: as its owner sees it, or somebody who follows it."""

    __slots__ = ("_config", "_partition")

    def __init__(self, partition: Readable, config: TopicConfig) -> None:
        self._partition = partition
        self._config = config

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
        return table_settings(self._config, is_internal=self.topic in INTERNAL_TOPICS)

    def aborted(self) -> Sequence[AbortedTxn]:
        return self._partition.aborted_transactions


class Tables:
    """What of the node makes and reads tables."""

    def __init__(self, data: Path, url: str, signer: Signer | None, pools: Callable[[], PoolUrls]) -> None:
        """`data`: the node's own folder; `url`: the storage; `signer`: that of a storage that is no folder; `pools`:
        those that the cluster has beside it.
        """
        self._data = data.resolve()
        self._root = unquote(urlsplit(url).path) if url.startswith("file:") else ""
        """Where Parquet files are; "" where that is no folder of this machine."""
        self._signer = signer
        memory_bytes = WORKER_MEMORY_BYTES
        self._reader = Worker(
            "restore",
            url,
            memory_bytes=memory_bytes,
            niceness=RESTORE_NICENESS,
            pools=pools,
            scratch=data / RESTORER_SCRATCH,
        )
        self.restorer = WorkerRestorer(self._reader, data / SCRATCH)
        self._url = url.partition("?")[0]
        self._converter = Worker(
            "tables", url, memory_bytes=memory_bytes, pools=pools, scratch=data / CONVERTER_SCRATCH
        )
        self._broker: Broker | None = None
        self._whole: WholeTopics | None = None
        self._topic_config: Callable[[TopicImage], TopicConfig] | None = None
        self._catalog: Catalog | None = None
        self._restructuring: Restructuring | None = None
        self._builds: TableBuilds | None = None

    def attach(
        self,
        broker: Broker,
        whole: WholeTopics,
        topic_config: Callable[[TopicImage], TopicConfig],
        storage: Logs,
        session_id: int,
        lease: int,
    ) -> Restructuring:
        """Once there are partitions. What is returned is to be run."""
        self._broker, self._whole, self._topic_config = broker, whole, topic_config
        columns = ColumnStore(broker.metadata)
        self._restructuring = Restructuring(self._opened, storage, self._converter, broker.clock, columns)
        me = Asker(broker.node_id, session_id, lease)
        self._builds = TableBuilds(
            broker.metadata, lambda: broker.image, self._build_own, me, broker.clock, broker.supervisor
        )
        self._catalog = Catalog(
            self._reader,  # metadata are what a reader waits for: not behind a conversion
            storage.discard,
            broker.clock,
            columns,
            lambda topic_id: topic_id in broker.image.topics_by_id,
            root=self._url,
            session_id=session_id,
            keep_ms=broker.config.bytemq_table_grace_ms,
        )
        return self._restructuring

    @property
    def url(self) -> str:
        """Of the storage; the names of files follow it."""
        return self._url

    @property
    def restructuring(self) -> Restructuring:
        assert self._restructuring is not None, "attached"
        return self._restructuring

    @property
    def _node(self) -> Broker:
        assert self._broker is not None, "attached"
        return self._broker

    async def run_untouched(self) -> None:
        """For ever: history that nobody has asked for since the start is opened when it is old enough for a table."""
        clock = self._node.clock
        while True:
            await clock.sleep(UNTOUCHED_INTERVAL_S)
            await self._node.partitions.open_untouched(partial(_has_history, clock.wall_ms()))

    async def partitions_of(self, topic: str) -> list[TablePartition]:
        """All partitions of a topic, with all that is committed now. Raises KafkaError for a topic that there is not,
        Invalid for one that is never a table, Unavailable.
        """
        if topic in INTERNAL_TOPICS:
            raise Invalid(f"{topic} is internal and never a table")
        assert self._whole is not None
        found = (await self._whole.at_hand([topic])).get(topic)
        if found is None:
            raise KafkaError(
                ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
                f"there is no topic {topic}; `bytemq topic list` shows what there is",
            )
        config = self._config_of(topic)
        return [OpenedPartition(one, config) for one in found]

    async def build(self, topic: str) -> Built:
        """All that is committed is in Parquet when this returns. Raises KafkaError for a topic that there is not,
        Invalid for one that is no table, BytemqError.
        """
        if (partitions := await self.partitions_of(topic)) and not partitions[0].settings.enabled:
            raise Invalid(f"{topic} is not to be a table: bytemq.table.enable is false")
        assert self._builds is not None
        conversions, held_back = await self._builds.build(topic)
        infos = [info for one in await self.partitions_of(topic) for info in one.files.manifest.segments]
        tables = [table_file(info) for info in infos if info.kind is FileKind.PARQUET]
        return Built(conversions, sum(table.records for table in tables), held_back)

    async def run_builds(self) -> None:
        """For ever: what other brokers want to be built of what is ours."""
        assert self._builds is not None
        await self._builds.run()

    async def _build_own(self, topic: str, indexes: Sequence[int]) -> Built:
        """Raises Moved, BytemqError."""
        config = self._config_of(topic)
        try:
            partitions = [await self._node.partitions.open(topic, index) for index in indexes]
            built = await self.restructuring.build([OpenedPartition(one, config) for one in partitions])
        except (KafkaError, Fenced, NotFound) as error:
            raise Moved(str(error)) from error
        if any(one.is_closed for one in partitions):  # what was not written behind went with it
            raise Moved("it has moved to another broker meanwhile")
        return built

    def queries(self, limits: SqlLimits) -> Queries:
        assert self._whole is not None
        node = self._node
        signed = None if self._signer is None else SignedUrls(self._signer, node.clock, limits.timeout_s)
        columns = ColumnStore(node.metadata)
        topics = QueriedTopics(self._whole, lambda: node.image, self._formats_of, columns, signed)
        return Queries(topics, self._root, self._data / QUERY_SCRATCH, limits)

    def topics(self) -> list[str]:
        return sorted(name for name in self._node.image.topics if name not in INTERNAL_TOPICS)

    async def iceberg_metadata(self, topic: str) -> IcebergMetadata:
        """Raises KafkaError for a topic that there is not, BytemqError."""
        partitions = await self.partitions_of(topic)
        assert self._catalog is not None
        changed_ms = max((partition.files.rewritten_ms for partition in partitions), default=0)
        topic_id = partitions[0].files.partition.topic_id  # whatever has its name by now
        return await self._catalog.load(topic, topic_id, partitions, changed_ms)

    def on_image_change(self, change: ImageChange) -> None:
        if change.deleted and self._catalog is not None:
            self._catalog.forget(change.topics - self._node.image.topics_by_id.keys())

    async def close(self) -> None:
        await self._converter.close()
        await self.restorer.close()

    def _opened(self) -> Iterator[TablePartition]:
        return (OpenedPartition(one, one.config) for one in self._node.partitions.open_partitions())

    def _config_of(self, topic: str) -> TopicConfig:
        assert self._topic_config is not None
        known = self._node.image.topics.get(topic)
        return self._node.config.topic_config() if known is None else self._topic_config(known)

    def _formats_of(self, topic: str) -> Formats:
        return table_settings(self._config_of(topic), is_internal=False).formats


def _has_history(now_ms: int, topic: str, config: TopicConfig, segments: Sequence[SegmentInfo]) -> bool:
    """Whether something of a log that is not open should be part of its table by now."""
    settings = table_settings(config, is_internal=topic in INTERNAL_TOPICS)
    return settings.enabled and any(
        info.kind is FileKind.SEGMENT and max(info.max_timestamp, info.created_ms) < now_ms - settings.after_ms
        for info in segments
    )
