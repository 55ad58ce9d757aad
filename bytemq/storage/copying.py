"""The files of a log, from the store of a single node to one that brokers share.

Owns: what a log is made of there: segments of a size that an object store likes, each byte checked on its way, under
names that say what is in them, so that a copy that was interrupted finds what it has made. Must not: know metadata
stores, or choose the logs.

A name tells the offset, no session (0 never lives, so that what an abandoned copy leaves is garbage to any broker),
and the checksum of the content.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from crc32c import crc32c

from bytemq.errors import Corrupt, Invalid
from bytemq.storage.manifests.manifest import FileKind, Manifest, SegmentInfo
from bytemq.storage.manifests.manifest_codec import StoredManifest, directory_of
from bytemq.storage.segments.batch_walk import StoredBatch, batch_at, crc_matches
from bytemq.storage.segments.segment_builder import SegmentBuilder
from bytemq.storage.stores.interface import Buffer, ObjectStore
from bytemq.storage.tables import companion
from bytemq.storage.tables.table_file import SUFFIX, encode_details, table_file
from bytemq.types import PartitionId

READ_BYTES = 8 * 1024 * 1024
SEGMENT_BYTES = 64 * 1024 * 1024
"""What ends up in one object, about."""
CHUNK_BYTES = 64 * 1024


class LogCopier:
    """`existing`: objects of the target and their sizes, as listed when the copy began."""

    def __init__(self, source: ObjectStore, target: ObjectStore, existing: Mapping[str, int]) -> None:
        self._source = source
        self._target = target
        self._existing = existing
        self.copied_bytes = 0
        """Of all logs so far, those included that were there already."""
        self.found_bytes = 0
        """Of these, what was there already."""

    async def copy(self, partition: PartitionId, stored: StoredManifest) -> StoredManifest:
        """The manifest of the copy. Raises Corrupt for bytes that are not what was written, Unavailable."""
        directory = directory_of(partition)
        segments: list[SegmentInfo] = []
        for info in stored.manifest.segments:
            if info.kind is FileKind.PARQUET:
                segments.append(await self._copy_table(directory, info))
            else:
                segments.extend([one async for one in self._copy_segment(directory, info)])
        manifest = Manifest(
            stored.manifest.leader_epoch, stored.manifest.log_start_offset, tuple(segments), holes=stored.manifest.holes
        )
        name = stored.snapshot_name
        if name:
            name = await self._create(directory, stored.snapshot_offset, ".snapshot", [await self._source.read(name)])
        return stored._replace(manifest=manifest, snapshot_name=name)

    async def _copy_segment(self, directory: str, info: SegmentInfo) -> AsyncIterator[SegmentInfo]:
        """One or several: a segment of a node may be larger than an object should be."""
        base_offset = info.base_offset
        made = SegmentBuilder(CHUNK_BYTES)
        async for batch, data in self._batches(info):
            if made.size_bytes and made.size_bytes + batch.size_bytes > SEGMENT_BYTES:
                yield await self._create_segment(directory, info, made, base_offset)
                base_offset = made.last_offset + 1
                made = SegmentBuilder(CHUNK_BYTES)
            made.add(batch, data)
        if made.last_offset != info.last_offset:
            raise Corrupt(f"{info.name} ends at offset {made.last_offset}, not at {info.last_offset}")
        yield await self._create_segment(directory, info, made, base_offset)

    async def _create_segment(
        self, directory: str, info: SegmentInfo, made: SegmentBuilder, base_offset: int
    ) -> SegmentInfo:
        found, parts = made.finish(
            "",
            base_offset,
            created_ms=info.created_ms,
            is_cleaned=info.is_cleaned,
            delete_horizon_ms=info.delete_horizon_ms,
        )
        return found._replace(name=await self._create(directory, base_offset, ".log", parts))

    async def _batches(self, info: SegmentInfo) -> AsyncIterator[tuple[StoredBatch, memoryview]]:
        """Every batch of a segment, with its bytes, which are as they were written."""
        position, wanted_bytes = 0, READ_BYTES
        while position < info.size_bytes:
            size_bytes = min(wanted_bytes, info.size_bytes - position)
            view = memoryview(await self._source.read_range(info.name, position, size_bytes))
            at, wanted_bytes = 0, READ_BYTES
            while (batch := batch_at(view, at, info.size_bytes - position - at)) is not None:
                if batch.size_bytes > len(view) - at:
                    wanted_bytes = max(READ_BYTES, batch.size_bytes)
                    break
                if not crc_matches(view, batch):
                    where = f"{info.name}, offset {batch.base_offset}"
                    raise Corrupt(f"{where}: the checksum does not match; see bytemq verify")
                yield batch, view[at : at + batch.size_bytes]
                at += batch.size_bytes
            if not at and wanted_bytes == READ_BYTES:
                raise Corrupt(f"{info.name}: there is no record batch at position {position}")
            position += at

    async def _copy_table(self, directory: str, info: SegmentInfo) -> SegmentInfo:
        table = table_file(info)
        beside = await self._source.read(table.companion)
        rows = await self._source.read(info.name)
        copied = table._replace(
            companion=await self._create(directory, info.base_offset, companion.SUFFIX, [beside], mark="t")
        )
        folder = info.name[: info.name.rfind("/") + 1]
        name = await self._create(folder, info.base_offset, SUFFIX, [rows], mark="t")
        return info._replace(name=name, details=encode_details(copied))

    async def _create(self, folder: str, offset: int, suffix: str, parts: Sequence[Buffer], *, mark: str = "") -> str:
        """Unless it is there. Its name."""
        size_bytes = checksum = 0
        for part in parts:
            size_bytes += len(memoryview(part))
            checksum = crc32c(part, checksum)
        name = f"{folder}{offset:020d}-0-{mark}{checksum:08x}{suffix}"
        if self._existing.get(name) == size_bytes:
            self.found_bytes += size_bytes
        elif name in self._existing:
            raise Invalid(f"{name} is in the target, and is something else. Copy to another prefix.")
        else:
            await self._target.create(name, parts)
        self.copied_bytes += size_bytes
        return name
