"""Write-behind where something is wrong with one log: all the others must go on."""

from __future__ import annotations

import pytest

from bytemq.errors import Corrupt
from bytemq.storage.manifest import contradictions
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
