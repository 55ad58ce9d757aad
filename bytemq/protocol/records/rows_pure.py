"""Rows of batches, in Python: the twin of what `_produced.c` does with them where that was not compiled. Pure.

Owns what is asked of batches that follow each other in one partition, all of them at once. Must not: decide anything.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from bytemq.protocol.plain_produce import Fields
from bytemq.protocol.records.batch import HEADER_BYTES, NO_TIMESTAMP

_CRC = struct.Struct(">I")


Survey = tuple[int, int, int, int, int, int]
"""Offsets, bytes, the bytes of the largest batch, the newest timestamp, the producer's id (of the last one), 1 if id
and epoch are the same in all."""
Extent = tuple[int, int, int]
"""Base offset, next offset (-1 where one batch does not follow the one before it), bytes."""
Chunks = list[tuple[int, int, int, int]]
"""Pieces of a row that are stored as one each: batches, bytes, the newest timestamp, the checksum."""


def survey(batches: Sequence[Fields]) -> Survey:
    """What a row is before it has a place."""
    offset_count = size_bytes = largest = 0
    newest = NO_TIMESTAMP
    producers = set()
    producer_id = -1
    for batch in batches:
        offset_count += batch.last_offset_delta + 1
        size_bytes += batch.size_bytes
        largest = max(largest, batch.size_bytes)
        newest = max(newest, batch.max_timestamp)
        producer_id = batch.producer_id
        producers.add((producer_id, batch.producer_epoch))
    return offset_count, size_bytes, largest, newest, producer_id, int(len(producers) <= 1)


def place(batches: Sequence[Fields], base_offset: int, leader_epoch: int) -> None:
    """Gives them their places, one behind the other: in their bytes, and in their fields."""
    for batch in batches:
        batch.place(base_offset, leader_epoch)
        base_offset = batch.next_offset


def extent(batches: Sequence[Fields]) -> Extent:
    """Where a row is in its log; -1, -1, 0 of none."""
    size_bytes = 0
    base_offset = next_offset = batches[0].base_offset if batches else -1
    for batch in batches:
        size_bytes += batch.size_bytes
        if batch.base_offset != next_offset:
            return base_offset, -1, size_bytes
        next_offset = batch.next_offset
    return base_offset, next_offset, size_bytes


def chunks(batches: Sequence[Fields], chunk_bytes: int) -> Chunks:
    """The row in pieces: one ends before it would exceed `chunk_bytes`, but has a batch at least."""
    found = []
    count = size_bytes = checksum = 0
    newest = NO_TIMESTAMP
    for batch in batches:
        if count and size_bytes + batch.size_bytes > chunk_bytes:
            found.append((count, size_bytes, newest, checksum))
            count, size_bytes, checksum, newest = 0, 0, 0, NO_TIMESTAMP
        count += 1
        size_bytes += batch.size_bytes
        checksum = batch.checksum(checksum)
        newest = max(newest, batch.max_timestamp)
    if count:
        found.append((count, size_bytes, newest, checksum))
    return found


def entries(batches: Sequence[Fields]) -> bytes:
    """Of each its header and, in four bytes, the CRC that it was sent with: as the index of a flush has them."""
    parts: list[bytes | memoryview] = []
    for batch in batches:
        parts.append(batch.view[:HEADER_BYTES])
        parts.append(_CRC.pack(batch.sent_crc))
    return b"".join(parts)
