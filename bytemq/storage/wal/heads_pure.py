"""The heads of many small flushes in a row, in Python: the twin of _heads.c where that was not compiled.

Owns: the way from bytes to heads that follow each other, and from heads to what each partition has in them. Must not:
decide which flush counts.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from bytemq.errors import Corrupt
from bytemq.storage.wal.format import Share, aligned, check_head, decode_header, decode_shares

Head = tuple[int, bytes]
"""Where the flush begins in its file, and its header and index."""
ByPartition = dict[bytes, tuple[bytes | bytearray, bytes | bytearray]]
"""By topic id and index as a head has them: rows (`ROW`), and the entries of the batches that the rows are of."""

PARTITION = struct.Struct(">16si")
ROW = struct.Struct(">qqqqIIQ")
"""A chunk in the payload of a flush: base and next offset, newest timestamp, position in the file, size in bytes,
checksum, and bytes of its entries."""
_MAX_SIZE_BYTES = 0xFFFF_FFFF


def chained(
    data: bytes | memoryview, position: int, base: int, session_id: int, sequence: int, crc: int, packed: bool
) -> tuple[list[Head], int, int, int]:
    """The heads in `data` from `position` on, as far as they are whole and each follows the one before it: `sequence`
    and `crc` are those of the last one known. `data` is at `base` in its file.

    Between two of them is a payload, unless they are `packed`. Returns also the position after them, and sequence and
    CRC of the last.
    """
    view = memoryview(data)
    heads: list[Head] = []
    while position < len(view):
        try:
            header = decode_header(view, position)
            head = view[position : position + header.head_bytes]
            check_head(head, header)
        except Corrupt:
            break
        if (header.session_id, header.sequence, header.previous_crc) != (session_id, sequence + 1, crc):
            break
        heads.append((base + position, bytes(head)))
        sequence, crc = header.sequence, header.crc
        position += header.head_bytes if packed else aligned(header.head_bytes + header.payload_bytes)
    return heads, position, sequence, crc


def by_partition(heads: list[Head], first: int, stop: int) -> tuple[int, ByPartition]:
    """What is in the payloads of the flushes `first` to `stop`, in order, up to one that refers to another file or
    contradicts itself. Returns also the number of that one, or `stop`. The heads were checked.
    """
    found: ByPartition = {}
    stop = min(stop, len(heads))
    while first < stop:
        position, head = heads[first]
        try:
            header = decode_header(head)
            shares = decode_shares(head, header) if header.head_bytes <= len(head) else None
        except Corrupt:
            break
        if shares is None or any(share.reference or share.size_bytes > _MAX_SIZE_BYTES for share in shares):
            break
        _add(found, shares, position + header.head_bytes)
        first += 1
    return first, found


def _add(found: ByPartition, shares: Sequence[Share], payload_position: int) -> None:
    for share in shares:
        rows, entries = found.setdefault(PARTITION.pack(*share.partition), (bytearray(), bytearray()))
        rows += ROW.pack(
            share.base_offset,
            share.next_offset,
            share.max_timestamp,
            payload_position + share.position,
            share.size_bytes,
            share.checksum,
            len(share.entries),
        )
        entries += share.entries
