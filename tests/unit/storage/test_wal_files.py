"""The files of the write-ahead log: their numbers, and what becomes of those that are no longer needed."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from bytemq.errors import BytemqError, Unavailable
from bytemq.metadata import keys
from bytemq.storage.wal.wal_files import WalFiles
from bytemq.storage.wal.wal_index import TailRecord, decode_tail
from tests.support.log_workload import until
from tests.support.power_cut_store import MemoryFile
from tests.unit.storage.bench import CONFIG, Bench, content, pid


def _fails_once(left: list[BytemqError], operation: str, name: str) -> BytemqError | None:
    return left.pop() if left and operation == "create_append" else None


async def _failed_flush(bench: Bench) -> None:
    """Leaves the log with no file that is written to, and the next one ready."""
    storage = bench.storage
    assert storage is not None
    log = await bench.log()
    left: list[BytemqError] = [Unavailable("I/O error")] * 2
    bench.store.fault = lambda operation, name: left.pop(0) if left and operation == "sync" else None
    bench.append(log, b"lost")
    await bench.settle()
    assert bench.answers[-1][1] is not None
    await until(lambda: storage.healthy is None)


async def test_release__keeps_the_number_of_a_file_that_is_ready(bench: Bench) -> None:
    storage = await bench.start()
    log = await bench.log()
    await bench.write(log, b"before")
    await _failed_flush(bench)
    await storage.checkpoint()  # everything before is released while the next file waits to be filled
    await bench.write(log, b"after")
    data = await content(log)
    await bench.kill()
    await bench.start()
    assert await content(await bench.log()) == data


async def test_clean_stop__without_a_needed_file_is_no_damage(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    storage = await bench.start()
    data = await bench.write(await bench.log(), b"before")
    await _failed_flush(bench)
    await storage.checkpoint()
    await bench.stop()
    caplog.clear()
    await bench.start()
    assert await content(await bench.log()) == data
    assert "damaged" not in caplog.text


async def test_release__of_a_file_that_is_being_read_keeps_it_from_those_who_look_for_garbage(bench: Bench) -> None:
    await bench.start()
    log = await bench.log()
    await bench.write(log, b"before")
    await bench.kill()
    storage = await bench.start()
    await bench.log()
    [file] = [file for file in storage._wal_files.live if file.session_id != bench.session]
    file.pin()
    releasing = asyncio.create_task(storage._wal_files.release([file], 1, 0))
    await until(lambda: file not in storage._wal_files.live)
    assert storage._wal_files.is_needed(file.file.name)
    file.unpin()
    await releasing
    assert not storage._wal_files.is_needed(file.file.name)


async def test_release__of_a_file_that_becomes_a_spare_keeps_it_from_those_who_look_for_garbage(bench: Bench) -> None:
    storage = await bench.start()
    await bench.write(await bench.log(), b"value")
    await storage.checkpoint()
    files = storage._wal_files
    rename = bench.store.rename

    async def looked_at(name: str, new_name: str) -> None:
        await rename(name, new_name)
        storage.discard(await storage._garbage.find({}, {}, files, storage._bulk))

    bench.store.rename = looked_at  # type: ignore[method-assign]
    [file] = files.live
    await files.release([file], 2, 0)
    await storage._garbage.idle()
    assert len({*files._spares}) == len(files._spares), "each once"
    assert {*files._spares} <= {*bench.names("wal/spare")}


async def test_release__that_was_not_recorded_is_made_up_for_by_the_next(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    storage = await bench.start()
    log = await bench.log()
    for _ in range(40):
        await bench.write(log, bytes(1000))
    before = storage.wal_bytes
    faults = [None, Unavailable("away")]  # the manifests are published, the tail record is not
    bench.metadata.fault = lambda: faults.pop(0) if faults else None
    with pytest.raises(Unavailable):
        await storage.checkpoint()
    assert storage.wal_bytes == before
    await storage.checkpoint()
    assert storage.wal_bytes == CONFIG.wal_file_bytes, "the file that is being filled"
    assert len(bench.names("wal/0")) <= 2, "and one made ahead"
    data = await content(log)
    await bench.kill()
    await bench.start()
    assert await content(await bench.log()) == data
    assert "damaged" not in caplog.text, "the tail record names no file that is gone"


async def test_file__half_made_from_a_spare_is_not_in_the_way_of_the_next_attempt(bench: Bench) -> None:
    storage = await bench.start()
    log = await bench.log()
    for _ in range(40):
        await bench.write(log, bytes(1000))
    await storage.checkpoint()
    assert bench.names("spare")
    left: list[BytemqError] = [Unavailable("too many open files")] * 2
    bench.store.fault = lambda operation, _: left.pop(0) if left and operation == "open" else None
    end = log.end_offset
    for _ in range(60):
        await bench.write(log, bytes(1000))
    assert not left
    assert log.end_offset > end + 40


async def test_files__are_filled_in_the_order_of_their_numbers_whoever_makes_them(bench: Bench) -> None:
    files = WalFiles(bench.store, bench.metadata, 1, CONFIG, bench.supervisor)
    taken = []
    for turns in range(12):
        files.prepare()
        for _ in range(turns):
            await asyncio.sleep(0)
        left: list[BytemqError] = [Unavailable("I/O error")]
        bench.store.fault = partial(_fails_once, left)
        taking = asyncio.ensure_future(files.take(100))
        while not taking.done():
            files.prepare()  # at every moment: the probe of a failed log does so
            await asyncio.sleep(0)
        if taking.exception() is None:
            taken.append(taking.result().number)
    assert taken == list(range(len(taken)))
    assert len(taken) >= 6
    await files.close()


async def test_tail__of_a_session_names_the_first_file_that_a_recovery_needs(bench: Bench) -> None:
    storage = await bench.start()
    log = await bench.log()
    for _ in range(40):
        await bench.write(log, bytes(1000))
    await storage.checkpoint()
    tail = decode_tail(bench.metadata.entries[keys.wal_tail(1)].value)
    assert tail == TailRecord(1, tail.first_number, tail.first_sequence, tail.first_link)
    assert f"wal/{1:016x}-{tail.first_number:08x}.log" in bench.names("wal/0")
    assert tail.first_number > 0 and tail.first_sequence > 1


async def test_page_cache__files_that_were_released_are_not_synced_any_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await bench.start("page-cache", wal_sync_interval_ms=1_000_000_000, wal_file_bytes=4096)
    log = await bench.log()
    original = MemoryFile.sync

    async def sync(file: MemoryFile) -> None:
        assert not file.closed
        await original(file)

    monkeypatch.setattr(MemoryFile, "sync", sync)
    while len(bench.names("wal/0")) < 4:
        await bench.write(log, bytes(1000))
    await storage.delete_log(pid(1))
    await storage.checkpoint()
    await bench.stop()


async def test_flush__that_finds_no_second_file_is_not_found_by_a_recovery(bench: Bench) -> None:
    storage = await bench.start()
    log = await bench.log()
    data = await bench.write(log, b"kept")
    left: list[BytemqError] = [Unavailable("I/O error")]
    bench.store.fault = lambda operation, _: left.pop() if left and operation == "sync" else None
    bench.store.free = 0
    bench.append(log, b"failed, though its bytes are in the page cache")
    await bench.settle()
    assert storage.healthy is not None and bench.answers[-1][1] is not None
    bench.store.free = 1 << 40
    await until(lambda: storage.healthy is None)
    # As if the crash came before the index of the abandoned file, which would hide the flush as well.
    await bench.store.delete(bench.names(".index"))
    await bench.kill()
    await bench.start()
    assert await content(await bench.log()) == data
