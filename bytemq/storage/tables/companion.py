"""The companion of a Parquet file: what a broker must know of it without opening it. Pure.

Owns: its bytes. Must not: do I/O, or know Parquet.

A Parquet file under tables/ holds the committed data records of a range of offsets. Its companion, in the partition's
own folder, holds the rest: where the file's units (row groups) begin, and, as the clients sent them, the batches that
are no part of the table: control batches, those of aborted transactions, and those whose records cannot be columns.

    header (32 bytes)   magic, version, units, size of the batches, first offset, next offset
    units (28 bytes)    base offset, next offset, maximum timestamp, row group (-1: none)
    CRC-32C             of all before it
    batches             in the order of offsets, each under its own CRC

all little-endian but the batches.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from crc32c import crc32c

from bytemq.errors import Corrupt

MAGIC = b"BMQC"
VERSION = 1
SUFFIX = ".companion"
NO_ROW_GROUP = -1
_HEADER = struct.Struct("<4sHxxIqqq")
_UNIT = struct.Struct("<qqqi")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size
MAX_UNITS = 1 << 16


class Unit(NamedTuple):
    """What is restored at once: a row group and the batches that belong between its records.

    The units of a file cover its range of offsets without a gap.
    """

    base_offset: int
    next_offset: int
    max_timestamp: int
    row_group: int


class Companion(NamedTuple):
    units: Sequence[Unit]
    batches_position: int
    """Where in the object the batches begin."""
    batches_bytes: int


def encode_index(units: Sequence[Unit], batches_bytes: int) -> bytes:
    """The object's bytes before its batches."""
    header = _HEADER.pack(MAGIC, VERSION, len(units), batches_bytes, units[0].base_offset, units[-1].next_offset)
    index = header + b"".join(_UNIT.pack(*unit) for unit in units)
    return index + _CRC.pack(crc32c(index))


def index_bytes(header: bytes | memoryview) -> int:
    """How many bytes at the front of the object `decode_companion` needs. Raises Corrupt."""
    if len(header) < HEADER_BYTES:
        raise Corrupt("the companion of a Parquet file is cut")
    magic, version, units, *_ = _HEADER.unpack_from(header)
    if magic != MAGIC or version != VERSION or not 0 < units <= MAX_UNITS:
        raise Corrupt("the companion of a Parquet file has an unknown form")
    return int(_HEADER.size + units * _UNIT.size + _CRC.size)


def decode_companion(data: bytes | memoryview) -> Companion:
    """Raises Corrupt for anything that `encode_index` did not make."""
    end = index_bytes(data)
    if len(data) < end or _CRC.unpack_from(data, end - _CRC.size)[0] != crc32c(memoryview(data)[: end - _CRC.size]):
        raise Corrupt("the checksum of the companion of a Parquet file does not match")
    _, _, _, size_bytes, base, next_offset = _HEADER.unpack_from(data)
    units = [Unit(*values) for values in _UNIT.iter_unpack(memoryview(data)[_HEADER.size : end - _CRC.size])]
    expected = base
    for unit in units:
        if unit.base_offset != expected or unit.next_offset <= unit.base_offset:
            raise Corrupt("the units of a Parquet file do not follow each other")
        expected = unit.next_offset
    if expected != next_offset:
        raise Corrupt("the units of a Parquet file do not cover its offsets")
    return Companion(units, end, size_bytes)
