"""A broker that dies at any step of a conversion, a merge, a change of columns: the topic reads the same for all."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bytemq.compaction import table_planner
from bytemq.compaction.restructuring import ALONG_SHARE, due_s
from bytemq.metadata import keys
from bytemq.metadata.store import Put
from bytemq.metadata.values import TopicValue, encode_topic
from bytemq.protocol.records.batch import split_batches
from bytemq.query.cuts import PartitionCut, cut_of
from bytemq.query.relations import LogPart, Relations
from bytemq.storage.manifests.manifest import FileKind, contradictions
from bytemq.storage.tables.published_columns import ColumnStore
from bytemq.storage.tables.table_columns import Formats, Seen, TableColumns, grown
from tests.unit.compaction.bench import BenchTable, CleanerBench
from tests.unit.storage.bench import pid
from tests.unit.storage.parquet.shapes import identities

STRIDE = int(os.environ.get("BYTEMQ_CRASH_STRIDE", "9"))
"""Every so many steps the broker dies; 1 takes minutes, and was run."""
CONFIGS = {"cleanup_policy": "delete", "bytemq_table_value_format": "json"}
SHAPES = (
    lambda n: {"n": n},
    lambda n: {"n": n, "late": {"x": n}},
    lambda n: {"n": f"text {n}", "Late": True},
    lambda n: {"n": n + 0.5, "late": {"x": 1 << 60, "y": [n]}},
)
"""New fields, at any depth; a field that changes its type; one whose name differs in case only."""
Rows = list[dict[str, Any]]


class TableBench(CleanerBench):
    """Documents in all of the ways in which a producer may write them."""

    def __init__(self) -> None:
        super().__init__()
        self.committed: list[bytes] = []
        self.made = 0
        self._sequences: Counter[int] = Counter()

    async def begin(self) -> None:
        topic = TopicValue(pid(1).topic_id, 1, 1, {})
        await self.metadata.txn([], [Put(keys.topic("log"), encode_topic(topic))])
        await self.open(**CONFIGS)

    async def write(self, count: int) -> None:
        for _ in range(count):
            value = json.dumps(SHAPES[self.made // 6 % len(SHAPES)](self.made)).encode()
            match self.made % 6:
                case 0 | 1:
                    await self.put((b"k", value), compression=self.made % 5)
                case 2:
                    await self.put((b"k", value), **self._numbered(9, 1))
                case 3:
                    await self.put((b"k", value), (b"k", b"not json"), transactional=True, **self._numbered(7, 2))
                    await self.end_transaction(7, committed=False)
                case _:
                    await self.put((b"k", value), transactional=True, **self._numbered(7, 1))
                    await self.end_transaction(7, committed=True)
            if self.made % 6 != 3:
                self.committed.append(value)
            self.made += 1

    def _numbered(self, producer_id: int, records: int) -> dict[str, int]:
        sequence = self._sequences[producer_id]
        self._sequences[producer_id] += records
        return {"producer_id": producer_id, "producer_epoch": 0, "base_sequence": sequence}

    async def by_kafka(self) -> list[tuple[object, ...]]:
        """Every field of every record, markers and aborted ones too; batches may begin elsewhere."""
        partition, offset = self.partition, 0
        found: list[tuple[object, ...]] = []
        while offset < partition.high_watermark:
            fetched = await partition.read(offset, 3000, isolation=0)
            assert fetched.buffers, (offset, fetched)
            batches = split_batches(memoryview(b"".join(bytes(one) for one in fetched.buffers)))
            found += (one for one in identities(batches) if not isinstance(one[8], int) or one[8] >= offset)
            offset = batches[-1].next_offset
        return found

    async def by_sql(self) -> Rows:
        """With the columns that a query would give the topic."""
        partition = self.partition
        cut = cut_of(
            partition.files,
            partition.log_start_offset,
            partition.last_stable_offset,
            partition.aborted_transactions,
        )
        columns = ColumnStore(self.metadata)
        with TemporaryDirectory() as name:
            source = _Source(Path(name), (await columns.get(pid(1).topic_id)).columns)
            await source.load(self, cut)
            connection = duckdb.connect()
            Relations(source, Path(name), 1 << 30).add(connection, "t", [cut])[1]()
            found: pa.Table = connection.sql('select * from t order by "offset"').to_arrow_table()
            await columns.grow("log", pid(1).topic_id, source.seen)
        return found.to_pylist()

    async def by_iceberg(self) -> Rows:
        """What the files have that a snapshot would name."""
        rows: Rows = []
        for info in self.partition.files.manifest.segments:
            if info.kind is FileKind.PARQUET:
                rows += pq.read_table(pa.BufferReader(await self.store.read(info.name))).to_pylist()
        return rows


class _Source:
    """Implements `relations.Source`, of what was loaded."""

    def __init__(self, folder: Path, columns: TableColumns) -> None:
        self._folder = folder
        self._columns = columns
        self._parts: dict[int, LogPart] = {}
        self.seen: dict[str, Seen] = {}

    async def load(self, bench: TableBench, cut: PartitionCut) -> None:
        files = {self.path(file.name): await bench.store.read(file.name) for file in cut.files}
        for path, content in files.items():
            Path(path).write_bytes(content)  # noqa: ASYNC240  # nobody waits
        for first, end in cut.ranges:
            offset = first
            while offset < end:
                fetched = await bench.partition.read(offset, 3000, isolation=1)
                data = memoryview(b"".join(bytes(one) for one in fetched.buffers))
                after = split_batches(data)[-1].next_offset if data else end
                self._parts[offset] = LogPart(data, after)
                offset = after

    def path(self, name: str) -> str:
        return str(self._folder / name.replace("/", "_"))

    def read(self, topic: str, partition: int, offset: int, end_offset: int) -> LogPart:
        return self._parts[offset]

    def columns(self, topic: str, seen: Mapping[str, Seen]) -> tuple[TableColumns, Formats]:
        self.seen.update(seen)
        self._columns = grown(self._columns, seen)
        return self._columns, Formats("json")


async def check(bench: TableBench, before: Sequence[tuple[object, ...]]) -> None:
    assert await bench.by_kafka() == before
    sql, iceberg = await bench.by_sql(), await bench.by_iceberg()
    assert [row["value"] for row in sql] == bench.committed
    assert sorted({row["offset"] for row in sql}) == [row["offset"] for row in sql]
    by_offset = {row["offset"]: row for row in sql}
    assert len({row["offset"] for row in iceberg}) == len(iceberg)
    for row in iceberg:  # a file that was made before a column came does not have it
        assert _is_part(row, by_offset[row["offset"]])
    for row in sql:
        document = json.loads(row["value"])
        shown = [row.get(name) for name in ("n", "n_string", "n_double") if row.get(name) is not None]
        assert shown == [document["n"]]


def _is_part(old: Any, new: Any) -> bool:
    if isinstance(old, dict) and isinstance(new, dict):
        return all(_is_part(value, new.get(name)) for name, value in old.items())
    return bool(old == new)


@pytest.mark.parametrize("end", ["kill", "power cut"])
async def test_broker_that_dies_at_any_step_of_conversion_merge_and_new_columns__has_the_topic_and_no_garbage(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files are there already; a pass converts what follows, with columns that nobody had seen, and merges all."""
    monkeypatch.setattr(table_planner, "TIER_RATIO", 3)
    step, done, outcomes = 0, False, set()
    while not done:
        bench = TableBench()
        await bench.begin()
        for _ in range(2):
            await bench.write(8)
            assert await bench.convert() == 1
        await bench.write(8)
        before = await bench.by_kafka()
        bench.power.steps_left = step
        converting = asyncio.ensure_future(bench.convert())
        gone = asyncio.ensure_future(bench.power.gone.wait())
        await asyncio.wait([converting, gone], return_when=asyncio.FIRST_COMPLETED)
        done = not bench.power.gone.is_set()
        assert not done or converting.result() == 2, "it is converted, and merged"
        bench.power.steps_left = None
        bench.power.gone.clear()
        await bench.kill(power_cut=end == "power cut")

        await bench.open(**CONFIGS)
        outcomes.add(len([info for info in bench.partition.files.manifest.segments if info.kind is FileKind.PARQUET]))
        await check(bench, before)
        assert contradictions(bench.partition.files.manifest) == []
        await bench.quiet()
        await bench.quiet()
        assert bench.unreferenced() == [], step
        await bench.convert()
        assert {info.kind for info in bench.partition.files.manifest.segments} == {FileKind.PARQUET}
        await check(bench, before)
        await bench.close()
        step += STRIDE
    assert step > 30 and outcomes == {1, 2, 3}


