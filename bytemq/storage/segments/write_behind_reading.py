"""Reading extents to write them behind: what is damaged is left out, and said.

Owns: which bytes are trusted, and what becomes of damaged ones. Must not: write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bytemq.runtime.logging import get_logger
from bytemq.storage.log_files import LogFiles
from bytemq.storage.reading import Plan, chunk_views, is_sound, plan_extents
from bytemq.storage.segments.batch_walk import salvage
from bytemq.storage.shared_file import SharedFile
from bytemq.storage.wal.extents import Chunk

log = get_logger("storage.write_behind")

READ_BYTES = 1024 * 1024


async def read_chunks(
    files: LogFiles, wal: Mapping[int, SharedFile], offset: int, end_offset: int, holes: list[tuple[int, int]]
) -> tuple[list[Chunk], list[memoryview], int]:
    """Some chunks from `offset` on with their bytes, and the offset after them. Damaged ones are left out, as holes.

    The caller sees to it that no file of `wal` is released meanwhile.
    """
    table = files.wal
    plan = plan_extents(table, wal, offset, READ_BYTES, end_offset, True)
    trusted = 0 not in table.verified[table.find(offset) : table.find(plan.last.base_offset) + 1]
    data = []
    for run in plan.runs:
        view = run.file.read_cached(run.position, run.size_bytes)
        if view is None or run.file.is_doubtful:
            trusted = False
        if view is None:
            view = await run.file.read(run.position, run.size_bytes)
        data.append(view)
    sound_chunks = _sound(plan, data) if not trusted else [True] * len(plan.unverified or ())
    if not all(sound_chunks):  # nothing is given up for lost that is whole in the store
        for run in plan.runs:
            run.file.forget_copies()
        data = [await run.file.read(run.position, run.size_bytes) for run in plan.runs]
        sound_chunks = _sound(plan, data)
    chunks: list[Chunk] = []
    views: list[memoryview] = []
    for (chunk, _, view), is_whole in zip(chunk_views(plan, data), sound_chunks, strict=True):
        if is_whole:
            chunks.append(chunk)
            views.append(view)
            continue
        sound, lost = salvage(view, chunk.base_offset, chunk.next_offset)
        if not lost:  # each batch matches its own checksum: what does not is one of the fields that it leaves out
            sound, lost = [], [(chunk.base_offset, chunk.next_offset - 1)]
        log.error("batches in the write-ahead log are damaged", partition=files.partition, lost=lost)
        holes.extend(lost)
        for batch in sound:
            next_offset = batch.last_offset + 1
            chunks.append(Chunk(batch.base_offset, next_offset, 0, batch.size_bytes, batch.max_timestamp))
            views.append(view[batch.position : batch.position + batch.size_bytes])
    return chunks, views, plan.last.next_offset


def _sound(plan: Plan, data: Sequence[memoryview]) -> list[bool]:
    """Of each chunk whether it is what was written."""
    return [is_sound(view, chunk, checksum) for chunk, checksum, view in chunk_views(plan, data)]
