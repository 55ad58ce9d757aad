"""Emptying pools that are drained: what this session answers for is written elsewhere, and published from there.

Owns: what is still in such a pool of the logs that this session owns, and moving it. Must not: choose where it goes, or
touch Parquet files: those are in the primary, where programs that know nothing of pools read them.

Flushes are written behind, as at any other time, and so become segments elsewhere; segments are copied as they are, one
after the other with a rest between, and take their places in the manifest in one step; a snapshot is made anew. What
was superseded goes after its time of grace. Killed anywhere, it goes on where it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from bytemq.errors import BytemqError, Fenced
from bytemq.metadata.store import MetadataStore
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.storage.log_files import LogFiles
from bytemq.storage.manifests.manifest import FileKind, SegmentInfo, with_snapshot
from bytemq.storage.manifests.manifest_codec import StoredManifest, directory_of
from bytemq.storage.manifests.publisher import Publisher
from bytemq.storage.object_names import ObjectNames
from bytemq.storage.objects.object_write_behind import ObjectWriteBehind
from bytemq.storage.pools.contents import manifests_of
from bytemq.storage.pools.names import pool_of
from bytemq.storage.pools.pooled_store import Place, PooledStore
from bytemq.types import PartitionId

log = get_logger("storage.pools")

ROUND_S = 2.0
LOOK_EVERY_S = 15.0
"""For logs that are not open; longer each time that there was none."""
LOOK_AT_LEAST_EVERY_S = 600.0


class PoolDrain:
    """`logs` are those that this session owns and has open. `run` it as a task."""

    def __init__(
        self,
        store: PooledStore,
        place: Place,
        metadata: MetadataStore,
        write_behind: ObjectWriteBehind,
        publisher: Publisher,
        logs: Mapping[PartitionId, LogFiles],
        names: ObjectNames,
        clock: Clock,
    ) -> None:
        self._store = store
        self._place = place
        self._metadata = metadata
        self._write_behind = write_behind
        self._publisher = publisher
        self._logs = logs
        self._names = names
        self._clock = clock
        self._look_at = 0.0
        self._look_every_s = LOOK_EVERY_S
        self.held: set[PartitionId] = set()
        """Partitions with something in such a pool that were not open when it was last looked: their owners should open
        them."""
        self.moved_bytes = 0

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._clock.sleep(ROUND_S)
            drained = {name for name, pool in self._store.pools.items() if pool.is_drained}
            if not drained:
                self.held, self._look_at, self._look_every_s = set(), 0.0, LOOK_EVERY_S
                continue
            try:
                for pool in drained:
                    await self._write_behind.run_from(pool)
                for files in list(self._logs.values()):
                    try:
                        await self._move(files, drained)
                    except Fenced:
                        if not files.released:
                            raise
                await self._look(drained)
            except Fenced:
                raise
            except BytemqError as error:
                log.warning("a pool is not empty yet", pools=sorted(drained), reason=str(error))

    async def _look(self, drained: Collection[str]) -> None:
        """For what is in them of logs that are not open here."""
        if self._clock.monotonic() < self._look_at:
            return
        self.held = {
            partition
            async for partition, stored in manifests_of(self._metadata)
            if partition not in self._logs and stored is not None and is_held(stored, drained)
        }
        self._look_every_s = LOOK_EVERY_S if self.held else min(2 * self._look_every_s, LOOK_AT_LEAST_EVERY_S)
        self._look_at = self._clock.monotonic() + self._look_every_s

    async def _move(self, files: LogFiles, drained: Collection[str]) -> None:
        """What the log has in them. Raises Unavailable."""
        if files.deleted or files.rewriting.locked() or not is_held(files.stored, drained):
            return
        async with files.rewriting:
            for info in segments_in(files.stored, drained):
                if files.deleted or self._logs.get(files.partition) is not files:
                    return
                began = self._clock.monotonic()
                await self._copy(files, info)
                await self._clock.sleep(self._clock.monotonic() - began)
            if has_snapshot_in(files.stored, drained) and files.snapshot_source:
                snapshot = files.snapshot_source()
                await self._publisher.publish(files, lambda manifest: with_snapshot(manifest, snapshot))

    async def _copy(self, files: LogFiles, info: SegmentInfo) -> None:
        if info not in files.manifest.segments:
            return  # it went meanwhile
        data = await self._store.read(info.name)
        name = self._names.name(directory_of(files.partition), info.base_offset, ".log")
        moved = info._replace(name=await self._place(name, [data]))
        await self._publisher.replace_files(files, [info], [moved])
        self.moved_bytes += len(data)


def segments_in(stored: StoredManifest, pools: Collection[str]) -> list[SegmentInfo]:
    """The segments that are in one of these pools."""
    segments = stored.manifest.segments
    return [info for info in segments if info.kind is FileKind.SEGMENT and pool_of(info.name) in pools]


def is_held(stored: StoredManifest, pools: Collection[str]) -> bool:
    """Whether the log has anything in one of these pools that belongs elsewhere."""
    return has_snapshot_in(stored, pools) or bool(segments_in(stored, pools))


def has_snapshot_in(stored: StoredManifest, pools: Collection[str]) -> bool:
    return bool(stored.snapshot_name) and pool_of(stored.snapshot_name) in pools