async def test_two_workers_that_convert_the_same__are_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a broker that was taken for dead wakes up: the lock of a process does not help there."""
    bench = TableBench()
    await bench.begin()
    await bench.write(24)
    before = await bench.by_kafka()

    async def convert_as_well() -> None:
        bench.worker.after = None
        bench.partition.files._rewriting = asyncio.Lock()
        assert await bench.convert()

    bench.worker.after = convert_as_well
    assert not await bench.convert()
    assert (bench.restructuring.failures, bench.restructuring.conversions) == (1, 1)
    await check(bench, before)
    await bench.quiet()
    assert bench.unreferenced() == []
    await bench.close()


@pytest.mark.parametrize("phase_s", [0, 1, 29, 59])
async def test_record__is_in_the_table_when_its_time_is_over_whenever_it_came(
    phase_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BenchTable, "after_ms", 60_000)
    bench = TableBench()
    await bench.begin()
    await pass_seconds(bench, phase_s)
    await bench.write(1)
    waited_s = 0
    while not await bench.restructuring.pass_over_all():
        bench.clock.advance(1)
        waited_s += 1
    assert 30 <= waited_s <= 50, "ten seconds are left for the conversion"
    await bench.close()


def test_due__leaves_time_for_the_conversion() -> None:
    assert [due_s(after_s) for after_s in (4, 60, 100, 3600)] == [3, 45, 85, 3150]


async def test_log_that_is_written_all_the_time__becomes_few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BenchTable, "after_ms", 60_000)
    bench = TableBench()
    await bench.begin()
    for _ in range(100):
        await bench.write(1)
        await pass_seconds(bench, 3)
    assert bench.restructuring.conversions <= 300 / (due_s(60) - 60 * ALONG_SHARE) + 1
    await bench.close()


async def pass_seconds(bench: TableBench, seconds: int) -> None:
    for _ in range(seconds):
        await bench.restructuring.pass_over_all()
        bench.clock.advance(1)
