"""Reading extents to write them behind: what is damaged is left out, and said.

Owns: which bytes are trusted, and what becomes of damaged ones. Must not: write.
"""

from __future__ import annotations

from collections.abc import Mapping

from bytemq.runtime.logging import get_logger
from bytemq.storage.log_files import LogFiles
from bytemq.storage.reading import chunk_views, is_sound, plan_extents
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
        if view is None:
            trusted = False
            view = await run.file.read(run.position, run.size_bytes)
        data.append(view)
    chunks: list[Chunk] = []
    views: list[memoryview] = []
    for chunk, checksum, view in chunk_views(plan, data):
        if trusted or is_sound(view, chunk, checksum):
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
