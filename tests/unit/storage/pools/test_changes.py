"""Pools come, are drained and go by rules: what would lose data, or contradicts itself, is refused with a sentence."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from bytemq.errors import Corrupt, Invalid, NotFound, Unavailable
from bytemq.metadata import features, keys, values
from bytemq.metadata.pools import PoolUse
from bytemq.metadata.store import Put
from bytemq.runtime.clock import SystemClock
from bytemq.storage.manifests.manifest import Manifest, SegmentInfo
from bytemq.storage.manifests.manifest_codec import StoredManifest, directory_of, encode_manifest
from bytemq.storage.pools.changes import add_pool, set_use
from bytemq.storage.pools.names import MOST_POOLS
from bytemq.storage.pools.opening import open_pool_at, opener_by, pool_values
from tests.support.power_cut_store import MemoryMetadata, Power
from tests.unit.storage.cluster.cluster_bench import pid

CLOCK, RANDOM = SystemClock(), Random(1)


async def metadata_at(level: int = features.POOLS) -> MemoryMetadata:
    metadata = MemoryMetadata(Power(1))
    puts = [Put(keys.IDENTITY, b"cluster"), Put(keys.FEATURE_LEVEL, values.encode_number(level))]
    await metadata.txn([], puts)
    return metadata


async def add(metadata: MemoryMetadata, name: str, folder: Path) -> None:
    await add_pool(metadata, name, folder.as_uri(), CLOCK, RANDOM)


async def uses(metadata: MemoryMetadata) -> dict[str, PoolUse]:
    return {name: value.use for name, value in (await pool_values(metadata)).items()}


async def test_add__marks_the_store_and_no_other_cluster_or_pool_gets_it(tmp_path: Path) -> None:
    metadata = await metadata_at()
    await add(metadata, "b", tmp_path / "b")
    assert (tmp_path / "b" / "cluster" / "id").read_bytes() == b"cluster/b"
    with pytest.raises(Invalid, match="is in use as cluster/b"):
        await add(metadata, "c", tmp_path / "b")
    other = await metadata_at()
    await other.txn([], [Put(keys.IDENTITY, b"other")])
    with pytest.raises(Invalid, match="is in use as cluster/b"):
        await add(other, "b", tmp_path / "b")
    assert await uses(metadata) == {"b": PoolUse.IN_USE} and await uses(other) == {}


async def test_add__of_the_primary_or_under_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    metadata = await metadata_at()
    (tmp_path / "primary" / "cluster").mkdir(parents=True)
    (tmp_path / "primary" / "cluster" / "id").write_bytes(b"cluster")
    with pytest.raises(Invalid, match="is in use as cluster "):
        await add(metadata, "b", tmp_path / "primary")
    await add(metadata, "b", tmp_path / "b")
    with pytest.raises(Invalid, match="there is the pool b already"):
        await add(metadata, "b", tmp_path / "b")
    with pytest.raises(Invalid, match="always will be"):
        await add(metadata, "b", tmp_path / "c")
    for name in ("primary", "B", "a/b", ""):
        with pytest.raises(Invalid, match="cannot be a pool's name"):
            await add(metadata, name, tmp_path / "c")
    for number in range(MOST_POOLS - 2):
        await add(metadata, f"p{number}", tmp_path / f"p{number}")
    with pytest.raises(Invalid, match="at most"):
        await add(metadata, "more", tmp_path / "more")


async def test_add__waits_for_a_feature_level_that_knows_pools(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="bytemq cluster upgrade"):
        await add(await metadata_at(features.POOLS - 1), "b", tmp_path / "b")
    assert not (tmp_path / "b").exists()


async def test_use__changes_by_the_rules(tmp_path: Path) -> None:
    metadata = await metadata_at()
    with pytest.raises(Invalid, match="no other pool would be left"):
        await set_use(metadata, "primary", PoolUse.DRAINED)
    await add(metadata, "b", tmp_path / "b")
    await set_use(metadata, "primary", PoolUse.DRAINED)
    with pytest.raises(Invalid, match="no other pool would be left"):
        await set_use(metadata, "b", PoolUse.DRAINED)
    await set_use(metadata, "primary", PoolUse.IN_USE)
    with pytest.raises(Invalid, match="drain b"):
        await set_use(metadata, "b", PoolUse.REMOVED)
    with pytest.raises(Invalid, match="primary store stays"):
        await set_use(metadata, "primary", PoolUse.REMOVED)
    with pytest.raises(NotFound):
        await set_use(metadata, "c", PoolUse.DRAINED)


async def test_removal__waits_until_nothing_is_there_and_the_name_keeps_its_meaning(tmp_path: Path) -> None:
    metadata = await metadata_at()
    await add(metadata, "b", tmp_path / "b")
    await set_use(metadata, "b", PoolUse.DRAINED)
    directory = directory_of(pid(1))
    segment = SegmentInfo(0, 9, 100, 1, 1, f"@b/{directory}0-1-1.log", sealed=True)
    manifest = encode_manifest(StoredManifest(Manifest(1, segments=(segment,))), directory)
    await metadata.txn([], [Put(keys.manifest(pid(1)), manifest)])
    with pytest.raises(Invalid, match="not empty yet: 1 segments"):
        await set_use(metadata, "b", PoolUse.REMOVED)
    await metadata.txn([], [], [keys.manifest(pid(1))])
    await set_use(metadata, "b", PoolUse.REMOVED)
    with pytest.raises(NotFound):
        await set_use(metadata, "b", PoolUse.IN_USE)
    with pytest.raises(Invalid, match="always will be"):
        await add(metadata, "b", tmp_path / "c")
    await add(metadata, "b", tmp_path / "b")
    assert await uses(metadata) == {"b": PoolUse.IN_USE}


async def test_opening__refuses_what_is_not_the_pool_that_the_name_means(tmp_path: Path) -> None:
    metadata = await metadata_at()
    await add(metadata, "b", tmp_path / "b")
    opener = opener_by(metadata, "cluster", CLOCK, RANDOM)
    await (await opener("b")).close()
    with pytest.raises(Corrupt, match="know no pool of this name"):
        await opener("c")
    (tmp_path / "b" / "cluster" / "id").unlink()
    with pytest.raises(Invalid, match="is not the pool that it was"):
        await opener("b")
    with pytest.raises((Invalid, Unavailable)):
        await open_pool_at("s3://bucket/x?password=x", "b", "cluster", CLOCK, RANDOM)
