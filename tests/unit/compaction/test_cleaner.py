"""The cleaner over a partition: what readers see, what happens in between, and what is left in the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bytemq.errors import Unavailable
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.storage.manifests.manifest import FileKind, contradictions
from bytemq.storage.tables.table_file import table_file
from tests.unit.compaction.bench import BenchTable, CleanerBench
from tests.unit.storage.bench import pid


@pytest.fixture(params=["segments", "tables"])
async def either(request: pytest.FixtureRequest) -> AsyncIterator[CleanerBench]:
    """Whatever form the log has when it is cleaned."""
    bench = CleanerBench()
    bench.as_tables = request.param == "tables"
    yield bench
    if bench.storage is not None:
        await bench.close()


@pytest.fixture
async def bench() -> AsyncIterator[CleanerBench]:
    bench = CleanerBench()
    yield bench
    if bench.storage is not None:
        await bench.close()


async def test_cleaning__keeps_the_newest_value_of_each_key_once(either: CleanerBench) -> None:
    bench = either
    partition = await bench.open()
    await bench.fill(60)
    assert await bench.clean()
    records = await bench.consume()
    dirty_from = partition.files.manifest.first_dirty_offset
    assert len({record.key for record in records if record.offset < dirty_from}) == len(
        [record for record in records if record.offset < dirty_from]
    )
    assert await bench.newest() == bench.expected
    assert dirty_from > 40
    await bench.quiet()
    assert bench.unreferenced() == []
    assert not await bench.clean(), "nothing is dirty but the newest segment"


async def test_cleaned_partition__is_the_same_after_a_restart(either: CleanerBench) -> None:
    bench = either
    await bench.open()
    await bench.fill(60)
    await bench.clean()
    before = await bench.consume()
    await bench.kill(power_cut=True)
    partition = await bench.open()
    assert await bench.consume() == before
    assert partition.end_offset == 60
    await bench.fill(60)
    assert await bench.clean()
    assert await bench.newest() == bench.expected


async def test_newest_segment__is_never_cleaned(bench: CleanerBench) -> None:
    bench.segment_bytes = 100_000
    partition = await bench.open()
    await bench.fill(30)
    assert not await bench.cleaner.clean_filthiest()
    await bench.storage.checkpoint()
    assert not await bench.cleaner.clean_filthiest()
    assert len(partition.segments) == 1
    assert bench.worker.jobs == []


async def test_open_segment__that_goes_on_is_not_written_behind_for_nothing(bench: CleanerBench) -> None:
    bench.segment_bytes = 100_000
    partition = await bench.open()
    await bench.fill(5)
    await bench.storage.checkpoint()
    await bench.fill(5)
    assert not await bench.cleaner.clean_filthiest()
    assert len(partition.files.wal) > 0


async def test_open_transaction__keeps_everything_from_its_first_record(either: CleanerBench) -> None:
    bench = either
    partition = await bench.open()
    await bench.fill(20)
    producer: dict[str, Any] = {"producer_id": 7, "producer_epoch": 0, "base_sequence": 0, "transactional": True}
    first = await bench.put((b"0", b"in the transaction"), **producer)
    await bench.fill(20)
    await bench.clean()
    assert 0 < partition.files.manifest.first_dirty_offset <= first
    assert [r.offset for r in await bench.consume() if r.offset >= first] == list(range(first, partition.end_offset))
    await bench.end_transaction(7, committed=True)
    await bench.fill(10)
    await bench.clean()
    assert partition.files.manifest.first_dirty_offset > first


async def test_aborted_transaction__is_never_read_whatever_is_left_of_it(either: CleanerBench) -> None:
    bench = either
    partition = await bench.open()
    for round_ in range(4):
        sequence: dict[str, Any] = {"producer_id": 7, "producer_epoch": 0, "transactional": True}
        await bench.put((b"a", b"aborted"), base_sequence=2 * round_, **sequence)
        await bench.end_transaction(7, committed=False)
        await bench.put((b"b", b"committed"), base_sequence=2 * round_ + 1, **sequence)
        await bench.end_transaction(7, committed=True)
        await bench.fill(12)
        for _ in range(3):  # data goes, then the marker gets a horizon, then it goes
            bench.clock.advance(1.0)
            await bench.clean()
            assert {r.value for r in await bench.consume(isolation=1) if r.key in (b"a", b"b")} == {b"committed"}
    assert partition.files.manifest.first_dirty_offset > 40
    first_dirty = partition.files.manifest.first_dirty_offset
    assert [one for one in partition.aborted_transactions if one.last_offset < first_dirty] == []
    await bench.kill()
    await bench.open()
    assert {r.value for r in await bench.consume(isolation=1) if r.key in (b"a", b"b")} == {b"committed"}


async def test_duplicate__is_recognised_after_cleaning_and_restart_and_delete_records(either: CleanerBench) -> None:
    bench = either
    await bench.open(cleanup_policy="compact,delete")

    def idempotent(sequence: int) -> bytearray:
        record = Record(b"%d" % (sequence % 3), b"%04d" % sequence * 30)
        producer: dict[str, Any] = {"producer_id": 9, "producer_epoch": 0, "base_sequence": sequence}
        return build_batch([record], timestamp_ms=bench.clock.wall_ms(), **producer)

    sent = [idempotent(sequence) for sequence in range(30)]
    for data in sent:
        assert (await bench.send(data, bench.partition)).error is ErrorCode.NONE
    await bench.fill(30)
    assert await bench.clean()
    for step in ("cleaned", "restarted", "deleted", "restarted"):
        if step == "restarted":
            await bench.kill(power_cut=True)
            await bench.open(cleanup_policy="compact,delete")
        if step == "deleted":
            await bench.partition.delete_records(bench.partition.high_watermark)
        for sequence in range(25, 30):
            result = await bench.send(sent[sequence], bench.partition)
            assert (result.error, result.base_offset) == (ErrorCode.NONE, sequence), step
    assert bench.partition.end_offset == 60


async def test_read_during_the_cleaning__sees_an_older_valid_state_or_the_new_one(either: CleanerBench) -> None:
    bench = either
    await bench.open()
    await bench.fill(60)
    states: list[dict[Any, Any]] = []

    async def look() -> None:
        states.append(await bench.newest())

    bench.worker.before = bench.worker.after = look
    await bench.clean()
    states.append(await bench.newest())
    assert len(states) >= 3
    assert all(state == bench.expected for state in states)


async def test_log_start__that_advances_meanwhile_stays(either: CleanerBench) -> None:
    bench = either
    partition = await bench.open(cleanup_policy="compact,delete")
    await bench.fill(60)

    async def delete() -> None:
        await partition.delete_records(31)

    bench.worker.after = delete
    await bench.clean()
    assert partition.log_start_offset == 31
    assert contradictions(partition.files.manifest) == []
    assert await bench.newest() == bench.expected
    await bench.quiet()
    assert bench.unreferenced() == []


async def test_topic_deleted_meanwhile__leaves_nothing_in_the_store(either: CleanerBench) -> None:
    bench = either
    await bench.open()
    await bench.fill(60)

    async def delete() -> None:
        await bench.table.delete(pid(1))

    bench.worker.after = delete
    await bench.clean()
    await bench.quiet()
    assert bench.names("topics/") == []
    assert bench.cleaner.counts.failures == 0


async def test_failed_job__changes_nothing_and_is_tried_again_later(bench: CleanerBench) -> None:
    await bench.open()
    await bench.own(pid(2), "other")
    other = await bench.opened("other")
    await bench.fill(60)
    before = await bench.consume()
    bench.worker.error = Unavailable("the worker process died")
    assert not await bench.cleaner.clean_filthiest()
    await bench.quiet()
    assert (await bench.consume(), bench.unreferenced()) == (before, [])
    assert list(bench.cleaner.counts.failing) == [pid(1)]
    bench.worker.error = None
    for n in range(40):
        await bench.put((b"k", b"%d" % n * 50), partition=other)
    assert await bench.cleaner.clean_filthiest(), "what is wrong with one log does not keep the others dirty"
    assert bench.worker.jobs[-1].directory.startswith("topics/") and bench.cleaner.counts.cleanings == 1
    assert list(bench.cleaner.counts.failing) == [pid(1)], "not before its time"
    bench.clock.advance(10.0)
    assert await bench.cleaner.clean_filthiest()
    assert bench.cleaner.counts.failing == {}
    assert await bench.newest() == bench.expected


async def test_log__that_could_not_be_cleaned_and_is_gone_is_no_trouble_any_more(bench: CleanerBench) -> None:
    await bench.open()
    await bench.fill(60)
    bench.worker.error = Unavailable("the worker process died")
    assert not await bench.cleaner.clean_filthiest()
    assert list(bench.cleaner.counts.failing) == [pid(1)]
    await bench.table.delete(pid(1))
    assert not await bench.cleaner.clean_filthiest()
    assert bench.cleaner.counts.failing == {}


async def test_partition_that_nobody_has_touched__is_opened_when_it_is_dirty(bench: CleanerBench) -> None:
    await bench.open()
    await bench.fill(60)
    await bench.storage.checkpoint()
    await bench.kill()
    await bench.open()
    await bench.table.release(pid(1))
    await bench.own(pid(1), "log")
    assert await bench.cleaner.clean_filthiest()
    bench.partition = await bench.opened("log")
    assert await bench.newest() == bench.expected


@pytest.mark.parametrize("form", ["segments", "tables"])
@pytest.mark.parametrize("end", ["kill", "power cut"])
async def test_node_that_dies_at_any_step_of_a_cleaning__has_the_log_and_no_garbage(end: str, form: str) -> None:
    step, done = 0, False
    while not done:
        bench = CleanerBench()
        bench.as_tables = form == "tables"
        await bench.open()
        await bench.fill(25)
        before = await bench.newest()
        bench.power.steps_left = step
        cleaning = asyncio.ensure_future(bench.clean())
        gone = asyncio.ensure_future(bench.power.gone.wait())
        await asyncio.wait([cleaning, gone], return_when=asyncio.FIRST_COMPLETED)
        done = not bench.power.gone.is_set()
        bench.power.steps_left = None
        bench.power.gone.clear()
        await bench.kill(power_cut=end == "power cut")
        partition = await bench.open()
        assert await bench.newest() == before == bench.expected
        assert contradictions(partition.files.manifest) == []
        await bench.quiet()
        await bench.quiet()
        assert bench.unreferenced() == [], step
        await bench.fill(25)
        await bench.clean()
        assert await bench.newest() == bench.expected
        await bench.close()
        step += 6 if bench.as_tables else 3
    assert step > 30


async def test_table__is_replaced_by_a_table_for_everybody_in_one_step(bench: CleanerBench) -> None:
    partition = await bench.open()
    await bench.fill(30)
    assert await bench.convert()
    [before] = partition.files.manifest.segments
    assert (before.kind, before.is_cleaned, table_file(before).records) == (FileKind.PARQUET, False, 30)
    assert await bench.cleaner.clean_filthiest()
    [after] = partition.files.manifest.segments
    assert (after.kind, after.is_cleaned, table_file(after).records) == (FileKind.PARQUET, True, 5)
    assert (after.base_offset, after.last_offset) == (0, 29)
    assert partition.files.rewritten_ms == bench.clock.wall_ms()
    await bench.fill(3)
    assert [record.offset for record in await bench.consume()] == [25, 26, 27, 28, 29, 30, 31, 32]
    await bench.quiet()
    assert bench.unreferenced() == []


async def test_cleaned_segments__become_a_table_and_stay_clean(bench: CleanerBench) -> None:
    partition = await bench.open()
    await bench.fill(60)
    await bench.cleaner.clean_filthiest()
    before, dirty_from = await bench.consume(), partition.files.manifest.first_dirty_offset
    await bench.convert()
    assert {info.kind for info in partition.files.manifest.segments} == {FileKind.PARQUET}
    assert partition.files.manifest.first_dirty_offset == dirty_from
    assert await bench.consume() == before


async def test_reader_of_a_table_that_is_replaced__finishes_before_its_aborted_records_are_forgotten(
    bench: CleanerBench,
) -> None:
    partition = await bench.open()
    await bench.put((b"a", b"aborted"), producer_id=7, producer_epoch=0, base_sequence=0, transactional=True)
    await bench.end_transaction(7, committed=False)
    await bench.fill(20)
    await bench.convert()
    await bench.consume()
    segment, *_ = partition.files.opened(partition.files.manifest.segments)
    segment.pin()
    cleaning = asyncio.ensure_future(bench.cleaner.clean_filthiest())
    await bench.quiet()
    assert partition.files.manifest.first_dirty_offset > 0, "it is published"
    assert not cleaning.done() and len(partition.aborted_transactions) == 1
    segment.unpin()
    await cleaning
    assert len(partition.aborted_transactions) == 0


async def test_cleaner_and_converter_at_the_same_time__do_nothing_twice(bench: CleanerBench) -> None:
    partition = await bench.open()
    await bench.fill(60)
    await asyncio.gather(bench.cleaner.clean_filthiest(), bench.convert())
    await asyncio.gather(bench.convert(), bench.cleaner.clean_filthiest())
    assert (bench.cleaner.counts.failures, bench.restructuring.failures) == (0, 0)
    assert contradictions(partition.files.manifest) == []
    assert await bench.newest() == bench.expected


async def test_two_workers_on_one_table__are_harmless(bench: CleanerBench) -> None:
    """As when a broker that was taken for dead wakes up: the lock of a process does not help there."""
    partition = await bench.open()
    await bench.fill(60)
    await bench.convert()

    async def clean_as_well() -> None:
        bench.worker.after = None
        partition.files._rewriting = asyncio.Lock()
        assert await bench.cleaner.clean_filthiest()

    bench.worker.after = clean_as_well
    assert not await bench.cleaner.clean_filthiest()
    assert (bench.cleaner.counts.failures, bench.cleaner.counts.cleanings) == (1, 1)
    assert await bench.newest() == bench.expected
    await bench.quiet()
    assert bench.unreferenced() == []


async def test_tables__are_made_and_cleaned_at_the_level_that_the_topic_asks_for(
    bench: CleanerBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BenchTable, "target_file_bytes", 1000)
    bench.as_tables = True
    await bench.open(bytemq_table_codec_level="9")
    await bench.fill(60)
    assert await bench.clean()
    converted = [job.codec_level for job in bench.worker.jobs if hasattr(job, "names")]
    cleaned = [job.tables.codec_level for job in bench.worker.jobs if hasattr(job, "tables")]
    assert set(converted) == set(cleaned) == {9}
