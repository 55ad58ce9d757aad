"""Write-behind where something is wrong with one log, and how it shares the device with others."""

from __future__ import annotations

import itertools

import pytest

from bytemq.errors import Corrupt
from bytemq.runtime.clock import Clock, SystemClock
from bytemq.storage.manifests.manifest import contradictions
from tests.unit.storage.bench import Bench


async def test_write_behind__of_a_log_that_lost_its_open_segment_goes_on_in_another(bench: Bench) -> None:
    storage = await bench.start()
    hit, other = await bench.log(1), await bench.log(2)
    await bench.write(hit, b"lost")
    await bench.write(other, b"kept")
    await storage.checkpoint()
    await bench.kill()
    await bench.store.delete([hit.manifest.segments[-1].name])
    storage = await bench.start()
    hit, other = await bench.log(1), await bench.log(2)
    data = await bench.write(hit, b"new")
    await bench.write(other, b"new, too")
    await storage.checkpoint()
    assert (len(hit.wal), len(other.wal)) == (0, 0)
    assert contradictions(hit.manifest) == []
    assert (await hit.read(1, 1000, 2)).buffers == [data]
    with pytest.raises(Corrupt):
        await hit.read(0, 1000, 2)


async def test_write_behind__gives_the_device_little_at_a_time(bench: Bench) -> None:
    storage = await bench.start(write_behind_step_bytes=1 << 20, segment_bytes=1 << 26, bulk_synced_bytes=1 << 30)
    log = await bench.log()
    for _ in range(8):
        await bench.write(log, b"x" * 600_000)
    unsynced = [0]

    def watch(operation: str, name: str) -> None:
        if name.startswith("topics/"):
            unsynced.append(0 if operation == "sync" else unsynced[-1] + (operation == "write"))

    bench.store.fault = watch
    await storage.checkpoint()
    bench.store.fault = None
    syncs = sum(1 for before, after in itertools.pairwise(unsynced) if before and not after)
    assert syncs >= 3, "one sync for all of it keeps every other one waiting"


async def test_write_behind__does_not_rest_while_somebody_waits_for_room(bench: Bench) -> None:
    storage = await bench.start(write_behind_step_bytes=1000, wal_retained_bytes=64 * 1024)
    log = await bench.log()
    slept: list[float] = []
    clock = storage._write_behind._clock
    storage._write_behind._clock = Resting(clock, slept)
    await bench.write(log, *[b"x" * 900] * 4)
    await storage.checkpoint()
    assert slept, "with plenty of room it rests"
    slept.clear()
    storage._write_behind._awaited = 1
    await bench.write(log, *[b"x" * 900] * 4)
    await storage.checkpoint()
    assert not slept


class Resting(SystemClock):
    """A clock that notes for how long one sleeps."""

    def __init__(self, clock: Clock, slept: list[float]) -> None:
        super().__init__()
        self._slept = slept

    async def sleep(self, seconds: float) -> None:
        self._slept.append(seconds)


@pytest.mark.parametrize(("segment_bytes", "segment_ms"), [(0, 0), (0, 500), (0, 3_000), (400, 0), (2_000, 1_500)])
async def test_segments__of_what_is_in_the_log_are_those_that_are_written(
    bench: Bench, segment_bytes: int, segment_ms: int
) -> None:
    storage = await bench.start(bulk_synced_bytes=1 << 30)
    log = await bench.log()
    log.segment_bytes, log.segment_ms = segment_bytes, segment_ms
    for checkpoints in range(3):
        for number in range(7):
            await bench.write(log, b"x" * 50, timestamp_ms=1_000 + 1_000 * checkpoints + 100 * number)
        foreseen = [segment._replace(name="", sealed=False) for segment in log.segments]
        await storage.checkpoint()
        assert [segment._replace(name="", sealed=False) for segment in log.manifest.segments] == foreseen
