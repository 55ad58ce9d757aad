"""What the metadata refer to in each pool.

Owns: the counting. Must not: ask a store: what is live is what metadata say.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from bytemq.errors import Corrupt
from bytemq.metadata import keys
from bytemq.metadata.store import MetadataStore
from bytemq.runtime.steps import Pace
from bytemq.storage.manifests.manifest import FileKind
from bytemq.storage.manifests.manifest_codec import STEP_BYTES, StoredManifest, decode_manifest, directory_of
from bytemq.storage.objects.session_log import decode_tail, pools_of_tail
from bytemq.storage.pools.names import pool_of
from bytemq.types import PartitionId


@dataclass(slots=True)
class PoolContents:
    segments: int = 0
    segment_bytes: int = 0
    snapshots: int = 0
    session_logs: int = 0
    """Write-ahead logs of sessions that have a flush or an index there."""
    tables: int = 0
    """Parquet files, which stay in the primary."""
    table_bytes: int = 0

    def __str__(self) -> str:
        mib = self.segment_bytes / (1 << 20)
        logs = f"{self.session_logs} write-ahead logs"
        return f"{self.segments} segments ({mib:.1f} MiB), {logs}, {self.snapshots} snapshots"

    @property
    def is_empty(self) -> bool:
        """Of what a drain moves."""
        return not (self.segments or self.snapshots or self.session_logs)


async def contents(metadata: MetadataStore) -> dict[str, PoolContents]:
    """By pool. Raises Corrupt when a manifest or a tail record is damaged, Unavailable."""
    found: dict[str, PoolContents] = {}
    async for partition, stored in manifests_of(metadata):
        if stored is None:
            raise Corrupt(f"the manifest {keys.manifest(partition)} is damaged; see bytemq verify")
        for info in stored.manifest.segments:
            of_pool = found.setdefault(pool_of(info.name), PoolContents())
            if info.kind is FileKind.SEGMENT:
                of_pool.segments += 1
                of_pool.segment_bytes += info.size_bytes
            else:
                of_pool.tables += 1
                of_pool.table_bytes += info.size_bytes
        if stored.snapshot_name:
            found.setdefault(pool_of(stored.snapshot_name), PoolContents()).snapshots += 1
    for entry in (await metadata.range(keys.SESSION_LOGS)).entries:
        for pool in pools_of_tail(decode_tail(entry.value)):
            found.setdefault(pool, PoolContents()).session_logs += 1
    return found


async def manifests_of(metadata: MetadataStore) -> AsyncIterator[tuple[PartitionId, StoredManifest | None]]:
    """All of them; None for a damaged one."""
    pace = Pace(STEP_BYTES)
    for entry in (await metadata.range(keys.MANIFESTS)).entries:
        partition = keys.partition_of_manifest(entry.key)
        try:
            yield partition, decode_manifest(entry.value, directory_of(partition))
        except Corrupt:
            yield partition, None
        if pace.is_over(len(entry.value)):
            await asyncio.sleep(0)
