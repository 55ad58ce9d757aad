"""Bulk is written once: large shares go straight to a segment, and all that can go wrong with that."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bytemq.errors import BytemqError, Corrupt, Full, Unavailable
from bytemq.metadata.data_lock import DataLock
from bytemq.metadata.embedded import EmbeddedStore
from bytemq.runtime.clock import SystemClock
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.checks.dump import dump
from bytemq.storage.checks.verify import verify
from bytemq.storage.log_files import LogFiles
from bytemq.storage.log_storage import LogStorage
from bytemq.storage.manifests.manifest import contradictions
from bytemq.storage.segments.segment_files import BulkSegmentWriter
from bytemq.storage.settings import Durability
from bytemq.storage.stores.local import LocalStore
from bytemq.storage.wal.bulk import BulkFile, BulkFiles
from tests.support.log_workload import until
from tests.support.power_cut_store import MemoryFile
from tests.unit.storage.bench import CONFIG, Bench, batch_at, content, pid

LARGE = b"x" * 1500
BULK = {"bulk_bytes": 1000, "bulk_share_bytes": 1000, "bulk_synced_bytes": 1000, "bulk_segment_bytes": 3000}
BOTH = pytest.mark.parametrize("durability", ["fsync", "page-cache"])


async def filled(bench: Bench, count: int, *, durability: Durability = "fsync", **changes: int) -> LogFiles:
    """A log with one large batch in the write-ahead log, and `count` behind it in a bulk file."""
    await bench.start(durability, **{**BULK, **changes})
    log = await bench.log()
    await bench.write(log, LARGE)  # asks for a file
    for _ in range(20):
        await asyncio.sleep(0)
    for _ in range(count):
        await bench.write(log, LARGE)
    return log


def bulk_files(bench: Bench) -> list[str]:
    return bench.names("-b.log")


@BOTH
async def test_bulk__large_shares_are_written_once(bench: Bench, durability: Durability) -> None:
    log = await filled(bench, 3, durability=durability)
    assert bench.storage is not None
    whole = await content(log)
    [name] = bulk_files(bench)
    written = len(bench.store.content(name))
    assert written == sum(log.wal.sizes[1:]), "the file holds the batches and nothing else"
    assert len(set(log.wal.holders[1:])) == 1, "all in one file"
    assert log.wal.holders[1] != log.wal.files[1], "which is not the write-ahead log's"
    await bench.storage.checkpoint()
    assert name in [segment.name for segment in log.manifest.segments]
    assert contradictions(log.manifest) == []
    assert bench.store.content(name)[:written] == whole[-written:], "not copied, only sealed"
    assert len(bench.store.content(name)) < written + 500, "a footer, not the batches again"
    assert len(log.wal) == 0
    assert await content(log) == whole


@BOTH
async def test_bulk__is_there_after_a_kill(bench: Bench, durability: Durability) -> None:
    log = await filled(bench, 4, durability=durability)
    whole = await content(log)
    await bench.kill()
    await bench.start(durability, **BULK)
    log = await bench.log()
    assert await content(log) == whole
    await bench.write(log, b"more")
    assert bench.storage is not None
    await bench.storage.checkpoint()
    assert (await content(log)).startswith(whole)
    assert bulk_files(bench) == [], "copied by the session that found them, then gone"


async def test_bulk__with_fsync_it_survives_a_power_cut(bench: Bench) -> None:
    log = await filled(bench, 4)
    whole = await content(log)
    await bench.kill(power_cut=True)
    await bench.start("fsync", **BULK)
    assert await content(await bench.log()) == whole


async def test_bulk__little_is_copied_to_the_open_segment(bench: Bench) -> None:
    log = await filled(bench, 1)
    assert bench.storage is not None
    [name] = bulk_files(bench)
    await bench.storage.checkpoint()
    assert [segment.sealed for segment in log.manifest.segments] == [False], "one segment, still open"
    await until_gone(bench, name)


async def until_gone(bench: Bench, name: str) -> None:
    for _ in range(1000):
        if name not in bench.names(""):
            return
        await asyncio.sleep(0)
    raise AssertionError(f"{name} was not deleted")


@pytest.mark.parametrize("error", [Unavailable("broken"), Full("no space")])
async def test_bulk__what_cannot_be_written_there_goes_into_the_write_ahead_log(
    bench: Bench, error: BytemqError
) -> None:
    log = await filled(bench, 1)
    before = await content(log)
    [name] = bulk_files(bench)
    bench.store.fault = lambda operation, of: error if (operation, of) == ("write", name) else None
    data = await bench.write(log, LARGE)
    assert bench.answers[-1][1] is None, "acknowledged all the same"
    assert log.wal.holders[-1] == log.wal.files[-1]
    bench.store.fault = None
    after = await bench.write(log, b"small")
    assert await content(log) == before + data + after
    await bench.kill(power_cut=True)
    await bench.start("fsync", **BULK)
    assert await content(await bench.log()) == before + data + after


async def test_bulk__a_flush_that_fails_everywhere_is_not_found_later(bench: Bench) -> None:
    log = await filled(bench, 1)
    before = await content(log)
    end = log.end_offset
    bench.store.fault = lambda operation, name: Unavailable("broken") if operation in ("write", "sync") else None
    await bench.write(log, LARGE)
    assert isinstance(bench.answers[-1][1], BytemqError)
    assert log.staged_end == log.end_offset == end
    bench.store.fault = None
    await bench.kill()
    await bench.start("fsync", **BULK)
    assert await content(await bench.log()) == before


async def test_bulk__small_shares_end_a_file(bench: Bench) -> None:
    log = await filled(bench, 1)
    for _ in range(12):
        await bench.write(log, b"small")
    assert log.wal.holders[-1] == log.wal.files[-1], "back in the write-ahead log"
    whole = await content(log)
    assert bench.storage is not None
    await bench.storage.checkpoint()
    assert await content(log) == whole


async def test_bulk__full_files_become_segments_in_the_background(bench: Bench) -> None:
    log = await filled(bench, 40, wal_retained_bytes=32 * 1024)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert len(log.manifest.segments) > 1
    assert all(segment.size_bytes <= 8 * 1024 for segment in log.manifest.segments)
    assert contradictions(log.manifest) == []


async def test_bulk__of_a_deleted_log_goes(bench: Bench) -> None:
    log = await filled(bench, 3)
    assert bench.storage is not None
    [name] = bulk_files(bench)
    await bench.storage.delete_log(log.partition)
    await until_gone(bench, name)


async def test_bulk__below_the_log_start_goes(bench: Bench) -> None:
    log = await filled(bench, 3)
    [name] = bulk_files(bench)
    await log.advance_log_start(log.end_offset)
    await until_gone(bench, name)
    await bench.write(log, b"after")
    await bench.stop()
    await bench.start("fsync", **BULK)
    assert b"after" in await content(await bench.log())


async def test_bulk__of_an_earlier_session_below_the_log_start_goes(bench: Bench) -> None:
    await filled(bench, 3)
    [name] = bulk_files(bench)
    await bench.stop()
    await bench.start("fsync", **BULK)
    log = await bench.log()
    await log.advance_log_start(log.end_offset - 1)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert name in bench.names(""), "its last batch is still needed"
    await log.advance_log_start(log.end_offset)
    await until_gone(bench, name)


async def test_bulk__a_missing_file_is_reported_as_a_hole(bench: Bench) -> None:
    log = await filled(bench, 2)
    first = (await log.read(0, 1, 1)).buffers
    await bench.stop()
    [name] = bulk_files(bench)
    await bench.store.delete([name])
    await bench.start("fsync", **BULK)
    log = await bench.log()
    assert (await log.read(0, 1, 1)).buffers == first
    with pytest.raises(Corrupt, match="lost"):
        await log.read(1, 1000, 3)
    assert log.end_offset == 3, "offsets are never given twice"


async def test_bulk__verify_and_dump_follow_references(tmp_path: Path) -> None:
    data = tmp_path / "data"
    clock = SystemClock()
    supervisor = Supervisor(clock, lambda name, error: None)
    store = LocalStore(data)
    lock = DataLock.acquire(data)
    metadata = EmbeddedStore.open(lock, "page-cache")
    config = replace(CONFIG, **BULK)
    storage = await LogStorage.open(store, metadata, session_id=1, config=config, clock=clock, supervisor=supervisor)
    log = await storage.open_log(pid(1), 1)
    for offset in range(6):
        answered: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        storage.append(log, [batch_at(offset, LARGE)], answered.set_result)
        assert await answered is None
        async with asyncio.timeout(30):
            while not (storage._bulk._prepared or storage._bulk._active):  # noqa: ASYNC110
                await asyncio.sleep(0.001)  # a real file is being made
    await storage.close()
    await metadata.close()
    await store.close()
    lock.release()
    [file] = data.rglob("*-b*.log")
    assert [*verify(data)] == []
    [wal] = [path for path in (data / "wal").glob("*.log") if "-b" not in path.name]
    assert any(file.name in line.text for line in dump(wal))
    assert any("offset" in line.text for line in dump(file))
    damaged = bytearray(file.read_bytes())
    damaged[200] ^= 1
    file.write_bytes(damaged)
    assert [finding.name for finding in verify(data)] == [file.relative_to(data).as_posix()]


async def test_bulk__segment_ms_ends_a_file_by_the_time_of_records(bench: Bench) -> None:
    log = await filled(bench, 1)
    log.segment_ms = 10_000
    [name] = bulk_files(bench)
    size_bytes = len(bench.store.content(name))
    await bench.write(log, LARGE, timestamp_ms=1000 + 20_000)
    assert len(bench.store.content(name)) == size_bytes, "what is so much later goes elsewhere"
    whole = await content(log)
    assert bench.storage is not None
    await bench.storage.checkpoint()
    assert await content(log) == whole


async def test_bulk__leaves_the_reserve_of_the_disk_alone(bench: Bench) -> None:
    bench.store.free = 100_000
    log = await filled(bench, 3, reserve_bytes=95_000, wal_file_bytes=4096)
    assert bulk_files(bench) == [], "8 KiB more could take what is held back"
    bench.store.free = 1 << 40
    await bench.write(log, LARGE)
    for _ in range(20):
        await asyncio.sleep(0)
    await bench.write(log, LARGE)
    assert len(bulk_files(bench)) == 1, "as soon as there is space"


HOUR_MS = 3_600_000
FLOWING = {**BULK, "bulk_bytes": 4 * len(LARGE), "wal_sync_interval_ms": HOUR_MS}


async def write_often(bench: Bench, log: LogFiles, count: int, pause_s: float = 0.0) -> None:
    for _ in range(count):
        await bench.write(log, LARGE)
        await asyncio.sleep(pause_s)


async def test_bulk__is_what_is_little_in_a_flush_and_much_between_two_syncs(bench: Bench) -> None:
    await bench.start("page-cache", **FLOWING)
    log = await bench.log()
    await write_often(bench, log, 3)
    assert bulk_files(bench) == [], "so much may be all that comes"
    await write_often(bench, log, 4)
    [name] = bulk_files(bench)
    assert len(bench.store.content(name)) >= 2 * len(LARGE)


async def test_bulk__is_not_what_comes_now_and_then(bench: Bench) -> None:
    """Each file costs a sync of its own."""
    await bench.start("page-cache", **{**FLOWING, "wal_sync_interval_ms": 1})
    log = await bench.log()
    await write_often(bench, log, 12, pause_s=0.003)
    assert bulk_files(bench) == []


async def test_bulk__files_of_logs_that_nothing_comes_of_make_room_for_others(bench: Bench) -> None:
    storage = await bench.start("page-cache", **{**FLOWING, "bulk_files": 1})
    idle, busy = await bench.log(1), await bench.log(2)
    await write_often(bench, idle, 8)
    await write_often(bench, busy, 8)
    assert {bulk.log for bulk in storage._bulk.live.values()} == {idle}
    for _ in range(2):
        storage._bulk._flows._ends_at = 0.0
        await write_often(bench, busy, 8)
    assert {bulk.log for bulk in storage._bulk.live.values() if not bulk.is_ended} == {busy}
    storage._bulk._flows._ends_at = 0.0
    await write_often(bench, busy, 8)
    assert {bulk.log for bulk in storage._bulk.live.values() if not bulk.is_ended} == {busy}, "it is not idle"


async def test_bulk__files_made_ready_for_logs_that_fell_silent_make_room_for_others(bench: Bench) -> None:
    storage = await bench.start("page-cache", **{**FLOWING, "bulk_files": 2})
    silent, busy = [await bench.log(1), await bench.log(2)], await bench.log(3)
    for log in silent:
        await write_often(bench, log, 4)
    await until(lambda: {bulk.log for bulk in storage._bulk.live.values()} == {*silent})
    assert all(not bulk.chunks for bulk in storage._bulk.live.values()), "made, and never written to"
    for _ in range(3):
        storage._bulk._flows._ends_at = 0.0
        await write_often(bench, busy, 8)
    assert {bulk.log for bulk in storage._bulk.live.values() if bulk.chunks} == {busy}


async def test_bulk__files_that_have_ended_are_written_behind_before_they_are_too_many(bench: Bench) -> None:
    """Each is open until then, however little is in it."""
    storage = await bench.start("page-cache", **{**FLOWING, "bulk_files": 4})
    logs = [await bench.log(number) for number in range(1, 41)]
    most = 0
    for number, log in enumerate(logs):
        await write_often(bench, log, 6)
        most = max(most, len(storage._bulk.live))
        if number % 4 == 3:  # nothing comes of these any more
            for _ in range(2):
                storage._bulk._flows._ends_at = 0.0
                await bench.write(logs[-1], LARGE)
    assert most <= 2 * 4
    assert any(log.manifest.segments for log in logs[:30])


@pytest.mark.parametrize("whose", ["write-behind", "background"])
async def test_bulk__whose_sync_failed_does_not_become_a_segment(bench: Bench, whose: str) -> None:
    """The kernel says so once; the next sync succeeds, whatever the device has."""
    log = await filled(bench, 3, durability="page-cache", wal_sync_interval_ms=HOUR_MS)
    storage = bench.storage
    assert storage is not None
    whole = await content(log)
    [name] = bulk_files(bench)
    failures = [Unavailable("I/O error")]
    bench.store.fault = lambda operation, of: failures.pop() if failures and (operation, of) == ("sync", name) else None
    if whose == "background":  # while it is being written behind
        write_footer = BulkSegmentWriter.write_footer

        async def written(writer: BulkSegmentWriter, *args: Any, **named: Any) -> None:
            await write_footer(writer, *args, **named)
            with pytest.raises(Unavailable):
                await storage._wal.sync()

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(BulkSegmentWriter, "write_footer", written)
            with pytest.raises(Unavailable):
                await storage.checkpoint()
    else:
        with pytest.raises(Unavailable):
            await storage.checkpoint()
    assert not failures
    await storage.checkpoint()
    await until_gone(bench, name)
    await bench.kill(power_cut=True)
    await bench.start("page-cache", **BULK)
    assert await content(await bench.log()) == whole


async def test_bulk__that_grows_leaves_the_reserve_of_the_disk_alone(bench: Bench) -> None:
    log = await filled(bench, 1, durability="page-cache", reserve_bytes=95_000, wal_sync_interval_ms=HOUR_MS)
    assert bench.storage is not None
    [name] = bulk_files(bench)
    bench.store.free = 96_000  # others fill files as well
    bench.storage._bulk._flows._ends_at = 0.0
    await bench.write(log, LARGE)
    for _ in range(20):
        await asyncio.sleep(0)
    size_bytes = len(bench.store.content(name))
    await bench.write(log, LARGE)
    assert len(bench.store.content(name)) == size_bytes
    assert log.wal.holders[-1] == log.wal.files[-1], "the write-ahead log has its space"


async def test_bulk__small_files_are_copied_and_large_ones_behind_them_are_not(bench: Bench) -> None:
    log = await filled(bench, 1)
    storage = bench.storage
    assert storage is not None
    [small] = storage._bulk.of_log(log)
    storage._bulk.end(small)
    await bench.write(log, LARGE)
    for _ in range(20):
        await asyncio.sleep(0)
    for _ in range(3):
        await bench.write(log, LARGE)
    [_, large] = storage._bulk.of_log(log)
    whole = await content(log)
    await storage.checkpoint()
    assert large.file.name in [segment.name for segment in log.manifest.segments]
    assert await content(log) == whole


async def test_bulk__taking_over_many_files_looks_at_each_once(bench: Bench) -> None:
    await bench.start("page-cache", **FLOWING)
    logs = [await bench.log(number) for number in range(1, 21)]
    for log in logs:
        await write_often(bench, log, 8)
    files = len(bulk_files(bench))
    assert files >= len(logs)
    await bench.kill()

    class Counted(dict[int, BulkFile]):
        looked_at = 0

        def values(self) -> Any:
            self.looked_at += len(self)
            return super().values()

    with pytest.MonkeyPatch.context() as patched:
        made = BulkFiles.__init__

        def init(bulk: BulkFiles, *args: Any) -> None:
            made(bulk, *args)
            bulk.live = Counted()

        patched.setattr(BulkFiles, "__init__", init)
        storage = await bench.start("page-cache", **FLOWING)
    assert isinstance(storage._bulk.live, Counted)
    assert len(storage._bulk.live) == len(logs)
    assert storage._bulk.live.looked_at <= 2 * files


async def test_bulk__many_extents_are_written_behind_though_the_write_ahead_log_grows_by_heads_only(
    bench: Bench,
) -> None:
    changes = {
        "wal_retained_extents": 10,
        "wal_sync_interval_ms": 1,
        "wal_file_bytes": 1 << 20,
        "segment_bytes": 1 << 20,
    }
    log = await filled(bench, 20, durability="page-cache", **changes)
    await until(lambda: log.manifest.segments)


async def test_bulk__of_many_logs_that_begin_at_once_is_made_a_few_files_at_a_time(bench: Bench) -> None:
    await bench.start("page-cache", **FLOWING)
    logs = [await bench.log(number) for number in range(1, 21)]
    create = bench.store.create_append
    under_way = most = 0

    async def counted(name: str, **how: Any) -> MemoryFile:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await create(name, **how)
        finally:
            under_way -= 1

    bench.store.create_append = counted  # type: ignore[method-assign]
    for _ in range(4):
        for log in logs:
            bench.append(log, LARGE)
    await bench.settle()
    await until(lambda: len(bulk_files(bench)) == len(logs))
    assert most <= 3, "one may be the write-ahead log's"
