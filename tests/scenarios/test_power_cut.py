"""The power-cut test: whatever the moment, every acknowledged batch is there afterwards, dense, once.

A workload runs on a store that forgets what was not synced. The power goes at one step of the write path (writes,
syncs, new names, renames, deletions, metadata transactions, of appends, write-behind, rolling, recycling, retention,
recovery itself), the storage is opened again and compared with a model; then it goes on from there, several times.
"""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from bytemq.types import PartitionId
from tests.support.log_workload import Model, Workload, check_recovered, opened
from tests.support.power_cut_store import MemoryMetadata, Power, PowerCut, PowerCutStore

SEEDS = range(int(os.environ.get("POWER_CUT_SEEDS", "60")))
ROUNDS = 5


async def run_until_power_cut(
    store: PowerCutStore,
    metadata: MemoryMetadata,
    models: dict[PartitionId, Model],
    session: int,
    durability: str,
) -> None:
    """One session: recovers, checks, works; ends when the power goes or with a clean stop."""
    chance = random.Random(session * 1000 + store.power.random.randrange(1000))
    storage = await opened(store, metadata, session, durability)
    workload = Workload(storage, models, chance, session)
    known = set(storage.partitions())
    for partition, model in list(models.items()):
        if partition not in known and (model.deletion_asked or not model.exists):
            assert model.deletion_asked or not model.batches
            del models[partition]
            continue
        files = await workload.open(partition)
        await check_recovered(files, model)
        model.deletion_asked = False
    for _ in range(3 - len(models)):
        new = workload.new_partition()
        models[new] = Model(new)
        await workload.open(new)
    await asyncio.gather(workload.run(60), workload.run(60))
    await storage.close()


async def cut(seed: int, durability: str = "fsync", *, kills: float = 0) -> tuple[int, int]:
    """All rounds of one seed. Returns how many sessions were cut, and how many stopped cleanly.

    `kills`: how often it is only the process that dies, while the kernel lives on.
    """
    chance = random.Random(seed)
    power = Power(seed, chance.randrange(600))
    store, metadata = PowerCutStore(power), MemoryMetadata(power)
    models: dict[PartitionId, Model] = {}
    cuts = 0
    for session in range(1, ROUNDS + 1):
        before = asyncio.all_tasks()
        work = asyncio.ensure_future(run_until_power_cut(store, metadata, models, session, durability))
        gone = asyncio.ensure_future(power.gone.wait())
        await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
        if work.done() and not isinstance(work.exception(), PowerCut):
            work.result()
        else:
            cuts += 1
        for task in asyncio.all_tasks() - before:
            task.cancel()
        await asyncio.gather(*(asyncio.all_tasks() - before), return_exceptions=True)
        power = Power(seed * 100 + session, chance.choice((chance.randrange(40), chance.randrange(700))))
        if session == ROUNDS - 1:
            power.steps_left = None
        killed = chance.random() < kills
        store = store.after_kill(power) if killed else store.after_power_cut(power)
        for model in models.values():
            model.lossy = model.lossy or (durability == "page-cache" and not killed)
        metadata = metadata.after_power_cut(power)
        store.always_cold = chance.random() < 0.3
    return cuts, ROUNDS - cuts


@pytest.mark.parametrize("seed", SEEDS)
async def test_power_cut__keeps_every_acknowledged_batch(seed: int) -> None:
    cuts, clean = await cut(seed)
    assert cuts + clean == ROUNDS
    assert clean >= 1  # the last session runs to its end and checks everything once more


@pytest.mark.parametrize("seed", SEEDS[:20])
async def test_power_cut__after_a_kill_keeps_what_was_served_in_between(seed: int) -> None:
    _, clean = await cut(seed, kills=0.5)
    assert clean >= 1


@pytest.mark.parametrize("seed", SEEDS[:20])
async def test_kill__keeps_every_acknowledged_batch_with_page_cache_durability(seed: int) -> None:
    _, clean = await cut(seed, "page-cache", kills=1)
    assert clean >= 1


@pytest.mark.parametrize("seed", SEEDS[:20])
async def test_power_cut__leaves_a_clean_prefix_with_page_cache_durability(seed: int) -> None:
    _, clean = await cut(seed, "page-cache", kills=0.3)
    assert clean >= 1
