"""What the storage knows of logs that nobody opened in this session."""

from __future__ import annotations

import pytest

from tests.unit.storage.bench import Bench, pid


@pytest.mark.parametrize("killed", [False, True])
async def test_segments_of__is_answered_without_opening(bench: Bench, killed: bool) -> None:
    storage = await bench.start()
    await bench.write(await bench.log(1), b"old")
    await storage.checkpoint()
    await bench.write(await bench.log(1), b"newer", timestamp_ms=2000)
    await bench.write(await bench.log(2), b"in the write-ahead log only", timestamp_ms=3000)
    before = [tuple(segment[:4] for segment in await storage.segments_of(pid(number))) for number in (1, 2)]
    await (bench.kill() if killed else bench.stop())
    storage = await bench.start()
    revision = bench.metadata.revision
    after = [tuple(segment[:4] for segment in await storage.segments_of(pid(number))) for number in (1, 2)]
    assert after == before
    assert [segment.max_timestamp for segment in await storage.segments_of(pid(1))] == [2000], "the open one goes on"
    assert not await storage.segments_of(pid(3))
    assert bench.metadata.revision == revision


async def test_segments_of__a_log_that_is_in_its_manifest_only(bench: Bench) -> None:
    storage = await bench.start()
    log = await bench.log(1)
    await bench.write(log, b"old")
    await storage.checkpoint()
    segments = log.manifest.segments
    await bench.stop()
    storage = await bench.start()
    assert list(await storage.segments_of(pid(1))) == list(segments)
