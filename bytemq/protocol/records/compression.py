"""The five compression types of record batches, with bounded output.

Owns what Kafka's clients put on the wire: gzip, snappy (xerial blocks as Java writes them, or one raw block), LZ4
frames, zstd. Whatever the input says of its own size, at most `max_bytes` are ever allocated for the output, so a
decompression bomb costs what a full-sized batch costs.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

import cramjam

from bytemq.protocol.error_codes import ErrorCode, KafkaError

Bytes = bytes | bytearray | memoryview


class Compression(IntEnum):
    """The low three bits of a batch's attributes."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_VERSION = struct.pack(">ii", 1, 1)
_XERIAL_BLOCK_BYTES = 32 * 1024
_XERIAL_HEADER_BYTES = 16
_LZ4_INPUT_BYTES = 1024 * 1024
_INT32 = struct.Struct(">i")

MOST_DECOMPRESSED_BYTES: Final = 64 * 1024 * 1024
"""What a batch may decompress to wherever it is opened: by the broker, the cleaner, tables, queries, tools. What is
larger is refused where records are checked, and elsewhere left as it is.
"""

_FIRST_GUESS_BYTES = 64 * 1024
_MAPPED_FROM_BYTES = 1024 * 1024
_TOO_SMALL = "failed to write whole buffer"
"""What cramjam says when the output is larger than the buffer that it may fill."""


class DecompressedTooLarge(KafkaError):
    """There is more in a batch than it was given room for."""

    def __init__(self, room_bytes: int) -> None:
        message = f"The records decompress to more than the {room_bytes} bytes allowed."
        super().__init__(ErrorCode.MESSAGE_TOO_LARGE, message)


def first_room_bytes(compression: int, packed_bytes: int, most_bytes: int) -> int:
    """Room to try first for so many bytes of records: what is compressed is seldom four times as large."""
    if compression == Compression.NONE:
        return packed_bytes
    return min(most_bytes, max(_FIRST_GUESS_BYTES, 4 * packed_bytes))


def compress(compression: int, data: Bytes, level: int | None = None) -> Bytes:
    """`data` as this type; `level` is the codec's own scale, None its default. Raises KafkaError for an unknown
    type.
    """
    if compression == Compression.NONE:
        return data
    if compression == Compression.GZIP:
        return memoryview(cramjam.gzip.compress(data, level=level))
    if compression == Compression.SNAPPY:
        return _compress_xerial(memoryview(data))
    if compression == Compression.LZ4:
        # Java reads independent blocks only, and checks no content size: KIP-57.
        compressor = cramjam.lz4.Compressor(level=level, content_checksum=False, block_linked=False)
        view = memoryview(data)
        for start in range(0, len(view), _LZ4_INPUT_BYTES):
            compressor.compress(bytes(view[start : start + _LZ4_INPUT_BYTES]))
        return memoryview(compressor.finish())
    if compression == Compression.ZSTD:
        return memoryview(cramjam.zstd.compress(data, level=level))
    raise _unknown(compression)


def decompress(compression: int, data: memoryview, max_bytes: int = MOST_DECOMPRESSED_BYTES) -> Bytes:
    """The bytes that went into `data`, at most `max_bytes` of them.

    Raises KafkaError: INVALID_RECORD for an unknown type, CORRUPT_MESSAGE for rubbish, DecompressedTooLarge beyond
    `max_bytes`.
    """
    if compression == Compression.NONE:
        return data
    if not Compression.NONE < compression <= Compression.ZSTD:
        raise _unknown(compression)
    try:
        if compression == Compression.GZIP:
            return _decompress_growing(cramjam.gzip.decompress_into, data, max_bytes)
        if compression == Compression.LZ4:
            return _decompress_growing(cramjam.lz4.decompress_into, data, max_bytes)
        if compression == Compression.ZSTD:
            return _decompress_growing(cramjam.zstd.decompress_into, data, max_bytes)
        blocks = _xerial_blocks(data) if data[: len(XERIAL_MAGIC)] == XERIAL_MAGIC else [data]
        return _decompress_snappy(blocks, max_bytes)
    except (cramjam.DecompressionError, struct.error) as error:
        message = f"Failed to decompress {Compression(compression).name.lower()} records: {error}"
        raise KafkaError(ErrorCode.CORRUPT_MESSAGE, message) from None


def _decompress_growing(decompress_into: object, data: memoryview, max_bytes: int) -> memoryview:
    """Decompress into a buffer that starts small and grows fourfold: the work of all attempts is within 4/3 of the
    last.
    """
    size = first_room_bytes(Compression.GZIP, len(data), max_bytes)
    while True:
        output = _empty(size)
        try:
            written = decompress_into(data, output)  # type: ignore[operator]
        except cramjam.DecompressionError as error:
            if _TOO_SMALL not in str(error):
                raise
            if size >= max_bytes:
                raise DecompressedTooLarge(max_bytes) from None
            size = min(max_bytes, 4 * size)
            del output  # before the next one is allocated
            continue
        return memoryview(output)[:written]


def _empty(size_bytes: int) -> bytearray | mmap.mmap:
    """Room for so many bytes. A large one is only promised by the kernel: pages that nothing is written to cost no
    memory, and zeroing does not keep the interpreter's lock.
    """
    if size_bytes < _MAPPED_FROM_BYTES:
        return bytearray(size_bytes)
    return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _compress_xerial(data: memoryview) -> bytes:
    """Snappy as Java's SnappyOutputStream frames it: every client reads this form."""
    parts = [XERIAL_MAGIC, _XERIAL_VERSION]
    for start in range(0, len(data), _XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(data[start : start + _XERIAL_BLOCK_BYTES]))
        parts += [_INT32.pack(len(block)), block]
    return b"".join(parts)


def _xerial_blocks(data: memoryview) -> list[memoryview]:
    blocks = []
    position = _XERIAL_HEADER_BYTES
    while position < len(data):
        (block_bytes,) = _INT32.unpack_from(data, position)
        position += _INT32.size
        if block_bytes < 0 or block_bytes > len(data) - position:
            raise cramjam.DecompressionError(f"a block of {block_bytes} bytes where {len(data) - position} are left")
        blocks.append(data[position : position + block_bytes])
        position += block_bytes
    return blocks


def _decompress_snappy(blocks: Sequence[memoryview], max_bytes: int) -> memoryview:
    """Each block says how large it is: all are added up before anything is allocated."""
    sizes = [cramjam.snappy.decompress_raw_len(block) for block in blocks]
    if sum(sizes) > max_bytes:
        raise DecompressedTooLarge(max_bytes)
    for block, size in zip(blocks, sizes, strict=True):
        if size > 64 * len(block) + 64:  # no snappy block can expand so far: a copy of 64 bytes takes 3
            raise cramjam.DecompressionError(f"a block of {len(block)} bytes claims to hold {size}")
    output = memoryview(_empty(sum(sizes)))
    position = 0
    for block, size in zip(blocks, sizes, strict=True):
        cramjam.snappy.decompress_raw_into(block, output[position : position + size])
        position += size
    return output


def _unknown(compression: int) -> KafkaError:
    return KafkaError(ErrorCode.INVALID_RECORD, f"Unknown compression type id: {compression}")
