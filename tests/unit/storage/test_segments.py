"""Write-behind, segments, retention, deletion."""

from __future__ import annotations

import asyncio

import pytest

from bytemq.errors import Corrupt, NotFound, Unavailable
from bytemq.storage.log_files import LogFiles
from bytemq.storage.log_timestamps import find_timestamp, max_timestamp_batch
from bytemq.storage.manifests.manifest import PartitionSnapshot, SegmentInfo
from bytemq.storage.manifests.manifest_codec import directory_of
from bytemq.storage.segments.segment_files import walk_segment
from tests.support.log_workload import until
from tests.support.power_cut_store import MemoryFile
from tests.unit.storage.bench import Bench, batch_at, content, pid


async def filled(bench: Bench, count: int = 30, size_bytes: int = 600) -> tuple[bytes, list[bytes]]:
    await bench.start()
    log = await bench.log()
    batches = [await bench.write(log, b"%04d" % n * (size_bytes // 4), timestamp_ms=1000 + n) for n in range(count)]
    return b"".join(batches), batches


async def test_checkpoint__moves_everything_to_segments_of_the_right_size(bench: Bench) -> None:
    data, _ = await filled(bench)
    assert bench.storage is not None
    log = await bench.log()
    await bench.storage.checkpoint()
    segments = log.manifest.segments
    assert len(log.wal) == 0
    assert [segment.sealed for segment in segments] == [True, True, False]
    assert all(segment.size_bytes <= 8 * 1024 for segment in segments)
    assert await content(log) == data
    assert log.size_bytes == len(data)


async def test_checkpoint__goes_on_in_the_open_segment(bench: Bench) -> None:
    await bench.start()
    assert bench.storage is not None
    log = await bench.log()
    data = b""
    for n in range(5):
        data += await bench.write(log, b"%d" % n)
        await bench.storage.checkpoint()
    assert len(log.manifest.segments) == 1
    assert await content(log) == data
    await bench.kill(power_cut=True)
    await bench.start()
    log = await bench.log()
    data += await bench.write(log, b"after the restart")
    assert bench.storage is not None
    await bench.storage.checkpoint()
    assert len(log.manifest.segments) == 1
    assert await content(log) == data


async def test_checkpoint__publishes_the_snapshot_of_the_committed_end(bench: Bench) -> None:
    await bench.start()
    assert bench.storage is not None
    log = await bench.log()
    await bench.write(log, b"0", b"1")
    log.snapshot_source = lambda: PartitionSnapshot(log.end_offset, [(1, 0)])
    await bench.storage.checkpoint()
    await bench.write(log, b"2")
    await bench.kill()
    await bench.start()
    recovered = (await bench.log()).recovered
    assert recovered is not None and recovered.snapshot is not None
    assert (recovered.snapshot.offset, recovered.leader_epochs) == (2, [(1, 0)])
    assert [header.base_offset for header in recovered.headers] == [2]


async def test_write_behind__runs_by_itself_and_keeps_the_log_small(bench: Bench) -> None:
    storage = await bench.start(wal_retained_bytes=8 * 16 * 1024)
    log = await bench.log()
    data = b""
    for n in range(200):
        data += await bench.write(log, b"%03d" % n * 300)
        assert storage.wal_bytes <= 8 * 16 * 1024
    assert log.manifest.segments
    assert await content(log) == data


async def test_write_behind__that_is_slower_than_the_appends_slows_them_down(bench: Bench) -> None:
    storage = await bench.start(wal_retained_bytes=6 * 16 * 1024)
    log = await bench.log()
    step = bench.store.step

    async def slow(operation: str, name: str, *half_done: object) -> None:
        for _ in range(30 if name.startswith("topics/") else 0):
            await asyncio.sleep(0)
        await step(operation, name, *half_done)  # type: ignore[arg-type]

    bench.store.step = slow  # type: ignore[assignment, method-assign]
    sizes: list[int] = []
    for _ in range(400):
        bench.append(log, bytes(900))
    await until(lambda: sizes.append(storage.wal_bytes) or not storage.pending_bytes)
    assert max(sizes) <= 6 * 16 * 1024
    assert log.end_offset == 400


async def test_snapshot__is_published_after_everything_it_describes_became_durable(bench: Bench) -> None:
    storage = await bench.start("page-cache", wal_retained_bytes=8 * 16 * 1024, wal_sync_interval_ms=10**6)
    log = await bench.log()
    log.snapshot_source = lambda: PartitionSnapshot(log.end_offset)
    while storage.wal_bytes < 4 * 16 * 1024 or log.end_offset % 7:
        await bench.write(log, bytes(900))
    await storage._write_behind.run()  # as the background does: what is in the newest files stays
    bench.power.random.choice = lambda options: options[0]  # type: ignore[assignment]  # nothing unsynced survives
    await bench.kill(power_cut=True)
    await bench.start("page-cache")
    log = await bench.log()
    assert log.manifest.holes == ()
    recovered = log.recovered
    assert recovered is not None and recovered.snapshot is not None
    assert log.manifest.end_offset < recovered.snapshot.offset <= log.end_offset


async def test_write_behind__that_fails_for_one_log_is_done_for_the_others(bench: Bench) -> None:
    storage = await bench.start()
    logs = [await bench.log(number) for number in (1, 2, 3)]
    data = [await bench.write(log, b"value") for log in logs]
    broken = directory_of(logs[1].partition)
    bench.store.fault = lambda operation, name: (
        Unavailable("I/O error") if operation == "write" and name.startswith(broken) else None
    )
    with pytest.raises(Unavailable):
        await storage.checkpoint()
    assert [len(log.manifest.segments) for log in logs] == [1, 0, 1]
    await storage._garbage.idle()
    assert bench.names(broken) == [], "what came to nothing went"
    bench.store.fault = None
    await storage.checkpoint()
    assert [len(log.manifest.segments) for log in logs] == [1, 1, 1]
    assert [await content(log) for log in logs] == data


async def test_write_behind__that_fails_changes_nothing_and_is_repeated(bench: Bench) -> None:
    data, _ = await filled(bench)
    assert bench.storage is not None
    log = await bench.log()
    bench.metadata.fault = lambda: Unavailable("no answer")
    with pytest.raises(Unavailable):
        await bench.storage.checkpoint()
    assert await content(log) == data
    bench.metadata.fault = None
    await bench.storage.checkpoint()
    assert (len(log.wal), await content(log)) == (0, data)


@pytest.mark.parametrize("when", ["fault", "fault_after"])
async def test_publishing_that_fails__leaves_no_files_once_it_is_known_what_counts(bench: Bench, when: str) -> None:
    storage = await bench.start(snapshot_inline_bytes=0)
    log = await bench.log()
    log.snapshot_source = lambda: PartitionSnapshot(log.end_offset, [(1, 0)], [])
    data = b""
    for number in range(3):
        data += await bench.write(log, *[b"%d" % number * 900] * 10)
        setattr(bench.metadata, when, lambda: Unavailable("away"))
        with pytest.raises(Unavailable):
            await storage.checkpoint()
        setattr(bench.metadata, when, None)
    data += await bench.write(log, b"more")
    await storage.checkpoint()
    await until(lambda: bench.names("topics/") == sorted(bench.named(log.partition)))
    assert await content(log) == data


async def test_publishing_with_unknown_outcome__is_read_back_not_repeated_blindly(bench: Bench) -> None:
    data, _ = await filled(bench)
    assert bench.storage is not None
    log = await bench.log()
    bench.metadata.fault_after = lambda: Unavailable("applied, but the answer was lost")
    with pytest.raises(Unavailable):
        await bench.storage.checkpoint()
    bench.metadata.fault_after = None
    await bench.storage.checkpoint()
    data += await bench.write(log, b"more")
    await bench.storage.checkpoint()
    assert await content(log) == data
    await bench.kill(power_cut=True)
    await bench.start()
    assert await content(await bench.log()) == data


@pytest.mark.parametrize("where", ["first", "middle", "footer", "index"])
async def test_flipped_bit_in_a_sealed_segment__is_never_served(bench: Bench, where: str) -> None:
    data, batches = await filled(bench)
    await bench.storage.checkpoint()
    info = (await bench.log()).manifest.segments[0]
    await bench.kill()
    position = {
        "first": 3,
        "middle": info.size_bytes // 2,
        "footer": info.size_bytes + 9,
        "index": info.size_bytes + 60,
    }[where]
    bench.store.content(info.name)[position] ^= 0x20
    await bench.start()
    log = await bench.log()
    if where in ("footer", "index"):
        assert await content(log) == data, "the index is made anew"
        return
    damaged = 0
    for offset, batch in enumerate(batches):
        try:
            read = await log.read(offset, 1, log.end_offset)
        except Corrupt:
            damaged += 1
        else:
            assert b"".join(read.buffers) == batch
    assert damaged == 1


@pytest.mark.parametrize("position", [3, 9, 30, 700, 1300])
async def test_flipped_bit_in_the_open_segment__costs_one_batch(bench: Bench, position: int) -> None:
    _, batches = await filled(bench, count=8)
    await bench.storage.checkpoint()
    name = (await bench.log()).manifest.segments[0].name
    await bench.kill()
    bench.store.content(name)[position] ^= 0x20
    await bench.start()
    log = await bench.log()
    damaged = 0
    for offset, batch in enumerate(batches):
        try:
            read = await log.read(offset, 1, log.end_offset)
        except Corrupt:
            damaged += 1
        else:
            assert b"".join(read.buffers) == batch
    assert damaged == 1


async def test_missing_segment__is_damage_not_an_offset_out_of_range(bench: Bench) -> None:
    await filled(bench)
    await bench.storage.checkpoint()
    info = (await bench.log()).manifest.segments[0]
    await bench.stop()
    await bench.store.delete([info.name])
    await bench.start()
    with pytest.raises(Corrupt):
        await (await bench.log()).read(0, 1, 30)


async def sound_around_damage(log: LogFiles) -> list[bytes]:
    """What a reader gets that goes on behind each damage."""
    found: list[bytes] = []
    offset = log.log_start_offset
    while offset < log.end_offset:
        try:
            read = await log.read(offset, 1, log.end_offset)
        except Corrupt:
            behind = await log.behind_damage(offset)
            assert offset < behind <= log.end_offset
            offset = behind
            continue
        found.append(b"".join(read.buffers))
        offset = read.next_offset
    return found


async def test_segment__whose_index_cannot_be_read_does_not_stay_open(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(bench)
    assert bench.storage is not None
    log = await bench.log()
    await bench.storage.checkpoint()
    opened: list[MemoryFile] = []
    open_append = bench.store.open_append

    async def noted(name: str, *, urgent: bool = False) -> MemoryFile:
        opened.append(await open_append(name, urgent=urgent))
        return opened[-1]

    monkeypatch.setattr(bench.store, "open_append", noted)
    bench.store.fault = lambda operation, name: Unavailable("I/O error") if operation == "read" else None
    for _ in range(3):
        with pytest.raises(Unavailable):
            await log.read(0, 1, 30)
    assert [file.closed for file in opened] == [True] * 3


async def test_segment__that_is_to_be_read_stays_open_when_all_others_are_being_read(bench: Bench) -> None:
    _, batches = await filled(bench)
    await bench.storage.checkpoint()
    await bench.stop()
    storage = await bench.start(open_files=1)
    log = await bench.log()
    first, second, *_ = log.manifest.segments
    being_read = await storage._files.segments.get(first)
    being_read.pin()
    read = await log.read(second.base_offset, 1, 30)
    assert b"".join(read.buffers) == batches[second.base_offset]
    being_read.unpin()


async def test_open_segment__that_a_slow_reader_has_opened_as_it_was_is_opened_anew(bench: Bench) -> None:
    storage = await bench.start()
    log = await bench.log()
    data, infos = b"", []
    for value in (b"a", b"b"):
        data += await bench.write(log, value * 2000)
        await storage.checkpoint()
        infos.append(log.manifest.segments[-1])
    segments = storage._files.segments
    await segments.forget(infos[0].name)  # others are read, and there may be only so many
    turns = [asyncio.Event(), asyncio.Event()]
    waiting = iter(turns)
    open_read = bench.store.open_read

    async def slow(name: str) -> MemoryFile:
        await next(waiting).wait()
        return await open_read(name)

    bench.store.open_read = slow  # type: ignore[method-assign]
    tasks = [asyncio.create_task(segments.get(info)) for info in infos]
    for turn, task in zip(turns, tasks, strict=True):
        turn.set()
        await task
    assert tasks[1].result().index.end_position == infos[1].size_bytes
    assert await content(log) == data


@pytest.mark.parametrize("sealed", [True, False])
async def test_behind_damage__of_a_batch_is_the_next_one(bench: Bench, sealed: bool) -> None:
    _, batches = await filled(bench, count=30 if sealed else 8)
    await bench.storage.checkpoint()
    info = (await bench.log()).manifest.segments[0]
    assert info.sealed is sealed
    await bench.kill()
    bench.store.content(info.name)[len(batches[0]) + 100] ^= 0x20  # a record of the second batch
    await bench.start()
    log = await bench.log()
    with pytest.raises(Corrupt):
        await log.read(1, 1, log.end_offset)
    assert await log.behind_damage(1) == 2
    assert await sound_around_damage(log) == [batches[0], *batches[2:]]


async def test_behind_damage__of_a_batchs_size_is_the_next_chunk(bench: Bench) -> None:
    _, batches = await filled(bench)
    await bench.storage.checkpoint()
    info = (await bench.log()).manifest.segments[0]
    await bench.kill()
    bench.store.content(info.name)[len(batches[0]) + 9] ^= 0x20
    await bench.start()
    found = await sound_around_damage(await bench.log())
    assert found[0] == batches[0] and batches[1] not in found
    assert found[1:] == batches[-len(found) + 1 :]
    assert len(found) > 20


async def test_behind_damage__of_a_file_that_is_gone_is_the_next_file(bench: Bench) -> None:
    _, batches = await filled(bench)
    await bench.storage.checkpoint()
    info = (await bench.log()).manifest.segments[0]
    await bench.stop()
    await bench.store.delete([info.name])
    await bench.start()
    log = await bench.log()
    assert await log.behind_damage(0) == info.last_offset + 1
    assert await sound_around_damage(log) == batches[info.last_offset + 1 :]


async def test_behind_damage__that_is_known_as_a_hole_is_its_end(bench: Bench) -> None:
    _, batches = await filled(bench, count=8)
    log = await bench.log()
    log.report_hole(2, 4)
    assert await log.behind_damage(3) == 5
    assert await sound_around_damage(log) == [*batches[:2], *batches[5:]]


async def test_log_start__drops_whole_segments_and_stays_after_a_restart(bench: Bench) -> None:
    await filled(bench)
    assert bench.storage is not None
    log = await bench.log()
    await bench.storage.checkpoint()
    first, second, _ = log.manifest.segments
    await log.advance_log_start(second.base_offset + 1)
    for _ in range(20):
        await asyncio.sleep(0)
    assert first.name not in bench.store.names()
    assert second.name in bench.store.names()
    with pytest.raises(NotFound):
        await log.read(second.base_offset, 1, 30)
    await log.advance_log_start(0)
    assert log.log_start_offset == second.base_offset + 1
    await bench.kill(power_cut=True)
    await bench.start()
    log = await bench.log()
    assert (log.log_start_offset, log.end_offset) == (second.base_offset + 1, 30)


async def test_log_start_at_the_end__leaves_an_empty_log_that_keeps_its_offsets(bench: Bench) -> None:
    await filled(bench)
    log = await bench.log()
    await log.advance_log_start(30)
    assert (log.size_bytes, list(log.segments), log.end_offset) == (0, [], 30)
    await bench.storage.checkpoint()
    await bench.kill(power_cut=True)
    await bench.start()
    log = await bench.log()
    assert (log.log_start_offset, log.end_offset, log.staged_end) == (30, 30, 30)
    assert await bench.write(log, b"next") == await content(log)


async def test_read_that_waits__is_served_although_its_file_is_deleted_meanwhile(bench: Bench) -> None:
    _, batches = await filled(bench)
    assert bench.storage is not None
    log = await bench.log()
    await bench.storage.checkpoint()
    await log.read(0, 1, 30)
    reading = asyncio.ensure_future(log.read(0, 1, 30))
    await asyncio.sleep(0)
    await log.advance_log_start(29)
    assert b"".join((await reading).buffers) == batches[0]


async def test_delete_log__frees_everything_and_does_not_come_back(bench: Bench) -> None:
    await filled(bench)
    assert bench.storage is not None
    await bench.storage.checkpoint()
    await bench.write(await bench.log(), b"still in the write-ahead log")
    await bench.storage.delete_log(pid(1))
    for _ in range(30):
        await asyncio.sleep(0)
    assert bench.names("topics/") == []
    assert pid(1) not in bench.storage.partitions()
    await bench.kill()
    await bench.start()
    assert pid(1) not in bench.storage.partitions()
    assert (await bench.log()).end_offset == 0


async def test_garbage__of_a_crash_goes_at_the_next_start(bench: Bench) -> None:
    data, _ = await filled(bench)
    assert bench.storage is not None
    await bench.storage.checkpoint()
    await bench.kill()
    for name in ("topics/x/0/left.log", "wal/0000000000000001-000000ff.index"):
        await bench.store.create(name, [b"left behind"])
    live = bench.names("topics/")
    await bench.start()
    for _ in range(60):
        await asyncio.sleep(0)
    assert bench.names("left") == []
    assert bench.names("ff.index") == []
    assert set(bench.names("topics/")) == set(live) - {"topics/x/0/left.log"}
    assert await content(await bench.log()) == data


async def test_segments__show_the_part_in_the_write_ahead_log_as_they_would_be_cut(bench: Bench) -> None:
    data, _ = await filled(bench)
    log = await bench.log()
    log.segment_bytes = 2000
    parts = log.segments
    assert sum(part.size_bytes for part in parts) == len(data)
    assert all(part.size_bytes <= 2000 for part in parts)
    assert [part.base_offset for part in parts][1:] == [part.last_offset + 1 for part in parts][:-1]
    assert parts[-1].max_timestamp == 1029
    log.segment_bytes, log.segment_ms = 0, 9
    assert [part.max_timestamp for part in log.segments] == [1009, 1019, 1029]


@pytest.mark.parametrize(("segment_bytes", "segment_ms"), [(0, 0), (2000, 0), (0, 9), (2000, 3)])
async def test_segments__are_cut_as_they_were_shown(bench: Bench, segment_bytes: int, segment_ms: int) -> None:
    storage = await bench.start()
    log = await bench.log()
    log.segment_bytes, log.segment_ms = segment_bytes, segment_ms
    for number in range(30):
        await bench.write(log, bytes(500), timestamp_ms=1000 + number)
    shown = [segment[:5] for segment in log.segments]
    assert len(shown) > 1
    await storage.write_behind(log)
    assert [segment[:5] for segment in log.manifest.segments] == shown


async def test_segments__show_the_open_one_with_what_will_be_appended_to_it(bench: Bench) -> None:
    await bench.start()
    log = await bench.log()
    written = await bench.write(log, bytes(500), timestamp_ms=1000)
    await bench.storage.checkpoint()
    name = log.manifest.segments[0].name
    written += await bench.write(log, bytes(500), timestamp_ms=2000)
    [open_] = log.segments
    assert (open_.name, open_.sealed, open_.size_bytes, open_.last_offset) == (name, False, len(written), 1)
    log.segment_ms = 500
    assert [(part.name, part.last_offset) for part in log.segments] == [(name, 0), ("", 1)]
    await bench.storage.write_behind(log)
    assert [part.sealed for part in log.manifest.segments] == [True, False], "cut as it was shown"


@pytest.mark.parametrize("checkpoint", [False, True])
async def test_timestamps__find_the_first_batch_that_is_new_enough(bench: Bench, checkpoint: bool) -> None:
    await bench.start()
    assert bench.storage is not None
    log = await bench.log()
    for timestamp_ms in (10, 30, 20, 50, 40):
        await bench.write(log, bytes(400), timestamp_ms=timestamp_ms)
    if checkpoint:
        await bench.storage.checkpoint()
    found = {
        wanted: batch and batch.base_offset
        for wanted in (0, 10, 11, 31, 50, 51)
        for batch in [await find_timestamp(log, wanted, 5)]
    }
    assert found == {0: 0, 10: 0, 11: 1, 31: 3, 50: 3, 51: None}
    assert await find_timestamp(log, 31, 3) is None
    newest = await max_timestamp_batch(log, 5)
    assert newest is not None and newest.base_offset == 3
    newest = await max_timestamp_batch(log, 3)
    assert newest is not None and newest.base_offset == 1
    assert await max_timestamp_batch(log, 0) is None


class CountingFile:
    """A file in memory that counts how often it is read."""

    name = "segment"

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.reads = 0

    def read_cached(self, position: int, size_bytes: int) -> memoryview | None:
        return None

    async def read(self, position: int, size_bytes: int) -> memoryview:
        self.reads += 1
        return memoryview(self._data[position : position + size_bytes])

    def forget_copies(self) -> None:
        return None

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("how", ["cut", "wiped"])
async def test_walk_of_a_damaged_segment__takes_few_reads_however_much_is_missing(how: str) -> None:
    batches = [bytes(batch_at(n, b"%04d" % n * 5_000).view) for n in range(100)]
    whole = b"".join(batches)
    info = SegmentInfo(0, 99, len(whole), 1000, 0, name="segment", sealed=True)
    kept = whole[: len(batches[0]) * 30 + 17]
    file = CountingFile(kept if how == "cut" else kept + bytes(len(whole) - len(kept) - len(batches[0])) + batches[-1])
    index = await walk_segment(file, info, 64 * 1024)
    assert file.reads <= 8
    assert index.next_offset == 100 and index.end_position == len(whole)
    assert index.chunk(len(index) - 1).base_offset == (99 if how == "wiped" else 30 // 4 * 4), "what is sound is found"


async def test_bytes_between__counts_what_is_in_segments_and_what_is_not_yet(bench: Bench) -> None:
    _, batches = await filled(bench, 30)
    assert bench.storage is not None
    log = await bench.log()
    await bench.storage.checkpoint()
    batches += [await bench.write(log, b"%04d" % n * 150) for n in range(10)]
    assert len(log.manifest.segments) > 1
    assert len(log.wal)
    for first in range(40):
        for behind in range(first + 1, 41):
            true_bytes = sum(map(len, batches[first:behind]))
            assert log.bytes_between(first, behind, 1 << 30) == pytest.approx(true_bytes, abs=10)
    enough = log.bytes_between(0, 40, 1)
    assert 1 <= enough < log.size_bytes, "one segment is enough"
