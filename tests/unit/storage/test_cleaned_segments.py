"""Reading, finding, checking and recovering a log in which the cleaner left gaps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from bytemq.errors import Corrupt, Unavailable
from bytemq.storage.log_files import LogFiles
from bytemq.storage.log_opening import headers_after
from bytemq.storage.log_timestamps import find_timestamp, max_timestamp_batch
from bytemq.storage.manifests.manifest import PartitionSnapshot, SegmentInfo, contradictions
from bytemq.storage.segments.batch_walk import StoredBatch
from bytemq.storage.segments.segment_files import walk_segment
from bytemq.types import PartitionId
from tests.support.cleaning import clean_by_hand
from tests.support.log_workload import until
from tests.unit.storage.bench import CONFIG, Bench, batch_at, content

COUNT = 60
EVERY_SEVENTH = lambda batch: batch.base_offset % 7 == 3  # noqa: E731
NOTHING = lambda batch: False  # noqa: E731
LATE = lambda batch: batch.base_offset > 25  # noqa: E731
EARLY = lambda batch: batch.base_offset < 9  # noqa: E731
KEEPS = pytest.mark.parametrize("keeps", [EVERY_SEVENTH, NOTHING, LATE, EARLY])
Keeps = Callable[[StoredBatch], bool]


async def cleaned(bench: Bench, keeps: Keeps, *, durable: bool = True) -> tuple[LogFiles, dict[int, bytes]]:
    """A log of `COUNT` batches of one record, its sealed segments cleaned; and what has to be in it, by offset."""
    storage = await bench.start()
    log = await bench.log()
    log.snapshot_source = lambda: PartitionSnapshot(log.end_offset)
    kept = {}
    for n in range(COUNT):
        kept[n] = await bench.write(log, b"%04d" % n * 100, timestamp_ms=1000 + 10 * n)
    await storage.checkpoint()
    info = await clean_by_hand(bench.store, storage, log, keeps, chunk_bytes=CONFIG.chunk_bytes)
    assert info.last_offset < COUNT - 1, "the open segment is not cleaned"
    for n in range(info.last_offset):
        if not keeps(StoredBatch(0, 0, n, n, 0)):
            del kept[n]
    return log, kept


@KEEPS
async def test_read__at_an_offset_that_was_cleaned_gives_what_comes_next(bench: Bench, keeps: Keeps) -> None:
    log, kept = await cleaned(bench, keeps)
    for restarted in (False, True):
        if restarted:
            await bench.kill(power_cut=True)
            await bench.start()
            log = await bench.log()
        for offset in range(COUNT):
            wanted = min(n for n in kept if n >= offset)
            for read in (await log.read(offset, 1, COUNT), log.read_cached(offset, 1, COUNT)):
                assert read is not None
                assert (b"".join(read.buffers), read.base_offset) == (kept[wanted], wanted), offset
                assert read.next_offset == wanted + 1
            whole = await log.read(offset, 1 << 20, COUNT)
            assert b"".join(whole.buffers).startswith(kept[wanted])
        assert await content(log) == b"".join(kept.values())


@KEEPS
async def test_read__ends_before_the_end_offset_although_it_falls_into_a_gap(bench: Bench, keeps: Keeps) -> None:
    log, kept = await cleaned(bench, keeps)
    for end_offset in range(1, COUNT):
        for offset in range(0, end_offset, 5):
            read = await log.read(offset, 1 << 20, end_offset)
            found = b"".join(read.buffers)
            assert b"".join(kept[n] for n in kept if offset <= n < end_offset).startswith(found)
            assert bool(found) == any(offset <= n < end_offset for n in kept)


@KEEPS
async def test_timestamps__are_found_beyond_a_gap(bench: Bench, keeps: Keeps) -> None:
    log, kept = await cleaned(bench, keeps)
    for n in range(COUNT):
        found = await find_timestamp(log, 1000 + 10 * n - 5, COUNT)
        assert found is not None and found.base_offset == min(k for k in kept if k >= n)
    newest = await max_timestamp_batch(log, COUNT)
    assert newest is not None and newest.base_offset == COUNT - 1


async def test_manifest__knows_where_the_cleaned_part_ends(bench: Bench) -> None:
    log, _ = await cleaned(bench, EVERY_SEVENTH)
    first = log.manifest.segments[0]
    assert log.manifest.first_dirty_offset == first.last_offset + 1
    assert contradictions(log.manifest) == []
    await log.advance_log_start(first.last_offset + 1)
    assert log.manifest.first_dirty_offset == log.log_start_offset


async def test_damaged_footer__of_a_cleaned_segment_costs_nothing(bench: Bench) -> None:
    log, kept = await cleaned(bench, EVERY_SEVENTH)
    info = log.manifest.segments[0]
    await bench.kill()
    bench.store.content(info.name)[info.size_bytes + 9] ^= 0x20
    await bench.start()
    log = await bench.log()
    assert await content(log) == b"".join(kept.values())
    assert (await log.read(0, 1, COUNT)).base_offset == min(kept)


async def test_flipped_bit__in_a_cleaned_segment_is_never_served(bench: Bench) -> None:
    log, kept = await cleaned(bench, EVERY_SEVENTH)
    info = log.manifest.segments[0]
    damaged = sorted(kept)[2]
    position = sum(len(kept[n]) for n in sorted(kept)[:2]) + 200
    await bench.kill()
    bench.store.content(info.name)[position] ^= 0x20
    await bench.start()
    log = await bench.log()
    for offset in sorted(kept):
        if offset == damaged:
            with pytest.raises(Corrupt):
                await log.read(offset, 1, COUNT)
        else:
            assert b"".join((await log.read(offset, 1, COUNT)).buffers) == kept[offset]
    for offset in (damaged - 1, damaged + 1):
        with pytest.raises(Corrupt):
            await log.read(offset, 1, COUNT)


async def test_recovery__passes_over_gaps_after_the_snapshot(bench: Bench) -> None:
    log, kept = await cleaned(bench, EVERY_SEVENTH)
    # As if it had been published without one: what comes after the gap must still be found in the segments.
    log.stored = log.stored._replace(snapshot=b"", snapshot_offset=-1)
    headers = await headers_after(log, None)
    assert [header.base_offset for header in headers] == sorted(kept)


async def test_replaced_files__go_when_nobody_reads_them_any_more(bench: Bench) -> None:
    await cleaned(bench, NOTHING)
    for _ in range(60):
        await asyncio.sleep(0)
    assert sorted(bench.names("topics/")) == sorted(bench.named(PartitionId(*(await bench.log()).partition)))


@pytest.mark.parametrize("when", ["fault", "fault_after"])
async def test_replacing__that_may_have_been_published_leaves_no_files_once_that_is_known(
    bench: Bench, when: str
) -> None:
    storage = await bench.start()
    log = await bench.log()
    for offset in range(COUNT):
        await bench.write(log, b"%03d" % offset * 100)
    await storage.checkpoint()
    setattr(bench.metadata, when, lambda: Unavailable("away"))
    with pytest.raises(Unavailable):
        await clean_by_hand(bench.store, storage, log, EVERY_SEVENTH, chunk_bytes=CONFIG.chunk_bytes)
    setattr(bench.metadata, when, None)
    await storage.seal(log)
    assert log.manifest.segments[0].is_cleaned is (when == "fault_after")
    await until(lambda: bench.names("topics/") == sorted(bench.named(log.partition)))


async def test_replacing__what_somebody_else_replaced_changes_nothing(bench: Bench) -> None:
    log, kept = await cleaned(bench, EVERY_SEVENTH)
    before = log.manifest
    stranger = SegmentInfo(0, 9, 100, 0, 0, "topics/x/0/other.log", True)
    await bench.store.create("topics/x/0/never.log", [b"never published"])
    with pytest.raises(Unavailable):
        await bench.storage.replace_files(log, [stranger], [stranger._replace(name="topics/x/0/never.log")])
    for _ in range(60):
        await asyncio.sleep(0)
    assert log.manifest == before
    assert "topics/x/0/never.log" not in bench.store.names()
    assert await content(log) == b"".join(kept.values())


async def test_walk_segment__begins_a_chunk_with_the_first_batch_that_is_there(bench: Bench) -> None:
    data = b"".join(bytes(batch_at(offset, b"x" * 100).view) for offset in (5, 9, 20))
    await bench.store.create("cleaned", [data])
    info = SegmentInfo(2, 20, len(data), 1000, 0, "cleaned", sealed=True, is_cleaned=True)
    index = await walk_segment(await bench.store.open_read("cleaned"), info, chunk_bytes=1)
    assert [index.chunk(n)[:2] for n in range(len(index))] == [(5, 9), (9, 20), (20, 21)]
    await bench.start()
