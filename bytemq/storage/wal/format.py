"""The bytes of a flush: what the write-ahead log is made of. Pure.

Owns: the header of a flush, the index of its shares and the order of its payload. Must not: do I/O, or know which flush
is valid in a file (`recovery` decides that with the functions here).

A flush is

    header (56 bytes)   magic, version, attempt, session, sequence, durable-through, link to its predecessor, sizes, CRC
    index               one share a partition: topic id, partition, leader epoch, offsets, place of the bytes, and of
    each
                        batch the 61 bytes of its header and the checksum that the client had sent
    payload             the record batches, those of a partition in a row
    padding             to a multiple of 8 bytes

all big-endian. The CRC in the header covers header and index, a checksum in each share covers its batches. A share is
one chunk: a partition with more in the flush has several in a row. The batches of a large share may be in a bulk file
in place of the payload: its index has the name of that file then, and its place counts from the start of the file.

`durable_through` is a sequence up to which everything was synced before this flush was written. A broken flush at or
below the `durable_through` of a later one is corruption; any other broken flush is the torn tail that a crash leaves.

Where the one after a broken flush is not known, it is searched for, also in what clients sent. A head that one of them
made up is not believed: a session's sequences begin anywhere, and nobody outside knows where.

In objects a flush that could not be written is followed by another one of its sequence, and may appear later: `attempt`
tells which came last. In files it is 0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from crc32c import crc32c

from bytemq.errors import Corrupt
from bytemq.protocol.records import rows
from bytemq.protocol.records.batch import ATTRIBUTES_POSITION, HEADER_BYTES, RecordBatch, parse_header
from bytemq.storage.wal.extents import Chunk
from bytemq.types import PartitionId, TopicId

MAGIC = b"BMQF"
VERSION = 1
ALIGNMENT = 8

_HEADER = struct.Struct(">4sHHQQQIIIQ")
_PREFIX = struct.Struct(">4sHHQ")
_CRC = struct.Struct(">I")
FLUSH_HEADER_BYTES = _HEADER.size + _CRC.size

_SHARE = struct.Struct(">16siiBxHIIqqqQQ")
_WHOSE = struct.Struct(">16si6xHI")
"""The beginning of a share: partition, and how much follows."""
INLINE = 0
REFERENCE = 1

BATCH_ENTRY_BYTES = HEADER_BYTES + 4
"""A batch in the index: its header and, as an unsigned 32-bit number, the CRC that it arrived with."""
MAX_INDEX_BYTES = 256 * 1024 * 1024
FIRST_SEQUENCE_BITS = 62
_FURTHEST = 1 << 24
"""So many flushes of a session, dozens of files of the smallest ones, are never missing in a row; and among 2**62
sequences they are hardly met by chance, not even with a file full of guesses, of which it takes a million.
"""


class FlushHeader(NamedTuple):
    session_id: int
    sequence: int
    durable_through: int
    previous_crc: int
    """CRC of the flush before it in this session's log; 0 for the first."""
    share_count: int
    index_bytes: int
    payload_bytes: int
    crc: int
    attempt: int = 0

    @property
    def head_bytes(self) -> int:
        """Header and index: where the payload starts."""
        return FLUSH_HEADER_BYTES + self.index_bytes

    @property
    def total_bytes(self) -> int:
        """With padding: where the next flush starts."""
        return aligned(self.head_bytes + self.payload_bytes)


class Share(NamedTuple):
    """A chunk of one partition's batches in a flush."""

    partition: PartitionId
    leader_epoch: int
    base_offset: int
    next_offset: int
    position: int
    """Of its first byte: from the start of the payload, or in the file `reference` names."""
    size_bytes: int
    max_timestamp: int
    checksum: int
    """CRC-32C of the batches' bytes."""
    entries: bytes | memoryview
    """`BATCH_ENTRY_BYTES` a batch."""
    reference: str = ""
    """The segment that holds the bytes when they were written there once and for all; "" when they are in the payload.
    """

    def chunk(self, payload_position: int) -> Chunk:
        """Where the batches of an inline share are; positions count from where `payload_position` does."""
        position = payload_position + self.position
        return Chunk(self.base_offset, self.next_offset, position, self.size_bytes, self.max_timestamp)


