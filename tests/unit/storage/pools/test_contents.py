"""Going through the manifests of all partitions."""

from __future__ import annotations

from bytemq.metadata import keys
from bytemq.metadata.store import Put
from bytemq.storage.manifests.manifest import Manifest, SegmentInfo
from bytemq.storage.manifests.manifest_codec import StoredManifest, directory_of, encode_manifest
from bytemq.storage.pools.contents import manifests_of
from tests.support.loop_turns import counted_turns
from tests.support.power_cut_store import MemoryMetadata, Power
from tests.unit.storage.cluster.cluster_bench import pid


async def test_manifests__of_long_logs_leave_the_loop_to_others_after_each() -> None:
    metadata = MemoryMetadata(Power(1))
    for number in range(20):
        folder = directory_of(pid(number))
        segments = tuple(
            SegmentInfo(offset, offset, 1, 0, 0, f"{folder}{offset:020d}-5-1.log", sealed=True)
            for offset in range(1000)
        )
        value = encode_manifest(StoredManifest(Manifest(1, 0, segments)), folder)
        await metadata.txn([], [Put(keys.manifest(pid(number)), value)])
    async with counted_turns() as turns:
        found = [partition async for partition, stored in manifests_of(metadata) if stored is not None]
    assert found == [pid(number) for number in range(20)]
    assert turns.count >= 20
