"""Deleting what is no longer part of anything.

Owns: the deletion of files that no published manifest and no tail record names. Must not: decide that something is
superseded.

Deleting comes last: after the successor was published, and after the readers that had planned with the file. What a
crash left behind is found at the next start by listing the store; what is live is what manifests and tail records say,
never what the listing says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from bytemq.errors import BytemqError, Corrupt
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.runtime.steps import Pace
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.log_files import LogFiles
from bytemq.storage.manifests.manifest_codec import STEP_BYTES, decode_manifest, directory_of, names_of
from bytemq.storage.object_names import maker_of
from bytemq.storage.segments.segment_files import SegmentCache
from bytemq.storage.stores.interface import Store
from bytemq.storage.tables.restored import RestoredUnits
from bytemq.storage.tables.table_file import PUBLIC, partition_folder_of
from bytemq.storage.wal.bulk import BulkFiles
from bytemq.storage.wal.wal_files import WalFiles
from bytemq.types import PartitionId

log = get_logger("storage.garbage")


class Garbage:
    def __init__(
        self,
        store: Store,
        segments: SegmentCache,
        restored: RestoredUnits,
        session_id: int,
        clock: Clock,
        supervisor: Supervisor,
        table_grace_ms: int,
    ) -> None:
        self._store = store
        self._segments = segments
        self._restored = restored
        self._clock = clock
        self._table_grace_ms = table_grace_ms
        self._session_id = session_id
        self._supervisor = supervisor
        self._tasks: set[asyncio.Task[object]] = set()
        self._waiting: set[asyncio.Task[object]] = set()

    def discard(self, names: Sequence[str]) -> None:
        """Deletes files in the background, each when no reader has it pinned.

        Files of tables are read by programs that we know nothing of: they get the grace of `table_grace_ms`. A node
        that stops meanwhile leaves them to the next start.
        """
        tables = [name for name in names if name.startswith(PUBLIC)]
        others = [name for name in names if not name.startswith(PUBLIC)]
        if others:
            task = self._supervisor.start("storage-discard", self._delete(others))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if tables:
            task = self._supervisor.start("storage-discard-tables", self._delete_after_grace(tables))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    async def _delete_after_grace(self, names: Sequence[str]) -> None:
        await self._clock.sleep(self._table_grace_ms / 1000)
        await self._delete(names)

    async def _delete(self, names: Sequence[str]) -> None:
        try:
            for name in names:
                await self._segments.forget(name)
                await self._restored.forget(name)
            await self._store.delete(names)
        except BytemqError as error:
            log.warning("files were not deleted, the next start will", count=len(names), reason=str(error))

    async def idle(self) -> None:
        """Returns when everything discarded was deleted; what has its grace is left to the next start."""
        for task in self._waiting:
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def find(
        self,
        stored: Mapping[PartitionId, tuple[bytes, int]],
        logs: Mapping[PartitionId, LogFiles],
        wal_files: WalFiles,
        bulk: BulkFiles,
    ) -> list[str]:
        """Names that earlier sessions left and nothing refers to. Spare files of theirs are handed to `wal_files`."""
        listed = [info.name for folder in ("topics/", *PUBLIC) for info in await self._store.list(folder)]
        # Names made by this session are in flux, and none of them can be garbage of an earlier one.
        listed = [name for name in listed if maker_of(name) != self._session_id]
        found = [
            info.name
            for info in await self._store.list("wal/")
            if not wal_files.is_needed(info.name) and not wal_files.adopt_spare(info)
        ]
        live: set[str] = set()
        unknown: set[str] = set()  # folders of logs whose manifest is damaged: any file there may be needed
        pace = Pace(STEP_BYTES)
        for partition, (value, _) in list(stored.items()):
            directory = directory_of(partition)
            try:
                live.update(names_of(decode_manifest(value, directory)))
            except Corrupt:
                unknown.add(directory)
            if pace.is_over(len(value)):
                await asyncio.sleep(0)
        live.update(one.file.name for one in bulk.live.values())
        for files in list(logs.values()):
            live.update(names_of(files.stored))
        found.extend(name for name in listed if name not in live and partition_folder_of(name) not in unknown)
        if found:
            log.info("garbage of earlier sessions", count=len(found))
        return found
