"""The workload of the power-cut test while calls to the store fail: no space and I/O errors, at any call.

Appends may fail then, but never lie: what was acknowledged is there, what was reported as failed is not, and when the
faults end the storage works again by itself.
"""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from bytemq.errors import BytemqError, Full, Unavailable
from bytemq.types import PartitionId
from tests.support.log_workload import Model, Workload, attempted, check_recovered, opened, until
from tests.support.power_cut_store import MemoryMetadata, Power, PowerCutStore

SEEDS = range(int(os.environ.get("POWER_CUT_SEEDS", "40")))


class Faults:
    """Fails some calls, in bursts, for as long as it is on."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._burst = 0
        self.on = False
        self.count = 0

    def __call__(self, operation: str = "txn", name: str = "") -> BytemqError | None:
        if not self.on or operation in ("open", "size", "list"):
            return None
        if not self._burst and self._chance.random() < 0.03:
            self._burst = self._chance.choice((1, 1, 2, 8))
        if not self._burst:
            return None
        self._burst -= 1
        self.count += 1
        return self._chance.choice((Unavailable("I/O error"), Full("no space")))


@pytest.mark.parametrize("seed", SEEDS)
async def test_faults__fail_appends_but_lose_nothing_acknowledged(seed: int) -> None:
    chance = random.Random(seed)
    power = Power(seed)
    store, metadata = PowerCutStore(power), MemoryMetadata(power)
    faults = Faults(chance)
    store.fault, metadata.fault, metadata.fault_after = faults, faults, faults
    models: dict[PartitionId, Model] = {}
    for session in (1, 2, 3):
        storage = await opened(store, metadata, session)
        workload = Workload(storage, models, chance, session)
        for partition, model in list(models.items()):
            if partition not in set(storage.partitions()):
                assert model.deletion_asked or not model.exists
                del models[partition]
                continue
            files = await workload.open(partition)
            await check_recovered(files, model)
            model.deletion_asked = False
        while len(workload.logs) < 3:
            await workload.open(workload.new_partition())
        faults.on = True
        await asyncio.gather(workload.run(80), workload.run(80))
        faults.on = False
        await _becomes_healthy(workload)
        await storage.close()
        store, metadata = store.after_power_cut(power), metadata.after_power_cut(power)
        store.fault, metadata.fault, metadata.fault_after = faults, faults, faults
    assert faults.count


async def _becomes_healthy(workload: Workload) -> None:
    await until(lambda: not workload.storage.pending_bytes)
    for files in workload.logs.values():
        model = workload.models[files.partition]
        model.batches = [batch for batch in model.batches if batch.next_offset <= model.acked_end]
        while model.acked_end == 0 or model.acked_end < model.end:
            failed = workload.failed
            workload.append(files)
            await until(lambda: model.acked_end == model.end or failed != workload.failed)  # noqa: B023
    await until(lambda: workload.storage.healthy is None)  # found out without an append
    assert await attempted(workload.storage.checkpoint())
