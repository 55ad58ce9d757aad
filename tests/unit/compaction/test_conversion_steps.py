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
from bytemq.compaction.restructuring import PASS_S, rest_s
from bytemq.compaction.table_planner import FAST_LEVEL
from bytemq.compaction.table_times import DELAYS_LEFT, FIRST_DELAY_S, SEALED_SHARE, LogTimes, due_s
from bytemq.errors import Unavailable
from bytemq.metadata import keys
from bytemq.metadata.store import Put
from bytemq.metadata.values import TopicValue, encode_topic
from bytemq.protocol.records.batch import split_batches
from bytemq.query.cuts import PartitionCut, cut_of
from bytemq.query.relations import LogPart, Relations
from bytemq.storage.manifests.manifest import FileKind, contradictions
from bytemq.storage.tables.published_columns import ColumnStore
from bytemq.storage.tables.table_columns import Formats, Seen, TableColumns, grown
from bytemq.storage.tables.table_file import CODEC_LEVEL
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

    async def write_some(self, count: int) -> None:
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

    def _numbered(self, producer_id: int, records: int) -> dict[str, Any]:
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
            await bench.write_some(8)
            assert await bench.convert() == 1
        await bench.write_some(8)
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
    await bench.write_some(24)
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
    bench = await bench_of_a_minute(monkeypatch)
    await pass_seconds(bench, phase_s)
    await bench.write_some(1)
    assert 25 <= await seconds_until_converted(bench) <= 60 - DELAYS_LEFT * FIRST_DELAY_S
    await bench.close()


async def test_record__of_a_log_that_is_written_all_the_time_is_not_late(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = await bench_of_a_minute(monkeypatch)
    came_s: list[int] = []
    late_s: list[int] = []
    for second in range(300):
        if second % 29 < 20:
            await bench.write_some(1)
            came_s += [second] * (bench.partition.files.end_offset - len(came_s))
        done = _converted_offset(bench)
        await bench.restructuring.pass_over_all()
        late_s += [second - came for came in came_s[done : _converted_offset(bench)]]
        bench.clock.advance(1)
    assert bench.restructuring.conversions > 5
    assert max(late_s) <= due_s(60), "all of the time is left that is to be left"
    assert min(late_s) >= 60 * SEALED_SHARE, "consumers that are a bit late read segments"
    await bench.close()


async def test_record__of_a_log_that_waits_for_more_is_no_younger_when_it_goes_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CONFIGS, "bytemq_table_min_bytes", "40000")
    bench = await bench_of_a_minute(monkeypatch)
    came_s: list[int] = []
    second = 0
    while not (done := _converted_offset(bench)):
        if second % 3 == 0:
            await bench.write_some(1)
            came_s += [second] * (bench.partition.files.end_offset - len(came_s))
        await bench.restructuring.pass_over_all()
        bench.clock.advance(1)
        second += 1
    assert second > 10 * 60, "of little there is no file"
    assert second - came_s[done - 1] >= 60 * SEALED_SHARE, "consumers that are a bit late read segments"
    await bench.close()


def test_times__of_a_log_that_cannot_be_converted_take_no_more_memory() -> None:
    times = LogTimes()
    for second in range(0, 10_000, 20):
        times.saw(second + 1, second - 1)
        times.was_sealed(second + 1)
        times.due_offset(second, second - 1, 60.0, 0.0)
        times.waits_for_more(second)
    assert len(times._due) <= 5 and times.by(60.0) == 59.0
    assert times.due_offset(second + 30, second, 60.0, 0.0) == second + 1 - 20, "what came since has its own time"


async def test_conversions__begin_earlier_where_they_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = await bench_of_a_minute(monkeypatch)

    def slow(seconds: float) -> None:
        async def before() -> None:
            bench.clock.advance(seconds)

        bench.worker.before = before

    waited_s = []
    for seconds in (0.0,) * 10 + (16.0, 0.0):
        slow(seconds)
        await bench.write_some(1)
        waited_s.append(await seconds_until_converted(bench))
    assert 25 <= waited_s[0] <= 30, "nothing is known of how long they take"
    assert 40 <= waited_s[9] <= 45
    assert 15 <= waited_s[11] <= 60 - DELAYS_LEFT * 16
    await bench.close()


@pytest.mark.parametrize(("failing_s", "level"), [(0, CODEC_LEVEL), (10, CODEC_LEVEL), (40, FAST_LEVEL)])
async def test_conversions__are_made_fast_where_they_are_late(
    failing_s: int, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BenchTable, "target_file_bytes", 1000)
    bench = await bench_of_a_minute(monkeypatch)
    first_s: list[float] = []

    async def before() -> None:
        first_s.append(bench.clock.monotonic())
        if first_s[-1] < first_s[0] + failing_s:
            raise Unavailable("out of memory")

    bench.worker.before = before
    await bench.write_some(6)
    await seconds_until_converted(bench)
    assert bench.worker.jobs[-1].codec_level == level
    await bench.close()


async def test_conversions__are_as_small_as_asked_for_though_they_had_to_wait_for_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(BenchTable, "target_file_bytes", 1000)
    bench = await bench_of_a_minute(monkeypatch)
    await bench.write_some(6)
    await bench.put((b"k", b"{}"), transactional=True, producer_id=1, producer_epoch=0, base_sequence=0)
    await pass_seconds(bench, 600)
    await bench.end_transaction(1, committed=True)
    await seconds_until_converted(bench)
    assert bench.worker.jobs[-1].codec_level == CODEC_LEVEL
    await bench.close()