class Reference(NamedTuple):
    """Where a share is that a flush does not hold itself."""

    name: str
    position: int


NOWHERE: Mapping[int, Reference] = {}


class ShareToWrite(NamedTuple):
    partition: PartitionId
    batches: Sequence[RecordBatch]
    """Placed, in offset order, without gaps."""
    size_bytes: int
    max_timestamp: int
    checksum: int


def shares_to_write(partition: PartitionId, batches: Sequence[RecordBatch], chunk_bytes: int) -> list[ShareToWrite]:
    """One partition's batches of a flush in chunks: one ends before it would exceed `chunk_bytes`."""
    found = rows.chunks(batches, chunk_bytes)
    if len(found) == 1:
        _, size_bytes, max_timestamp, checksum = found[0]
        return [ShareToWrite(partition, batches, size_bytes, max_timestamp, checksum)]
    shares, start = [], 0
    for count, size_bytes, max_timestamp, checksum in found:
        shares.append(ShareToWrite(partition, batches[start : start + count], size_bytes, max_timestamp, checksum))
        start += count
    return shares


def is_later(header: FlushHeader, session_id: int, sequence: int) -> bool:
    """Whether the head of a flush that was searched for is of one that this session has written after `sequence`."""
    return header.session_id == session_id and 0 < header.sequence - sequence < _FURTHEST


def aligned(position: int) -> int:
    return (position + ALIGNMENT - 1) & -ALIGNMENT


def encode_head(
    session_id: int,
    sequence: int,
    durable_through: int,
    previous_crc: int,
    shares: Sequence[ShareToWrite],
    references: Mapping[int, Reference] = NOWHERE,
    attempt: int = 0,
) -> tuple[bytes, int]:
    """Header and index of a flush, and the CRC that its successor links to. `references` are by number of the share."""
    parts: list[bytes | memoryview] = []
    position = 0
    for number, (partition, batches, size_bytes, max_timestamp, checksum) in enumerate(shares):
        first = batches[0]
        reference = references.get(number)
        name = reference.name.encode() if reference is not None else b""
        parts.append(
            _SHARE.pack(
                partition[0],
                partition[1],
                first.leader_epoch,
                INLINE if reference is None else REFERENCE,
                len(name),
                len(batches),
                checksum,
                first.base_offset,
                batches[-1].next_offset,
                max_timestamp,
                position if reference is None else reference.position,
                size_bytes,
            )
        )
        parts.append(name)
        parts.append(rows.entries(batches))
        if reference is None:
            position += size_bytes
    index = b"".join(parts)
    header = _HEADER.pack(
        MAGIC, VERSION, attempt, session_id, sequence, durable_through, previous_crc, len(shares), len(index), position
    )
    crc = crc32c(index, crc32c(header))
    return b"".join((header, _CRC.pack(crc), index)), crc


def decode_header(view: bytes | memoryview, position: int = 0) -> FlushHeader:
    """The header at `position`. Its CRC is not checked (`check_head`). Raises Corrupt if it cannot be one."""
    if len(view) - position < FLUSH_HEADER_BYTES:
        raise Corrupt("the file ends inside the header of a flush")
    magic, version, attempt, session, sequence, durable, previous, shares, index_bytes, payload = _HEADER.unpack_from(
        view, position
    )
    if magic != MAGIC:
        raise Corrupt("no flush starts here")
    if version != VERSION:
        raise Corrupt(f"flush of version {version}; this program reads version {VERSION}")
    if index_bytes > MAX_INDEX_BYTES or shares * _SHARE.size > index_bytes or payload >= 1 << 40:
        raise Corrupt("the sizes in the header of a flush make no sense")
    (crc,) = _CRC.unpack_from(view, position + _HEADER.size)
    return FlushHeader(session, sequence, durable, previous, shares, index_bytes, payload, crc, attempt)


def flush_prefix(session_id: int) -> bytes:
    """What every flush of a session begins with, and no flush of another one."""
    return _PREFIX.pack(MAGIC, VERSION, 0, session_id)


