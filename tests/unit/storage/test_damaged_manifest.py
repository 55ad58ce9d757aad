"""One manifest that is damaged: its partition is offline, everything else works, and nothing of it is thrown away."""

from __future__ import annotations

import asyncio

import pytest

from bytemq.errors import Corrupt
from bytemq.metadata import keys
from bytemq.metadata.store import KeyValue
from tests.unit.storage.bench import Bench, content, pid


def flip_bit(bench: Bench, number: int) -> KeyValue:
    """Damages the manifest of a log; returns it as it was."""
    key = keys.manifest(pid(number))
    entry = bench.metadata.entries[key]
    value = bytearray(entry.value)
    value[7] ^= 1
    bench.metadata.entries[key] = entry._replace(value=bytes(value))
    return entry


async def test_start__with_one_damaged_manifest_takes_that_partition_offline_alone(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    storage = await bench.start()
    hit, sound = await bench.log(1), await bench.log(2)
    lost = await bench.write(hit, b"in a segment")
    kept = await bench.write(sound, b"in a segment")
    await storage.checkpoint()
    lost += await bench.write(hit, b"in the write-ahead log")
    lost += await bench.write(hit, b"twice")
    kept += await bench.write(sound, b"in the write-ahead log")
    await bench.kill()
    before = flip_bit(bench, 1)
    for _ in range(2):
        caplog.clear()
        storage = await bench.start()
        with pytest.raises(Corrupt, match=keys.manifest(pid(1))):
            await bench.log(1)
        with pytest.raises(Corrupt):
            await bench.log(1)
        sound = await bench.log(2)
        for _ in range(40):
            kept += await bench.write(sound, bytes(1000))
        await storage.checkpoint()
        assert await content(sound) == kept
        assert caplog.text.count("the partition is offline") == 1
        await asyncio.sleep(0)
        await bench.stop()
    bench.metadata.entries[before.key] = bench.metadata.entries[before.key]._replace(value=before.value)
    await bench.start()
    assert await content(await bench.log(1)) == lost, "nothing of it was thrown away"
    assert "write-ahead log is damaged" not in caplog.text


async def test_delete_log__also_of_one_whose_manifest_is_damaged(bench: Bench) -> None:
    await bench.start()
    await bench.write(await bench.log(1), b"value")
    await bench.storage.checkpoint()
    await bench.kill()
    flip_bit(bench, 1)
    storage = await bench.start()
    await storage.delete_log(pid(1))
    assert pid(1) not in set(storage.partitions())
    assert keys.manifest(pid(1)) not in bench.metadata.entries
    await bench.stop()
    await bench.start()
    await bench.stop()
    assert bench.names("topics/") == []
