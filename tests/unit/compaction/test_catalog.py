from __future__ import annotations

from typing import Any, cast

from bytemq.compaction.catalog import Catalog
from bytemq.compaction.iceberg_jobs import IcebergMetadata, WriteIceberg
from bytemq.compaction.worker import Worker
from bytemq.storage.tables.published_columns import ColumnStore, PublishedColumns
from bytemq.storage.tables.table_columns import TableColumns
from bytemq.types import TopicId
from tests.support.metadata import topic_id
from tests.support.virtual_time import VirtualClock

T1 = topic_id(1)


class Bench:
    """A catalog whose worker makes one object for each snapshot."""

    def __init__(self) -> None:
        self.topics = {T1}
        self.left: set[str] = set()
        worker, columns = cast(Worker, self), cast(ColumnStore, self)
        clock = VirtualClock()
        self.catalog = Catalog(
            worker, self.discard, clock, columns, self.topics.__contains__, root="s3://b", session_id=7, keep_ms=0
        )

    async def run(self, job: WriteIceberg, created: list[str]) -> IcebergMetadata:
        name = f"{job.metadata_folder}{job.unique}.metadata.json"
        created.append(name)
        self.left.add(name)
        return IcebergMetadata(name, "{}")

    async def get(self, of: TopicId) -> PublishedColumns:
        return PublishedColumns(TableColumns(), 0)

    def discard(self, names: Any) -> None:
        self.left.difference_update(names)

    async def load(self) -> IcebergMetadata:
        return await self.catalog.load("t", T1, [])


async def test_catalog__lets_go_what_it_has_made_of_a_topic_that_is_deleted() -> None:
    bench = Bench()
    made = await bench.load()
    assert await bench.load() == made and bench.left == {made.location}
    bench.catalog.forget([topic_id(2)])
    assert bench.left == {made.location}
    bench.catalog.forget([T1])
    assert bench.left == set()


async def test_catalog__lets_go_what_was_made_while_the_topic_was_deleted() -> None:
    bench = Bench()
    bench.topics.clear()
    bench.catalog.forget([T1])
    await bench.load()
    assert bench.left == set()