def check_head(head: bytes | memoryview, header: FlushHeader) -> None:
    """Raises Corrupt unless `head` (header and index) is what the CRC was made from."""
    view = memoryview(head)
    if len(view) < header.head_bytes:
        raise Corrupt("the file ends inside the index of a flush")
    if crc32c(view[FLUSH_HEADER_BYTES : header.head_bytes], crc32c(view[: _HEADER.size])) != header.crc:
        raise Corrupt("the checksum of a flush's header and index does not match")


def decode_shares(head: bytes | memoryview, header: FlushHeader) -> list[Share]:
    """The shares of a flush whose head was checked. Raises Corrupt where the sizes in it contradict each other."""
    view = memoryview(head)
    position = FLUSH_HEADER_BYTES
    shares = []
    for _ in range(header.share_count):
        share, position = decode_share(view, header, position)
        shares.append(share)
    return shares


def decode_share(view: memoryview, header: FlushHeader, position: int) -> tuple[Share, int]:
    """The share that begins there in the head, and where the next one does. Raises Corrupt as `decode_shares`."""
    end = header.head_bytes
    if end - position < _SHARE.size:
        raise Corrupt("the index of a flush ends inside a share")
    topic, index, epoch, kind, name_bytes, count, checksum, base, after, newest, start, size = _SHARE.unpack_from(
        view, position
    )
    position += _SHARE.size
    if count == 0 or count * BATCH_ENTRY_BYTES + name_bytes > end - position:
        raise Corrupt("the index of a flush ends inside a share")
    name = ""
    if kind == REFERENCE and name_bytes:
        name = str(view[position : position + name_bytes], "utf-8", "replace")
        position += name_bytes
    elif kind != INLINE or name_bytes or start + size > header.payload_bytes:
        raise Corrupt("a share of a flush lies outside its payload")
    entries = view[position : position + count * BATCH_ENTRY_BYTES]
    partition = PartitionId(TopicId(topic), index)
    share = Share(partition, epoch, base, after, start, size, newest, checksum, entries, name)
    return share, position + len(entries)


def share_places(head: bytes | memoryview, header: FlushHeader) -> list[tuple[PartitionId, int]]:
    """Whose the shares of a flush are, and where each begins in its head. Raises Corrupt as `decode_shares`."""
    position, end = FLUSH_HEADER_BYTES, header.head_bytes
    places = []
    for _ in range(header.share_count):
        if end - position < _SHARE.size:
            raise Corrupt("the index of a flush ends inside a share")
        topic, index, name_bytes, count = _WHOSE.unpack_from(head, position)
        places.append((PartitionId(TopicId(topic), index), position))
        position += _SHARE.size + name_bytes + count * BATCH_ENTRY_BYTES
    if position > end:
        raise Corrupt("the index of a flush ends inside a share")
    return places


def decode_entries(entries: bytes | memoryview) -> Iterator[RecordBatch]:
    """The batches of a share as their headers tell; `view` holds the header alone."""
    view = memoryview(entries)
    for position in range(0, len(view), BATCH_ENTRY_BYTES):
        batch = parse_header(view, position, header_only=True)
        (batch.sent_crc,) = _CRC.unpack_from(view, position + HEADER_BYTES)
        yield batch


def payload_errors(share: Share, payload: memoryview) -> str | None:
    """What is wrong with the bytes of a share, None when they are what was written.

    `payload` is the share's own bytes. Each batch must start with the header in the index and match its CRC.
    """
    position = 0
    for batch in decode_entries(share.entries):
        end = position + batch.size_bytes
        if end > len(payload):
            return f"the batch at offset {batch.base_offset} is cut"
        if payload[position : position + HEADER_BYTES] != batch.view:
            return f"the header of the batch at offset {batch.base_offset} is not the one in the index"
        if crc32c(payload[position + ATTRIBUTES_POSITION : end]) != batch.crc:
            return f"the checksum of the batch at offset {batch.base_offset} does not match"
        position = end
    if position != share.size_bytes or crc32c(payload) != share.checksum:
        return f"the batches from offset {share.base_offset} on do not match the checksum of their share"
    return None
