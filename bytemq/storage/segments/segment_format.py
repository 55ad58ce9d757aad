"""The bytes of a segment's footer. Pure.

Owns: their order and checks. Must not: do I/O.

A segment file holds record batches from position 0, as the clients sent them. When it is sealed a footer follows:

    header (40 bytes)   magic, version, number of chunks, number of aborted transactions, next offset, size of the
    batches, CRC-32C chunks              base offsets (8 bytes each), positions (4), maximum timestamps (8), CRC-32C of
    each chunk's bytes (4) aborted             producer id, first offset, last offset, last stable offset (8 each)

all little-endian, so that the arrays are read as they are. The CRC covers the footer without itself.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence

from crc32c import crc32c

from bytemq.errors import Corrupt
from bytemq.storage.manifests.manifest import AbortedTxn
from bytemq.storage.wal.extents import SparseIndex

MAGIC = b"BMQS"
VERSION = 1
_HEADER = struct.Struct("<4sHxxIIqq")
_CRC = struct.Struct("<I")
_CHUNK_BYTES = 8 + 4 + 8 + 4
_ABORTED = struct.Struct("<qqqq")
FOOTER_HEADER_BYTES = _HEADER.size + _CRC.size


def little_endian(values: array[int]) -> bytes:
    if sys.byteorder == "big":
        values = array(values.typecode, values)
        values.byteswap()
    return values.tobytes()


def from_little_endian(typecode: str, data: bytes | memoryview) -> array[int]:
    values: array[int] = array(typecode)
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def encode_footer(index: SparseIndex, aborted: Sequence[AbortedTxn]) -> bytes:
    header = _HEADER.pack(MAGIC, VERSION, len(index), len(aborted), index.next_offset, index.end_position)
    body = b"".join(
        [
            little_endian(index.bases),
            little_endian(index.positions),
            little_endian(index.max_timestamps),
            little_endian(index.checksums),
            *(_ABORTED.pack(*transaction) for transaction in aborted),
        ]
    )
    return header + _CRC.pack(crc32c(body, crc32c(header))) + body


def decode_footer(footer: bytes | memoryview) -> tuple[SparseIndex, list[AbortedTxn]]:
    """The inverse. Raises Corrupt unless every byte is as it was written and the chunks follow each other.

    Bytes behind the footer do not matter: an append that a crash cut short may have left them.
    """
    view = memoryview(footer)
    if len(view) < FOOTER_HEADER_BYTES:
        raise Corrupt("the footer of a segment is cut")
    magic, version, chunks, transactions, next_offset, end_position = _HEADER.unpack_from(view)
    if magic != MAGIC:
        raise Corrupt("the segment has no footer")
    if version != VERSION:
        raise Corrupt(f"segment footer of version {version}; this program reads version {VERSION}")
    body = view[FOOTER_HEADER_BYTES : FOOTER_HEADER_BYTES + chunks * _CHUNK_BYTES + transactions * _ABORTED.size]
    if len(body) < chunks * _CHUNK_BYTES + transactions * _ABORTED.size:
        raise Corrupt("the footer of a segment is cut")
    if crc32c(body, crc32c(view[: _HEADER.size])) != _CRC.unpack_from(view, _HEADER.size)[0]:
        raise Corrupt("the checksum of a segment's footer does not match")
    index = SparseIndex()
    index.bases = from_little_endian("q", body[: chunks * 8])
    index.positions = from_little_endian("I", body[chunks * 8 : chunks * 12])
    index.max_timestamps = from_little_endian("q", body[chunks * 12 : chunks * 20])
    index.checksums = from_little_endian("I", body[chunks * 20 : chunks * 24])
    index.verified = bytearray(chunks)
    index.next_offset, index.end_position = next_offset, end_position
    if not _ascending(index.bases, next_offset) or not _ascending(index.positions, end_position):
        raise Corrupt("the index in a segment's footer is out of order")
    return index, [AbortedTxn(*values) for values in _ABORTED.iter_unpack(body[chunks * _CHUNK_BYTES :])]


def _ascending(values: array[int], end: int) -> bool:
    return all(a < b for a, b in zip(values, [*values[1:], end], strict=True))
