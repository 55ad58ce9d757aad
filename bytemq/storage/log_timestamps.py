"""Finding batches of a log by time: by the greatest timestamps of segments, units of Parquet files, and chunks.

Owns: which chunks are looked at. Must not: look at records (the broker does, in the batch that was found).
"""

from __future__ import annotations

from collections.abc import Sequence

from bytemq.protocol.records.batch import RecordBatch, parse_header
from bytemq.storage.log_files import LogFiles
from bytemq.storage.manifests.manifest import FileKind, SegmentInfo
from bytemq.storage.segments.batch_walk import walk
from bytemq.storage.wal.extents import Chunk


async def find_timestamp(
    files: LogFiles, timestamp_ms: int, end_offset: int, *, start_offset: int = 0
) -> RecordBatch | None:
    """The first whole batch, ending below `end_offset`, whose maximum timestamp is at or above `timestamp_ms`.

    Batches that end below `start_offset` are passed over.
    """
    offset = max(files.log_start_offset, start_offset)
    while (chunk := await _chunk_at_or_after(files, offset, timestamp_ms)) is not None:
        if chunk.base_offset >= end_offset:
            break
        read = await files.read(max(chunk.base_offset, offset), chunk.size_bytes, end_offset)
        for buffer in read.buffers:
            view = memoryview(buffer)
            for batch in walk(view, verify=False):
                if batch.max_timestamp >= timestamp_ms:
                    return parse_header(view, batch.position)
        offset = chunk.next_offset
    return None


async def max_timestamp_batch(files: LogFiles, end_offset: int) -> RecordBatch | None:
    """The first whole batch, ending below `end_offset`, with the greatest maximum timestamp."""
    greatest = -1
    for segment in files.manifest.segments:
        if segment.last_offset < end_offset:
            greatest = max(greatest, segment.max_timestamp)
    offset = files.log_start_offset
    while offset < min(end_offset, files.end_offset):
        chunk = await _chunk_at_or_after(files, offset, greatest + 1)
        if chunk is None or chunk.base_offset >= end_offset:
            break
        read = await files.read(max(chunk.base_offset, offset), chunk.size_bytes, end_offset)
        for buffer in read.buffers:
            greatest = max(greatest, *(batch.max_timestamp for batch in walk(memoryview(buffer), verify=False)))
        offset = chunk.next_offset
    return await find_timestamp(files, greatest, end_offset)


async def _chunk_at_or_after(files: LogFiles, offset: int, timestamp_ms: int) -> Chunk | None:
    """The first chunk that reaches beyond `offset` and has a record of that time or later."""
    for segment in files.manifest.segments:
        if segment.last_offset >= offset and segment.max_timestamp >= timestamp_ms:
            for first in await _first_offsets(files, segment, offset, timestamp_ms):
                index = (await files.open_segment(segment, first)).index
                for number in range(index.find(first), len(index)):
                    if index.max_timestamps[number] >= timestamp_ms:
                        return index.chunk(number)
    table = files.wal
    for number in range(max(table.find(offset), 0), len(table)):
        if table.max_timestamps[number] >= timestamp_ms and table.chunk(number).next_offset > offset:
            return table.chunk(number)
    return None


async def _first_offsets(files: LogFiles, info: SegmentInfo, offset: int, timestamp_ms: int) -> Sequence[int]:
    """Where to look in a file for records of that time or later: at `offset`, or of a Parquet file at the units
    that have such records.
    """
    offset = max(offset, info.base_offset)
    if info.kind is not FileKind.PARQUET:
        return [offset]
    return [
        max(unit.base_offset, offset)
        for unit in await files.units(info)
        if unit.next_offset > offset and unit.max_timestamp >= timestamp_ms
    ]
