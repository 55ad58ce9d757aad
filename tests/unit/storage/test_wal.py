"""The writer of the write-ahead log: group commit, order, failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from bytemq.errors import BytemqError, Corrupt, Full, Invalid, Unavailable
from bytemq.runtime.clock import SystemClock
from bytemq.storage.manifests.manifest import PartitionSnapshot
from bytemq.storage.stores.interface import Buffer
from tests.support.log_workload import until
from tests.support.power_cut_store import MemoryFile
from tests.unit.storage.bench import Bench, batch_at, content


async def test_append__shares_one_flush_with_all_of_the_same_tick(bench: Bench) -> None:
    await bench.start()
    first, second = await bench.log(1), await bench.log(2)
    writes = _spy_on_writes(bench)
    for n in range(5):
        bench.append(first, b"a%d" % n)
        bench.append(second, b"b%d" % n)
    await bench.settle()
    assert len(writes) == 1
    assert [error for _, error in bench.answers] == [None] * 10


async def test_append__gathers_what_comes_while_a_flush_is_in_flight(bench: Bench) -> None:
    await bench.start()
    log = await bench.log()
    writes = _spy_on_writes(bench)
    bench.append(log, b"first")
    await until(lambda: writes)
    for n in range(7):
        bench.append(log, b"later %d" % n)
    await bench.settle()
    assert len(writes) == 2


async def test_append__is_answered_in_order_and_readable_before_it_is_answered(bench: Bench) -> None:
    storage = await bench.start()
    logs = [await bench.log(1), await bench.log(2)]
    order: list[tuple[int, int]] = []
    for n in range(40):
        log = logs[n % 2]
        batch = batch_at(log.staged_end, bytes(300))

        def done(error: BytemqError | None, n: int = n, end: int = batch.next_offset) -> None:
            assert error is None
            files = logs[n % 2]
            assert files.end_offset >= end
            read = files.read_cached(end - 1, 1, end)
            assert read is not None and read.next_offset == end
            order.append((n, end))

        storage.append(log, [batch], done)
    assert not order, "never before append returns"
    await bench.settle()
    assert [n for n, _ in order] == list(range(40))


async def test_append__is_neither_durable_nor_readable_before_the_sync(bench: Bench) -> None:
    await bench.start()
    log = await bench.log()
    syncing = asyncio.Event()
    release = asyncio.Event()
    original = MemoryFile.sync

    async def slow_sync(file: MemoryFile) -> None:
        syncing.set()
        await release.wait()
        await original(file)

    MemoryFile.sync = slow_sync  # type: ignore[assignment, method-assign]
    try:
        bench.append(log, b"value")
        await syncing.wait()
        assert (log.end_offset, bench.answers) == (0, [])
        release.set()
        await bench.settle()
    finally:
        MemoryFile.sync = original  # type: ignore[method-assign]
    assert (log.end_offset, bench.answers) == (1, [(0, None)])


async def test_append__refuses_a_batch_that_is_not_at_the_next_offset(bench: Bench) -> None:
    storage = await bench.start()
    log = await bench.log()
    for offset in (1, 5):
        with pytest.raises(Invalid):
            storage.append(log, [batch_at(offset)], lambda error: None)
    with pytest.raises(Invalid):
        storage.append(log, [], lambda error: None)


async def test_flush__is_written_anew_elsewhere_after_one_failure(bench: Bench) -> None:
    await bench.start()
    log = await bench.log()
    data = await bench.write(log, b"before")
    abandoned = bench.names(".log")[0]
    _fail(bench, "sync", [Unavailable("I/O error")])
    data += await bench.write(log, b"hit by the failure")
    assert [error for _, error in bench.answers] == [None, None]
    assert len(bench.names(".log")) > 1, "the file that failed is not trusted any more"
    before = bytes(bench.store.content(abandoned))
    data += await bench.write(log, b"after")
    assert await content(log) == data
    assert before == bytes(bench.store.content(abandoned)), "nothing is written to it any more"
    await bench.kill(power_cut=True)
    await bench.start()
    assert await content(await bench.log()) == data


@pytest.mark.parametrize("error", [Unavailable("I/O error"), Full("no space")])
@pytest.mark.parametrize("operation", ["write", "sync"])
async def test_flush__that_fails_twice_fails_everything_behind_it_and_offsets_roll_back(
    bench: Bench, operation: str, error: BytemqError
) -> None:
    storage = await bench.start()
    log, other = await bench.log(1), await bench.log(2)
    data = await bench.write(log, b"kept")
    _fail(bench, operation, [error, error])
    bench.append(log, b"lost")
    await asyncio.sleep(0)
    bench.append(other, b"lost, too")
    bench.append(log, b"and this")
    await bench.settle()
    assert [type(answer) for _, answer in bench.answers] == [type(None), type(error), type(error), type(error)]
    assert isinstance(storage.healthy, type(error))
    assert (log.end_offset, log.staged_end, other.staged_end) == (1, 1, 0)
    data += await bench.write(log, b"new content at the same offset")
    assert storage.healthy is None
    assert await content(log) == data
    await bench.kill(power_cut=True)
    await bench.start()
    assert await content(await bench.log(1)) == data
    assert (await bench.log(2)).end_offset == 0


async def test_flush__reported_as_failed_is_not_found_by_a_recovery(bench: Bench) -> None:
    await bench.start()
    log = await bench.log()
    data = await bench.write(log, b"kept")
    _fail(bench, "sync", [Unavailable("I/O error")] * 2)
    bench.append(log, b"failed, though its bytes are in the page cache")
    await bench.settle()
    assert bench.answers[-1][1] is not None
    await bench.kill()
    await bench.start()
    assert await content(await bench.log()) == data


async def test_flush__that_could_not_even_be_erased_gives_way_to_what_came_after_it(bench: Bench) -> None:
    await bench.start()
    log = await bench.log()
    data = await bench.write(log, b"kept")
    _fail(bench, "sync", [Unavailable("I/O error")] * 2)

    async def not_even_erased(tried: object) -> None:
        return None

    bench.storage._wal._erase = not_even_erased  # type: ignore[method-assign]
    bench.append(log, b"failed, yet whole on the device")
    await bench.settle()
    assert bench.answers[-1][1] is not None
    data += await bench.write(log, b"what was acknowledged at that offset")
    await bench.kill()
    for name in bench.names(".index"):
        await bench.store.delete([name])  # so that the files themselves are walked
    await bench.start()
    assert await content(await bench.log()) == data


async def test_full_disk__is_said_at_once_and_ends_by_itself(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    storage = await bench.start()
    log = await bench.log()
    data = await bench.write(log, b"kept")
    bench.store.free = 0
    while storage.healthy is None:
        bench.append(log, bytes(3000))
        await bench.settle()
    assert isinstance(storage.healthy, Full)
    assert isinstance(bench.answers[-1][1], Full)
    bench.store.free = 1 << 40
    for _ in range(100):
        await asyncio.sleep(0)
    assert storage.healthy is None, "found out without an append"
    assert caplog.text.count("ahead of need") == 1, "said once, however many flushes there were"
    offset = log.end_offset
    await bench.write(log, b"again")
    assert log.end_offset == offset + 1
    assert (await content(log)).startswith(data)


async def test_full_disk__is_not_filled_by_what_the_log_says_of_it(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    storage = await bench.start(retry_delay_ms=1)
    log = await bench.log()
    bench.store.free = 0
    while len([error for _, error in bench.answers if error is not None]) < 100:
        await bench.write(log, bytes(3000))
        await asyncio.sleep(0.002)  # the next one is an attempt of its own
    assert isinstance(storage.healthy, Full)
    assert 1 <= caplog.text.count("appends failed") <= 50


async def test_full_disk__is_looked_at_as_often_however_many_flushes_have_failed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await bench.start(retry_delay_ms=1)
    log = await bench.log()
    bench.store.free = 0
    waiting = 0
    probe, call_later = storage._wal._probe, SystemClock.call_later

    def probed() -> None:
        nonlocal waiting
        waiting -= 1
        probe()

    def counted(clock: SystemClock, seconds: float, callback: Callable[[], object]) -> object:
        nonlocal waiting
        waiting += callback == probed
        return call_later(clock, seconds, callback)

    monkeypatch.setattr(storage._wal, "_probe", probed)
    monkeypatch.setattr(SystemClock, "call_later", counted)
    while len([error for _, error in bench.answers if error is not None]) < 20:
        await bench.write(log, bytes(3000))
        await asyncio.sleep(0.002)  # the next one is an attempt of its own
    assert waiting == 1


async def test_batch__larger_than_a_file_gets_one_of_its_own(bench: Bench) -> None:
    await bench.start()
    log = await bench.log()
    data = await bench.write(log, b"small")
    data += await bench.write(log, bytes(50_000))
    data += await bench.write(log, b"small again")
    assert await content(log) == data
    await bench.kill()
    await bench.start()
    assert await content(await bench.log()) == data


async def test_page_cache__acknowledges_before_the_sync_and_survives_a_kill(bench: Bench) -> None:
    await bench.start("page-cache")
    log = await bench.log()
    _fail(bench, "sync", [Unavailable("I/O error")] * 50)
    data = await bench.write(log, b"small: written on the loop")
    data += await bench.write(log, *[bytes(1000)] * 3)
    assert [error for _, error in bench.answers] == [None, None]
    bench.store.fault = None
    await bench.kill()
    await bench.start("page-cache")
    assert await content(await bench.log()) == data


async def test_page_cache__a_file_whose_sync_failed_is_never_called_durable(bench: Bench) -> None:
    storage = await bench.start("page-cache", wal_sync_interval_ms=1 << 30)
    log = await bench.log()
    await bench.write(log, b"dropped by the kernel")
    _fail(bench, "sync", [Unavailable("I/O error")])
    with pytest.raises(Unavailable):
        await storage._wal.sync()
    abandoned = bench.names(".log")[0]
    before = bytes(bench.store.content(abandoned))
    assert not await storage._wal.sync(), "the kernel says that all is well; it is not"
    for _ in range(3):
        await bench.write(log, b"elsewhere")
        assert not await storage._wal.sync()
    assert before == bytes(bench.store.content(abandoned)), "nothing is written to it any more"
    assert storage._wal._durable_through == 0, "nothing in it, and nothing after it"


async def test_page_cache__what_a_failed_sync_lost_is_a_torn_tail_after_a_power_cut(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    storage = await bench.start("page-cache", wal_sync_interval_ms=1 << 30)
    log = await bench.log()
    data = await bench.write(log, b"durable")
    await storage._wal.sync()
    await bench.write(log, b"dropped by the kernel")
    _fail(bench, "sync", [Unavailable("I/O error")])
    with pytest.raises(Unavailable):
        await storage._wal.sync()
    for _ in range(3):
        await bench.write(log, b"after it")
        await storage._wal.sync()
    await bench.kill(power_cut=True)
    await bench.start("page-cache")
    assert (await content(await bench.log())).startswith(data)
    assert "is damaged" not in caplog.text


async def test_page_cache__a_failed_sync_holds_snapshots_back_until_its_file_is_released(bench: Bench) -> None:
    storage = await bench.start("page-cache", wal_sync_interval_ms=1 << 30)
    log = await bench.log()
    log.snapshot_source = lambda: PartitionSnapshot(log.end_offset, [(1, 0)], [])
    data = await bench.write(log, b"one")
    _fail(bench, "sync", [Unavailable("I/O error")])
    with pytest.raises(Unavailable):
        await storage._wal.sync()
    data += await bench.write(log, b"two")
    await storage.checkpoint()
    assert (log.manifest.end_offset, log.stored.snapshot_offset) == (2, -1)
    data += await bench.write(log, b"three")
    await storage.checkpoint()
    assert (log.manifest.end_offset, log.stored.snapshot_offset) == (3, 3)
    assert await content(log) == data


async def test_page_cache__what_a_failed_sync_lost_does_not_pass_for_whole_in_a_segment(bench: Bench) -> None:
    storage = await bench.start("page-cache", wal_sync_interval_ms=1 << 30)
    log = await bench.log()
    data = [await bench.write(log, b"%d" % n * 100) for n in range(3)]
    _fail(bench, "sync", [Unavailable("I/O error")])
    with pytest.raises(Unavailable):
        await storage._wal.sync()
    file = bench.store.content(bench.names("wal/0")[0])
    at = file.find(data[1])
    file[at : at + len(data[1])] = bytes(len(data[1]))  # read again from the device, which never had it
    await storage.checkpoint()
    assert log.manifest.holes == ((1, 1),)
    assert b"".join((await log.read(0, 10_000, 3)).buffers) == data[0]
    with pytest.raises(Corrupt, match="lost"):
        await log.read(1, 10_000, 3)
    assert b"".join((await log.read(2, 10_000, 3)).buffers) == data[2]


@pytest.mark.parametrize("operation", ["sync", "delete"])
async def test_page_cache__a_stop_that_fails_closes_everything_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    opened: list[MemoryFile] = []
    open_file = MemoryFile.__init__

    def counted(file: MemoryFile, *arguments: Any) -> None:
        open_file(file, *arguments)
        opened.append(file)

    monkeypatch.setattr(MemoryFile, "__init__", counted)
    storage = await bench.start("page-cache", wal_sync_interval_ms=1 << 30)
    log = await bench.log()
    data = await bench.write(log, *[bytes(1000)] * 3)
    await storage.checkpoint()
    assert await content(log) == data, "which opens the segment"
    data += await bench.write(log, bytes(9000))
    await until(lambda: storage._wal_files.is_prepared)
    _fail(bench, operation, [Unavailable("I/O error")])
    with pytest.raises(Unavailable, match="I/O error"):
        await bench.stop()
    assert [file.name for file in opened if not file.closed] == []
    bench.store.fault = None
    await bench.start("page-cache")
    assert await content(await bench.log()) == data, "as after a kill"


async def test_files__are_used_again_when_nothing_in_them_is_needed(bench: Bench) -> None:
    storage = await bench.start()
    log = await bench.log()
    for round_number in range(6):
        for _ in range(12):
            await bench.write(log, b"%d" % round_number * 1000)
        await storage.checkpoint()
    assert len(bench.names(".log")) - len(bench.names("topics/")) <= 8
    assert storage.wal_bytes <= 4 * 16 * 1024
    data = await content(log)
    await bench.kill()
    await bench.start()
    assert await content(await bench.log()) == data


@pytest.mark.parametrize("step", ["_write", "_commit"])
async def test_wal__that_ends_by_an_unforeseen_fault_fails_what_is_pending_and_the_node(
    bench: Bench, step: str
) -> None:
    storage = await bench.start()
    log = await bench.log()
    data = await bench.write(log, b"kept")

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    setattr(storage._wal, step, broken)
    bench.append(log, b"in flight")
    bench.append(log, b"staged")
    await bench.settle()
    bench.append(log, b"too late")
    bench.append(log, b"and this")
    await bench.settle()
    assert [type(error) for _, error in bench.answers] == [type(None)] + [Unavailable] * 4
    assert [name for name, _ in bench.fatal] == ["wal"]
    assert isinstance(storage.healthy, Unavailable)
    assert (log.end_offset, log.staged_end) == (1, 1)
    await bench.stop()
    await bench.start()
    assert (await content(await bench.log())).startswith(data)


def _fail(bench: Bench, operation: str, errors: Sequence[BytemqError]) -> None:
    """The next calls of that kind on write-ahead-log files fail."""
    left = list(errors)

    def fault(called: str, name: str) -> BytemqError | None:
        return left.pop(0) if left and called == operation and name.startswith("wal/") else None

    bench.store.fault = fault


def _spy_on_writes(bench: Bench) -> list[Sequence[Buffer]]:
    writes: list[Sequence[Buffer]] = []

    def fault(operation: str, name: str) -> None:
        if operation == "write" and name.startswith("wal/"):
            writes.append([])

    bench.store.fault = fault
    return writes
