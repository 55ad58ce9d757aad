"""Units of Parquet files restored by a worker, into a folder of scratch files.

Owns: the folder and the names in it. Must not: keep count of what is there (`storage.restored` does).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from bytemq.compaction.table_jobs import Restore
from bytemq.compaction.worker import Worker
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.stores.local import LocalStore
from bytemq.storage.tables.restored import RestoredFile

BATCH_BYTES = 64 * 1024
"""Of the batches that consumers get: not below what `max.partition.fetch.bytes` of any of them may be for long."""


class WorkerRestorer:
    """Implements `storage.restored.Restorer`."""

    def __init__(self, worker: Worker, folder: Path) -> None:
        """Empties `folder`: what an earlier process left there is of no use."""
        shutil.rmtree(folder, ignore_errors=True)
        self._scratch = LocalStore(folder, threads=2)
        self._worker = worker
        self._made = 0

    @property
    def scratch(self) -> ObjectStore:
        return self._scratch

    async def restore(self, parquet: str, companion: str, unit: int) -> RestoredFile:
        self._made += 1
        folder = str(self._scratch.root)
        job = Restore(parquet, companion, unit, folder, f"{self._made}.restored", BATCH_BYTES)
        try:
            return await self._worker.run(job)
        except BaseException:  # on a full disk, say, where each attempt would leave one
            await self._scratch.delete([job.name])
            raise

    async def close(self) -> None:
        await self._worker.close()
        await self._scratch.close()
