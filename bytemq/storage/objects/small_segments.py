"""Small segments of a coordinator's log become larger ones.

Owns: when some in a row become one, and making it. Must not: touch what was cleaned or converted, or what it replaces
beyond saying so.

Such a log is written behind often, in small pieces, and read whole by whoever takes it over: what counts then is how
many objects it lies in. The cleaner comes only when there is as much that is new as what was kept, which may be a
thousand pieces later. No batch is looked at, so that this costs the broker reading a few MiB and one object.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from bytemq.errors import Corrupt, Fenced
from bytemq.runtime.logging import get_logger
from bytemq.storage.log_files import LogFiles
from bytemq.storage.manifests.manifest import FileKind, SegmentInfo
from bytemq.storage.manifests.manifest_codec import directory_of
from bytemq.storage.manifests.publisher import Publisher
from bytemq.storage.object_names import ObjectNames
from bytemq.storage.objects.segment_in_memory import SegmentInMemory
from bytemq.storage.pools.pooled_store import Place
from bytemq.storage.reading import is_sound
from bytemq.storage.segments.segment_files import SegmentCache
from bytemq.types import PartitionId

log = get_logger("storage.write_behind")

MERGED_AT_ONCE = 16
SMALL_BYTES = 1024 * 1024
"""What is larger is worth a request of its own."""


def small_ones(segments: Sequence[SegmentInfo], limit_bytes: int, given_up: Collection[str] = ()) -> list[SegmentInfo]:
    """The first `MERGED_AT_ONCE` small segments in a row that may become one; nothing if there are fewer. Pure."""
    row: list[SegmentInfo] = []
    for segment in segments:
        if not _is_small(segment) or segment.name in given_up:
            row = []
            continue
        size_bytes = segment.size_bytes + sum(one.size_bytes for one in row)
        if row and (segment.base_offset != row[-1].last_offset + 1 or size_bytes > limit_bytes):
            row = []
        row.append(segment)
        if len(row) == MERGED_AT_ONCE:
            return row
    return []


def _is_small(segment: SegmentInfo) -> bool:
    is_plain = segment.sealed and not segment.is_cleaned and segment.kind is not FileKind.PARQUET
    return is_plain and segment.size_bytes < SMALL_BYTES


class SmallSegments:
    """`logs` are those that this session owns, as they are at any moment."""

    def __init__(
        self,
        place: Place,
        segments: SegmentCache,
        publisher: Publisher,
        logs: Mapping[PartitionId, LogFiles],
        names: ObjectNames,
        chunk_bytes: int,
    ) -> None:
        self._place = place
        self._segments = segments
        self._publisher = publisher
        self._logs = logs
        self._names = names
        self._chunk_bytes = chunk_bytes
        self._given_up: set[str] = set()
        """Segments that cannot be read as they were written: they stay as they are."""

    async def run(self) -> None:
        """Merges what there is to merge. Raises Unavailable, Fenced."""
        for files in [files for files in self._logs.values() if files.is_coordinators]:
            while self._chosen(files) and not files.rewriting.locked():
                async with files.rewriting:
                    try:
                        await self._merge(files, self._chosen(files))
                    except Fenced:
                        if not files.released:
                            raise

    def _chosen(self, files: LogFiles) -> list[SegmentInfo]:
        if files.deleted or self._logs.get(files.partition) is not files:
            return []
        return small_ones(files.manifest.segments, files.segment_limits.most_bytes, self._given_up)

    async def _merge(self, files: LogFiles, chosen: Sequence[SegmentInfo]) -> None:
        if not chosen:
            return
        made = SegmentInMemory(self._chunk_bytes)
        for info in chosen:
            try:
                await self._copy(info, made)
            except Corrupt as error:
                self._given_up.add(info.name)
                log.error("a segment stays as it is, it cannot be merged", segment=info.name, reason=str(error))
                return
        first, aborted = chosen[0], files.snapshot_source().aborted if files.snapshot_source is not None else ()
        info, parts = await made.finish(aborted)
        name = self._names.name(directory_of(files.partition), first.base_offset, ".log")
        info = info._replace(name=await self._place(name, parts), created_ms=first.created_ms)
        await self._publisher.replace_files(files, chosen, [info])

    async def _copy(self, info: SegmentInfo, made: SegmentInMemory) -> None:
        """Raises Corrupt unless it is what was written."""
        segment = await self._segments.get(info)
        segment.pin()
        try:
            data = await segment.read(0, info.size_bytes)
        finally:
            segment.unpin()
        index = segment.index
        for number in range(len(index)):
            chunk = index.chunk(number)
            view = data[chunk.position : chunk.position + chunk.size_bytes]
            if len(view) != chunk.size_bytes or not is_sound(view, chunk, index.checksums[number]):
                raise Corrupt(f"the batches at offsets {chunk.base_offset}..{chunk.next_offset - 1} are damaged")
            await made.add(chunk, view, info.created_ms)
