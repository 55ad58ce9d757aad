"""What every storage test starts from: a store in memory, metadata in memory, and one open storage."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.unit.storage.bench import Bench


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.stop()
