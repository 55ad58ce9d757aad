"""Walking stored record batches by their headers. Pure.

Owns: finding, cutting and checking whole batches in bytes that came from a file. Must not: look at records, or trust a
length.

Stored bytes are cut at chunk boundaries that an index knows; only inside one chunk (about 64 KiB) are batches walked
one by one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from crc32c import crc32c

from bytemq.errors import Corrupt
from bytemq.protocol.records.batch import ATTRIBUTES_POSITION, CURRENT_MAGIC, HEADER_BYTES, MAGIC_POSITION, PREFIX_BYTES

_FIELDS = struct.Struct(">qiibIhiqq")
_MAGIC_BYTE = bytes([CURRENT_MAGIC])


class StoredBatch(NamedTuple):
    position: int
    size_bytes: int
    base_offset: int
    last_offset: int
    max_timestamp: int


def walk(chunk: memoryview, *, verify: bool) -> Iterator[StoredBatch]:
    """Every batch of `chunk`, which holds whole batches in offset order. Raises Corrupt where it does not.

    With `verify` each batch's CRC is checked before it is yielded.
    """
    position = 0
    expected = -1
    while position < len(chunk):
        batch = batch_at(chunk, position)
        if batch is None or batch.base_offset < expected:
            raise Corrupt(f"no record batch at position {position} of {len(chunk)}")
        if verify and not crc_matches(chunk, batch):
            raise Corrupt(f"the checksum of the batch at offset {batch.base_offset} does not match")
        yield batch
        expected = batch.last_offset + 1
        position += batch.size_bytes


def batch_at(chunk: memoryview, position: int, available_bytes: int | None = None) -> StoredBatch | None:
    """The batch at `position` as its header tells it, None where there cannot be one.

    It must end within `available_bytes` from there; by default within `chunk`.
    """
    remaining = len(chunk) - position
    if remaining < HEADER_BYTES:
        return None
    if available_bytes is not None:
        remaining = available_bytes
    base, length, _, magic, _, _, delta, _, max_timestamp = _FIELDS.unpack_from(chunk, position)
    size_bytes = length + PREFIX_BYTES
    if magic != CURRENT_MAGIC or delta < 0 or base < 0 or not HEADER_BYTES <= size_bytes <= remaining:
        return None
    return StoredBatch(position, size_bytes, base, base + delta, max_timestamp)


def next_candidate(data: bytes, position: int) -> int:
    """The first place at or after `position` where a batch may begin, its magic byte being there; -1 if there is none.

    So a search through megabytes of damage costs little more than the damage is worth.
    """
    found = data.find(_MAGIC_BYTE, position + MAGIC_POSITION)
    return found - MAGIC_POSITION if found >= 0 else -1


def crc_matches(chunk: memoryview, batch: StoredBatch) -> bool:
    end = batch.position + batch.size_bytes
    crc = int.from_bytes(chunk[batch.position + ATTRIBUTES_POSITION - 4 : batch.position + ATTRIBUTES_POSITION], "big")
    return bool(crc32c(chunk[batch.position + ATTRIBUTES_POSITION : end]) == crc)


def salvage(chunk: memoryview, base_offset: int, next_offset: int) -> tuple[list[StoredBatch], list[tuple[int, int]]]:
    """The sound batches of a damaged chunk that ought to hold [base_offset, next_offset), and the offsets that are
    lost.

    Where a length is broken, the next sound batch is searched for byte by byte: one has to match its CRC to be found.
    """
    sound: list[StoredBatch] = []
    lost: list[tuple[int, int]] = []
    data, expected, position = bytes(chunk), base_offset, 0
    while (position := next_candidate(data, position)) >= 0:
        batch = batch_at(chunk, position)
        if (
            batch is None
            or not expected <= batch.base_offset <= batch.last_offset < next_offset
            or not crc_matches(chunk, batch)
        ):
            position += 1
            continue
        if batch.base_offset > expected:
            lost.append((expected, batch.base_offset - 1))
        sound.append(batch)
        expected = batch.last_offset + 1
        position += batch.size_bytes
    if expected < next_offset:
        lost.append((expected, next_offset - 1))
    return sound, lost