async def test_conversions__begin_no_earlier_because_a_transaction_was_open_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = await bench_of_a_minute(monkeypatch)
    for _ in range(10):
        await bench.write_some(1)
        await seconds_until_converted(bench)
    await bench.put((b"k", b"{}"), transactional=True, producer_id=1, producer_epoch=0, base_sequence=0)
    await pass_seconds(bench, 600)
    await bench.end_transaction(1, committed=True)
    assert await seconds_until_converted(bench) == 0
    await bench.write_some(1)
    assert await seconds_until_converted(bench) >= 40
    await bench.close()


async def test_pass__begins_with_what_is_needed_first_and_ends_before_it_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(BenchTable, "after_ms", 3_600_000)
    bench = TableBench()
    await bench.begin()
    for _ in range(40):
        await bench.write_some(1)
    monkeypatch.setattr(bench, "configs", bench.configs | {"bytemq.table.target.file.bytes": "1048576"})
    await bench.own(pid(2), "urgent")
    urgent = await bench.table.open("urgent", 0)
    made: list[str] = []

    async def before() -> None:
        made.append(bench.worker.jobs[-1].names.parquet.split("/")[1])
        bench.clock.advance(PASS_S + 1)

    bench.worker.before = before
    await bench.restructuring.pass_over_all()
    bench.clock.advance(3_600)
    monkeypatch.setattr(BenchTable, "after_ms", property(lambda self: 60_000 if self.topic == "urgent" else 3_600_000))
    await bench.put((b"k", b"{}"), partition=urgent)
    while not made or made[-1] != "urgent":
        assert len(made) < 20
        await bench.restructuring.pass_over_all()
        bench.clock.advance(1)
    assert bench.partition.files.manifest.segments[-1].kind is FileKind.SEGMENT, "the backlog is not done"
    await bench.close()


async def test_pass__goes_on_with_others_where_one_log_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BenchTable, "after_ms", 0)
    bench = TableBench()
    await bench.begin()
    await bench.write_some(1)
    await bench.own(pid(2), "other")
    other = await bench.table.open("other", 0)

    async def before() -> None:
        if bench.worker.jobs[-1].names.parquet.split("/")[1] == "log":
            raise Unavailable("out of memory")

    bench.worker.before = before
    assert not await bench.convert()
    await bench.put((b"k", b"{}"), partition=other)
    await bench.convert()
    assert await bench.convert() or other.files.manifest.segments[-1].kind is FileKind.PARQUET
    bench.worker.before = None
    assert await bench.convert()
    assert _converted_offset(bench) == bench.partition.files.end_offset
    await bench.close()


async def test_pass__comes_back_to_a_log_that_failed_once_though_another_fails_always(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(BenchTable, "after_ms", 0)
    bench = TableBench()
    await bench.begin()
    await bench.write_some(1)
    await bench.own(pid(2), "other")
    other = await bench.table.open("other", 0)
    await bench.put((b"k", b"{}"), partition=other)
    failing = {"log", "other"}

    async def before() -> None:
        if bench.worker.jobs[-1].names.parquet.split("/")[1] in failing:
            raise Unavailable("out of memory")

    bench.worker.before = before
    for _ in range(3):
        assert not await bench.convert()
    failing.remove("other")
    assert 1 in [await bench.convert() for _ in range(2)]
    assert other.files.manifest.segments[-1].kind is FileKind.PARQUET
    await bench.close()


def test_rest__is_as_long_as_the_work_but_keeps_nobody_waiting_for_long() -> None:
    assert [rest_s(pass_s) for pass_s in (0.5, 11.4)] == [0.5, PASS_S]


def test_due__leaves_time_for_the_conversion() -> None:
    assert [due_s(after_s) for after_s in (4, 60, 100, 3600)] == [3, 45, 85, 3150]
    assert [due_s(60, delay_s) for delay_s in (5, 12, 100)] == [45, 42, 30]


def test_due__is_what_the_topic_says_now_also_of_what_is_sealed() -> None:
    times = LogTimes()
    times.saw(5, 0.0)
    times.was_sealed(5)
    assert times.due_offset(100.0, 99.0, 3600.0, 0.0) == 0 and times.by(3600.0) == 3600.0
    assert times.due_offset(101.0, 100.0, 60.0, 0.0) == 5 and times.by(60.0) == 60.0


async def test_log_that_is_written_all_the_time__becomes_few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = await bench_of_a_minute(monkeypatch)
    for _ in range(100):
        await bench.write_some(1)
        await pass_seconds(bench, 3)
    at_first = 3
    assert bench.restructuring.conversions <= 300 / (due_s(60) - 60 * SEALED_SHARE) + at_first
    await bench.close()


async def bench_of_a_minute(monkeypatch: pytest.MonkeyPatch) -> TableBench:
    monkeypatch.setattr(BenchTable, "after_ms", 60_000)
    bench = TableBench()
    await bench.begin()
    return bench


async def seconds_until_converted(bench: TableBench) -> float:
    """Until it was begun, seen each second; the conversion itself takes what `before` of the worker says."""
    began = bench.clock.monotonic()
    while True:
        at = bench.clock.monotonic()
        if await bench.restructuring.pass_over_all():
            return at - began
        bench.clock.advance(1)


def _converted_offset(bench: TableBench) -> int:
    tables = [info for info in bench.partition.files.manifest.segments if info.kind is FileKind.PARQUET]
    return max((info.last_offset + 1 for info in tables), default=0)


async def pass_seconds(bench: TableBench, seconds: int) -> None:
    for _ in range(seconds):
        await bench.restructuring.pass_over_all()
        bench.clock.advance(1)
