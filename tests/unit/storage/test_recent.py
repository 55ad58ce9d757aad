"""What was just committed, in memory for those who read at the end of a log."""

from __future__ import annotations

import pytest

from bytemq.protocol.records.batch import RecordBatch, parse_header
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.storage.log_files import LogFiles
from bytemq.storage.reading import Read
from bytemq.storage.wal.extents import Chunk
from bytemq.storage.wal.recent import MAX_BUFFER_PARTS, WANTED_CHUNKS, RecentChunks, RecentEnd
from tests.unit.storage.bench import Bench, batch_at, content

LARGE = 1 << 30


def read(log: LogFiles, offset: int, max_bytes: int = LARGE, end_offset: int = LARGE) -> bytes:
    found = log.read_cached(offset, max_bytes, end_offset)
    assert found is not None
    return joined(found)


def joined(found: Read) -> bytes:
    data = b"".join(found.buffers)
    assert len(data) == found.size_bytes
    return data


def files_are_gone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing is read from a file without waiting."""
    monkeypatch.setattr(bench.store, "always_cold", True)


async def test_recent__is_read_from_memory_by_whoever_read_at_the_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.start()
    log = await bench.log()
    before = await bench.write(log, b"before anybody read")
    assert read(log, 0) == before
    news = [await bench.write(log, value) for value in (b"one", b"two", b"three")]
    files_are_gone(bench, monkeypatch)
    assert read(log, 1) == b"".join(news)
    assert read(log, 2, end_offset=3) == news[1]
    assert read(log, 1, max_bytes=len(news[0]) + len(news[1])) == news[0] + news[1]
    assert log.read_cached(0, LARGE, LARGE) is None, "this was committed before"
    assert log.read_in_memory(0, LARGE, LARGE) is None
    in_memory = log.read_in_memory(2, LARGE, LARGE)
    assert in_memory is not None
    assert joined(in_memory) == b"".join(news[1:])
    monkeypatch.undo()
    assert await content(log) == before + b"".join(news)


async def test_recent__costs_nothing_where_nobody_reads_and_ends_with_the_readers(bench: Bench) -> None:
    await bench.start()
    log, other = await bench.log(1), await bench.log(2)
    for number in range(3):
        await bench.write(log, b"%d" % number)
        await bench.write(other, b"%d" % number)
    assert read(other, 1)
    assert log.recent is None
    assert other.recent is not None
    for number in range(WANTED_CHUNKS + 5):
        await bench.write(other, b"%d" % number)
    assert sorted(other.recent.chunks) == list(range(3, 3 + WANTED_CHUNKS))
    assert log.recent is None


async def test_recent__gives_no_part_of_a_chunk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several batches of one flush are one chunk; whoever wants some of them reads the file."""
    await bench.start()
    log = await bench.log()
    await bench.write(log, b"first")
    read(log, 0)
    batches = bench.append(log, b"a", b"b", b"c")
    await bench.settle()
    views = [bytes(batch.view) for batch in batches]
    assert read(log, 1, end_offset=3) == views[0] + views[1]
    assert read(log, 2) == views[1] + views[2]
    assert read(log, 1, max_bytes=1) == views[0]
    files_are_gone(bench, monkeypatch)
    assert read(log, 1) == b"".join(views)
    assert log.read_cached(2, LARGE, LARGE) is None


async def test_recent__serves_what_is_part_of_the_log_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written behind is read from its segment: the cleaner may have changed that."""
    storage = await bench.start()
    log = await bench.log()
    await bench.write(log, b"first")
    read(log, 0)
    second = await bench.write(log, b"second")
    await storage.checkpoint()
    third = await bench.write(log, b"third")
    assert joined(await log.read(1, LARGE, 2)) == second
    files_are_gone(bench, monkeypatch)
    assert log.read_cached(1, LARGE, LARGE) is None
    assert read(log, 2) == third


async def test_recent__has_a_limit_for_all_logs_and_forgets_the_oldest(bench: Bench) -> None:
    await bench.start(recent_bytes=4000)
    logs = [await bench.log(number) for number in (1, 2)]
    for log in logs:
        await bench.write(log, b"first")
        read(log, 0)
    memory = logs[0]._files.recent
    assert memory is not None
    expected = [b"", b""]
    for number in range(10):
        for which, log in enumerate(logs):
            expected[which] += await bench.write(log, bytes(500 + number))
            assert memory.size_bytes <= 4000
    for log, data in zip(logs, expected, strict=True):
        assert log.recent is not None
        assert 0 < len(log.recent.chunks) < 5
        assert max(log.recent.chunks) == log.end_offset - 1
        assert (await content(log)).endswith(data)


def chunk_of(*batches: RecordBatch) -> Chunk:
    return Chunk(batches[0].base_offset, batches[-1].next_offset, 0, sum(batch.size_bytes for batch in batches), 0)


def received(size_bytes: int, parts: int) -> RecordBatch:
    """A batch in a buffer that is `parts` times its size."""
    data = build_batch([Record(None, bytes(size_bytes))])
    buffer = bytearray(data) + bytes(len(data) * (parts - 1))
    batch = parse_header(memoryview(buffer)[: len(data)])
    batch.place(0, 0)
    return batch


def test_recent__keeps_a_batch_where_it_was_received_but_not_a_large_buffer_for_little() -> None:
    memory, end = RecentChunks(1 << 20), RecentEnd()
    fitting, lost = received(1000, MAX_BUFFER_PARTS), received(1000, MAX_BUFFER_PARTS + 1)
    memory.keep(end, chunk_of(fitting), [fitting])
    assert end.chunks[0].view.obj is fitting.view.obj
    assert memory.size_bytes >= MAX_BUFFER_PARTS * fitting.size_bytes, "all that stays is counted"
    other = RecentEnd()
    memory.keep(other, chunk_of(lost), [lost])
    assert other.chunks[0].view.obj is not lost.view.obj
    assert other.chunks[0].view == lost.view


def test_recent__passes_over_what_would_push_out_everything_else() -> None:
    memory, end = RecentChunks(4000), RecentEnd()
    small, huge = batch_at(0, b"small"), batch_at(1, bytes(3000))
    memory.keep(end, chunk_of(small), [small])
    memory.keep(end, chunk_of(huge), [huge])
    assert list(end.chunks) == [0]


async def test_recent__gives_nothing_of_a_log_that_is_gone_or_damaged(bench: Bench) -> None:
    """Who asks is answered by whoever knows why."""
    await bench.start()
    log = await bench.log()
    await bench.write(log, b"first")
    read(log, 0)
    bench.append(log, b"second", b"third")
    await bench.settle()
    await bench.write(log, b"fourth")
    assert log.read_in_memory(1, LARGE, 4) is not None
    await log.advance_log_start(2)
    assert log.read_in_memory(1, LARGE, 4) is None
    assert log.read_in_memory(3, LARGE, 4) is not None
    log.report_hole(3, 3)
    assert log.read_in_memory(3, LARGE, 4) is None


async def test_recent__gives_nothing_of_a_log_that_was_deleted(bench: Bench) -> None:
    await bench.start()
    log = await bench.log()
    await bench.write(log, b"first")
    read(log, 0)
    await bench.write(log, b"second")
    assert log.read_in_memory(1, LARGE, 2) is not None
    log.deleted = True
    assert log.read_in_memory(1, LARGE, 2) is None
