"""Records that expire between the cut and the moment when the query's process reads them. The process is a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from uuid import UUID

import pytest

from bytemq.errors import Unavailable
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.query import process
from bytemq.query.cuts import Overtaken, PartitionCut, TopicCut
from bytemq.query.queries import Queries, Query, SqlLimits
from bytemq.storage.tables.table_columns import Formats, Seen, TableColumns
from bytemq.types import TopicId

END = 10
LIMITS = SqlLimits(1 << 28, 60, 1_000, 1, 1 << 28, 1)


class ExpiringTopic:
    """Two ranges of one partition. While it has several, each read of the second finds a later start of the log."""

    def __init__(self, *log_starts: int) -> None:
        self._log_starts = [0, *log_starts]
        self.cuts = 0

    async def cut(self, names: Sequence[str]) -> dict[str, TopicCut]:
        self.cuts += 1
        start, middle = self._log_starts[0], END - 2
        cut = PartitionCut(0, start, END, [], [(start, middle), (middle, END)], [])
        return {name: TopicCut(TopicId(UUID(int=1).bytes), [cut]) for name in names}

    async def urls(self, files: Sequence[str]) -> Sequence[str]:
        raise AssertionError("there are no files")

    async def columns(self, name: str, topic_id: TopicId, seen: Mapping[str, Seen]) -> tuple[TableColumns, Formats]:
        return TableColumns(), Formats()

    async def read(
        self, name: str, topic_id: TopicId, partition: int, offset: int, end: int
    ) -> tuple[Sequence[bytes | memoryview], int]:
        if offset >= END - 2 and len(self._log_starts) > 1:
            self._log_starts.pop(0)
            raise Overtaken("records of t expire faster than the query reads them; try again")
        records = [Record(None, b"%d" % number) for number in range(offset, end)]
        return [bytes(build_batch(records, base_offset=offset))], end


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[object]:
    made: list[Queries] = []

    async def rows(topic: ExpiringTopic) -> list[int]:
        made.append(Queries(topic, str(tmp_path), tmp_path / "scratch", LIMITS))
        async with made[-1].run(Query('select "offset" from t order by 1', "csv")) as result:
            text = b"".join([part async for part in result.parts]).decode()
        return [int(line) for line in text.split()[1:]]

    yield rows
    for queries in made:
        await queries.close()


async def test_query__that_is_overtaken_shows_one_moment(run) -> None:  # type: ignore[no-untyped-def]
    """Not what it had read before with a hole behind it."""
    topic = ExpiringTopic(3, 5)
    assert await run(topic) == [5, 6, 7, 8, 9]
    assert topic.cuts == 3


async def test_query__that_is_overtaken_each_time_says_so(run) -> None:  # type: ignore[no-untyped-def]
    topic = ExpiringTopic(*range(1, process.CUTS + 1))
    with pytest.raises(Unavailable, match="expire faster than the query reads them"):
        await run(topic)
    assert topic.cuts == process.CUTS
