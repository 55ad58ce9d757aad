"""Segments in a cleaning: read batch by batch, and written as segments again.

Owns: where a segment that is written ends and the next one begins, and merging small batches. Must not: decide what
stays.
"""

from __future__ import annotations

from collections.abc import Sequence

from bytemq.compaction.cleaned_batches import NO_HORIZON, Kept, as_piece, earlier, header_of
from bytemq.compaction.cleaning_rules import Pass
from bytemq.compaction.merging import Merger
from bytemq.compaction.pieces import pieces_of
from bytemq.errors import Corrupt
from bytemq.protocol.records.batch import parse_header
from bytemq.storage.manifests.manifest import SegmentInfo
from bytemq.storage.segments.segment_builder import SegmentBuilder


async def put_file(over: Pass, file: SegmentInfo, end_offset: int) -> tuple[int, bool]:
    """See `cleaning.Form`."""
    async for piece in pieces_of(over.space.store, file, over.job.chunk_bytes):
        end_offset, is_full = over.rules.put(piece, over.transactions, end_offset)
        if is_full:
            return end_offset, True
    return file.last_offset + 1, False


async def copy_files(over: Pass, files: Sequence[SegmentInfo], end_offset: int, written: list[SegmentInfo]) -> None:
    """See `cleaning.Form`."""
    next_offset = files[-1].last_offset + 1
    cleaned_end = min(end_offset, next_offset)
    output = SegmentOutput(over, files[0].base_offset, written, is_cleaned=True)
    for file in files:
        async for piece in pieces_of(over.space.store, file, over.job.chunk_bytes):
            if piece.base_offset >= end_offset:
                if output.is_cleaned:
                    await output.end(end_offset)
                    output = SegmentOutput(over, end_offset, written, is_cleaned=False)
                await output.add(Kept(piece), file)
                continue
            kept = over.rules.kept(piece, over.transactions)
            if kept is None and piece.next_offset == cleaned_end:
                kept = Kept(header_of(parse_header(piece.view)))  # where a file ends can be read from its last batch
            if kept is not None:
                await output.add(kept, file)
    await output.end(next_offset)


class SegmentOutput:
    """Files in a row, each as large as a segment may be."""

    def __init__(self, over: Pass, base_offset: int, written: list[SegmentInfo], *, is_cleaned: bool) -> None:
        self.is_cleaned = is_cleaned
        self._job = over.job
        self._space = over.space
        self._base_offset = base_offset
        self._written = written
        self._builder = SegmentBuilder(over.job.chunk_bytes)
        self._created_ms = 0
        self._horizon_ms = NO_HORIZON
        self._merger = Merger()
        self._waiting: tuple[Kept, SegmentInfo] | None = None
        """The newest that is in the merger, which goes out as it is where it stays alone."""

    async def add(self, kept: Kept, source: SegmentInfo) -> None:
        if kept.open is None or not self._merger.admits(kept.open):
            await self._add_merged()
        if kept.open is None:
            await self._add(kept, source)
        else:
            self._merger.add(kept.open)
            self._waiting = kept, source

    async def _add_merged(self) -> None:
        """What was held back."""
        if self._waiting is not None:
            (kept, source), self._waiting = self._waiting, None
            merged = self._merger.take()
            await self._add(kept if merged is None else Kept(as_piece(merged)), source)

    async def _add(self, kept: Kept, source: SegmentInfo) -> None:
        piece = kept.piece
        if self._builder.size_bytes and self._builder.size_bytes + len(piece.view) > self._job.segment_bytes:
            await self._finish()
        if not self._builder.size_bytes:
            self._created_ms = source.created_ms
        if piece.batch is None:
            self._builder.add_damaged(piece.base_offset, piece.next_offset, piece.view)
        else:
            self._builder.add(piece.batch, piece.view)
        self._horizon_ms = earlier(self._horizon_ms, kept.horizon_ms)

    async def end(self, next_offset: int) -> None:
        """The last file answers for all offsets below `next_offset`. Raises Corrupt where nothing is left of those."""
        await self._add_merged()
        if not self._builder.size_bytes:
            raise Corrupt(f"the end of the log before offset {next_offset} is missing")
        self._builder.last_offset = next_offset - 1
        await self._finish()

    async def _finish(self) -> None:
        job = self._job
        name = f"{job.directory}{self._base_offset:020d}{job.suffix}-{len(self._written):x}.log"
        info, data = self._builder.finish(
            name,
            self._base_offset,
            created_ms=self._created_ms,
            is_cleaned=self.is_cleaned,
            delete_horizon_ms=self._horizon_ms,
        )
        self._builder = SegmentBuilder(job.chunk_bytes)  # before: what it held is written now, and is all that is held
        self._horizon_ms = NO_HORIZON
        self._base_offset = info.last_offset + 1
        await self._space.create(name, data)
        self._written.append(info)
