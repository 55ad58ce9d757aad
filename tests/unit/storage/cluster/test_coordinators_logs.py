"""Logs of coordinators on a shared store: what a take-over has to ask for stays little, however they were written."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from bytemq.errors import Unavailable
from bytemq.storage.cache import block_cache
from bytemq.storage.log_files import LogFiles
from bytemq.storage.manifests.manifest import FileKind, SegmentInfo
from bytemq.storage.manifests.manifest_codec import directory_of
from bytemq.storage.objects import small_segments
from bytemq.storage.objects.small_segments import small_ones
from tests.support.log_workload import snapshot_of
from tests.support.virtual_time import run_virtual
from tests.unit.storage.cluster.cluster_bench import Broker, Cluster, batch, content, eventually, pid

Test = Callable[[Cluster], Awaitable[None]]
EXTENTS = 8
AMPLE = {"wal_retained_bytes": 1 << 30, "segment_bytes": 1 << 20, "wal_flush_bytes": 1 << 20}
"""Nothing but the rules for coordinators makes a segment."""


def run(test: Test) -> None:
    async def main() -> None:
        await test(Cluster())

    run_virtual(main())


async def opened(broker: Broker, number: int, *, is_coordinators: bool) -> LogFiles:
    log = await broker.storage.open_log(pid(number), 1)
    log.snapshot_source = lambda: snapshot_of(log)
    log.is_coordinators = is_coordinators
    return log


async def write_small_segments(broker: Broker, log: LogFiles, count: int) -> None:
    for _ in range(count):
        await broker.write(log, 1)
        await broker.storage.write_behind(log)


def segments_of(files: LogFiles) -> list[tuple[int, int]]:
    return [(segment.base_offset, segment.last_offset) for segment in files.manifest.segments]


def test_a_coordinators_log__is_written_behind_by_itself() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1, coordinator_extents=EXTENTS, **AMPLE)
        log, other = await opened(broker, 0, is_coordinators=True), await opened(broker, 1, is_coordinators=False)
        written: list[bytes] = []
        for _ in range(10 * EXTENTS):
            [one], _ = await asyncio.gather(broker.write(log, 1), broker.write(other, 1))
            written.append(one)
            assert len(log.wal) <= 2 * EXTENTS, "those that came while it was being written are in the next segment"
        assert len(log.manifest.segments) >= 5
        assert len(other.wal) == 10 * EXTENTS, "what nobody waits for is left to be written in larger pieces"
        assert await content(log) == written
        await broker.kill()
        cluster.end(broker)
        second = await cluster.broker(2, storage_upkeep_interval_ms=1_000_000)
        taken = await second.storage.open_log(pid(0), 2)
        assert await content(taken) == written
        assert len(taken.wal) <= 2 * EXTENTS

    run(test)


def test_a_coordinators_log__that_cannot_be_written_behind_does_not_keep_the_others() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1, coordinator_extents=EXTENTS, **{**AMPLE, "wal_retained_flushes": 40})
        log, other = await opened(broker, 0, is_coordinators=True), await opened(broker, 1, is_coordinators=False)
        folder = directory_of(pid(0))
        broker.driver.fault = lambda operation, name: "refused" if name.startswith(folder) else None
        for _ in range(60):
            await asyncio.gather(broker.write(log, 1), broker.write(other, 1))
        await eventually(cluster.clock, lambda: len(other.wal) < 40)
        assert segments_of(log) == []
        broker.driver.fault = lambda operation, name: None
        await broker.write(log, 1)
        await eventually(cluster.clock, lambda: segments_of(log) != [])
        assert len(await content(log)) == 61

    run(test)


def test_small_segments__become_larger_ones_and_nothing_else_changes() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1, coordinator_extents=EXTENTS, **AMPLE)
        log, other = await opened(broker, 0, is_coordinators=True), await opened(broker, 1, is_coordinators=False)
        written, others = [], []
        for _ in range(40):
            written += await broker.write(log, 2)
            others += await broker.write(other, 1)
            await broker.storage.write_behind(log)
            await broker.storage.write_behind(other)
        await eventually(cluster.clock, lambda: len(log.manifest.segments) < small_segments.MERGED_AT_ONCE)
        first = log.manifest.segments[0]
        assert first.last_offset - first.base_offset + 1 >= 2 * small_segments.MERGED_AT_ONCE
        assert first.max_timestamp == 1000 + first.last_offset
        assert len(other.manifest.segments) == 40, "these are read by no coordinator"
        assert await content(log) == written
        await broker.kill()
        cluster.end(broker)
        second = await cluster.broker(2)
        assert await content(await second.storage.open_log(pid(0), 2)) == written
        await cluster.clock.sleep(30)
        folder = directory_of(pid(0))
        listed = {name for name in cluster.objects if name.startswith(folder) and name.endswith(".log")}
        assert len(listed) == len(log.manifest.segments), "what became one is gone after the time of grace"

    run(test)


def test_small_segments__are_left_alone_while_somebody_rewrites_the_log() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1, **AMPLE)
        log = await opened(broker, 0, is_coordinators=True)
        async with log.rewriting:
            await write_small_segments(broker, log, 20)
            await cluster.clock.sleep(10)
            assert len(log.manifest.segments) == 20
        await eventually(cluster.clock, lambda: len(log.manifest.segments) < 20)

    run(test)


def test_small_segments__of_a_log_that_is_released_meanwhile_disturb_nothing() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1, **AMPLE)
        log, other = await opened(broker, 0, is_coordinators=True), await opened(broker, 1, is_coordinators=True)
        async with log.rewriting, other.rewriting:
            await write_small_segments(broker, log, 20)
            await write_small_segments(broker, other, 20)
        broker.driver.latency_s = 1.0
        await eventually(cluster.clock, lambda: log.rewriting.locked())
        await broker.storage.release_log(pid(0))
        await eventually(cluster.clock, lambda: len(other.manifest.segments) < 20, 200)
        assert len(log.manifest.segments) == 20
        assert broker.supervisor.crashes == {}

    run(test)


def test_small_segments__that_are_damaged_stay_as_they_are() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1, **AMPLE)
        log = await opened(broker, 0, is_coordinators=True)
        async with log.rewriting:
            await write_small_segments(broker, log, 40)
        damaged = log.manifest.segments[3].name
        data, token = cluster.objects[damaged]
        cluster.objects[damaged] = (data[:-1], token)  # the footer: nothing is lost by that
        worse = log.manifest.segments[20].name
        data, token = cluster.objects[worse]
        cluster.objects[worse] = (data[:100] + b"?" + data[101:], token)
        await eventually(cluster.clock, lambda: len(log.manifest.segments) <= 25)
        await cluster.clock.sleep(20)
        names = [segment.name for segment in log.manifest.segments]
        assert worse in names and damaged not in names
        assert len(names) == 1 + 4 + 1 + 1 + 3, "sixteen and sixteen have become one each"

    run(test)


def test_small_segments__whose_object_cannot_be_created_are_tried_again() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1, **AMPLE)
        log = await opened(broker, 0, is_coordinators=True)
        async with log.rewriting:
            await write_small_segments(broker, log, 20)
        before = await content(log)
        broker.driver.fault = lambda operation, name: "refused" if operation == "put" else None
        await cluster.clock.sleep(10)
        assert len(log.manifest.segments) == 20
        broker.driver.fault = lambda operation, name: None
        await eventually(cluster.clock, lambda: len(log.manifest.segments) < 20)
        assert await content(log) == before
        assert broker.failures == []

    run(test)


def _segment(base: int, size_bytes: int = 1000, **changes: object) -> SegmentInfo:
    return SegmentInfo(base, base + 9, size_bytes, 0, 0, f"s{base}", True)._replace(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("segments", "chosen"),
    [
        ([_segment(10 * n) for n in range(15)], 0),
        ([_segment(10 * n) for n in range(16)], 16),
        ([_segment(10 * n) for n in range(20)], 16),
        ([_segment(0, is_cleaned=True), *(_segment(10 * n) for n in range(1, 17))], 16),
        ([*(_segment(10 * n) for n in range(15)), _segment(150, sealed=False)], 0),
        ([*(_segment(10 * n) for n in range(15)), _segment(160)], 0),
        ([*(_segment(10 * n) for n in range(15)), _segment(150, 1 << 20)], 0),
        ([*(_segment(10 * n) for n in range(15)), _segment(150, kind=FileKind.PARQUET)], 0),
        ([_segment(10 * n, 7000) for n in range(16)], 0),
    ],
    ids=["few", "enough", "more", "cleaned", "open", "a hole", "large", "converted", "above a segment's limit"],
)
def test_small_ones(segments: list[SegmentInfo], chosen: int) -> None:
    found = small_ones(segments, 100_000)
    assert len(found) == chosen
    assert all(one.last_offset + 1 == after.base_offset for one, after in pairwise(found))


def test_small_ones__that_were_given_up_are_left_out() -> None:
    segments = [_segment(10 * n) for n in range(20)]
    assert small_ones(segments, 100_000, {"s0"}) == segments[1:17]
    assert small_ones(segments, 100_000, {"s100"}) == []


def test_take_over__reads_the_beginning_of_each_large_flush_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_cache, "BEGINNING_BYTES", 4_000)

    async def test(cluster: Cluster) -> None:
        first = await cluster.broker(1, **AMPLE)
        bulk, log = await opened(first, 1, is_coordinators=False), await opened(first, 0, is_coordinators=True)
        written = []
        for _ in range(10):
            one = batch(log.staged_end)
            written.append(bytes(one.view))
            large = first.append(bulk, batch(bulk.staged_end, 50_000))
            await asyncio.gather(large, first.append(log, one))
        await first.kill()
        cluster.end(first)
        second = await cluster.broker(2, storage_upkeep_interval_ms=1_000_000)
        taken = await second.storage.open_log(pid(0), 2)
        before = second.store.traffic.read_bytes
        assert await content(taken) == written
        assert second.store.traffic.read_bytes - before <= 10 * 4_000
        whole = await second.storage.open_log(pid(1), 2)
        assert len(await content(whole)) == 10

    run(test)


def test_bring_near__asks_for_the_next_segments_at_the_same_time() -> None:
    async def test(cluster: Cluster) -> None:
        first = await cluster.broker(1, **AMPLE)
        log = await opened(first, 0, is_coordinators=False)
        written: list[bytes] = []
        for _ in range(10):
            written += await first.write(log, 1)
            await first.storage.write_behind(log)
        await first.kill()
        cluster.end(first)
        second = await cluster.broker(2, open_files=100, storage_upkeep_interval_ms=1_000_000)
        taken = await second.storage.open_log(pid(0), 2)
        second.driver.latency_s = 0.1
        began = cluster.clock.monotonic()
        size_bytes = taken.manifest.segments[0].size_bytes
        assert await taken.bring_near(0, 4 * size_bytes) == taken.manifest.segments[4].base_offset
        assert await taken.bring_near(4, 100 * size_bytes) == taken.end_offset
        assert cluster.clock.monotonic() - began < 0.5, "each time the time of two requests at most"
        asked = len(second.driver.calls)
        assert [bytes(taken.read_cached(offset, 1, 10).buffers[0]) for offset in range(10)] == written
        assert len(second.driver.calls) == asked
        second.driver.fault = lambda operation, name: "refused"
        await taken.bring_near(0, 1)

    run(test)


def test_bring_near__leaves_what_cannot_be_read_to_the_reader() -> None:
    async def test(cluster: Cluster) -> None:
        first = await cluster.broker(1, **AMPLE)
        log = await opened(first, 0, is_coordinators=False)
        await first.write(log, 1)
        await first.storage.write_behind(log)
        await first.kill()
        cluster.end(first)
        second = await cluster.broker(2, storage_upkeep_interval_ms=1_000_000)
        taken = await second.storage.open_log(pid(0), 2)
        second.driver.fault = lambda operation, name: "refused"
        assert await taken.bring_near(0, 1) == taken.end_offset
        with pytest.raises(Unavailable):
            await taken.read(0, 1, 1)

    run(test)
