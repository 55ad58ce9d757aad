"""The five compression types of record batches, with bounded output.

Owns what Kafka's clients put on the wire: gzip, snappy (xerial blocks as Java writes them, or one raw block), LZ4
frames, zstd. Whatever the input says of its own size, at most `max_bytes` are ever allocated for the output, so a
decompression bomb costs what a full-sized batch costs.
"""

from __future__ import annotations

import mmap
import struct
from enum import IntEnum

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
_INT32 = struct.Struct(">i")

_FIRST_GUESS_BYTES = 64 * 1024
_MAPPED_FROM_BYTES = 1024 * 1024
_TOO_SMALL = "failed to write whole buffer"
"""What cramjam says when the output is larger than the buffer that it may fill."""


def compress(compression: int, data: Bytes, level: int | None = None) -> Bytes:
    """`data` as this type; `level` is the codec's own scale, None its default. Raises KafkaError for an unknown
    type.
    """
    if compression == Compression.NONE:
        return data
    if compression == Compression.GZIP:
        return bytes(cramjam.gzip.compress(data, level=level))
    if compression == Compression.SNAPPY:
        return _compress_xerial(memoryview(data))
    if compression == Compression.LZ4:
        # Java reads independent blocks only, and checks no content size: KIP-57.
        compressor = cramjam.lz4.Compressor(level=level, content_checksum=False, block_linked=False)
        compressor.compress(bytes(data))
        return bytes(compressor.finish())
    if compression == Compression.ZSTD:
        return bytes(cramjam.zstd.compress(data, level=level))
    raise _unknown(compression)


def decompress(compression: int, data: memoryview, max_bytes: int) -> Bytes:
    """The bytes that went into `data`, at most `max_bytes` of them.

    Raises KafkaError: INVALID_RECORD for an unknown type, CORRUPT_MESSAGE for rubbish, MESSAGE_TOO_LARGE beyond
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
        if data[: len(XERIAL_MAGIC)] == XERIAL_MAGIC:
            return _decompress_xerial(data, max_bytes)
        output = bytearray()
        _append_snappy_block(output, data, max_bytes)
        return output
    except (cramjam.DecompressionError, struct.error) as error:
        message = f"Failed to decompress {Compression(compression).name.lower()} records: {error}"
        raise KafkaError(ErrorCode.CORRUPT_MESSAGE, message) from None


def _decompress_growing(decompress_into: object, data: memoryview, max_bytes: int) -> memoryview:
    """Decompress into a buffer that starts small and grows fourfold: the work of all attempts is within 4/3 of the
    last.
    """
    size = min(max_bytes, max(_FIRST_GUESS_BYTES, 4 * len(data)))
    while True:
        output = _empty(size)
        try:
            written = decompress_into(data, output)  # type: ignore[operator]
        except cramjam.DecompressionError as error:
            if _TOO_SMALL not in str(error):
                raise
            if size >= max_bytes:
                raise _too_large(max_bytes) from None
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


def _decompress_xerial(data: memoryview, max_bytes: int) -> bytearray:
    output = bytearray()
    position = _XERIAL_HEADER_BYTES
    while position < len(data):
        (block_bytes,) = _INT32.unpack_from(data, position)
        position += _INT32.size
        if block_bytes < 0 or block_bytes > len(data) - position:
            raise cramjam.DecompressionError(f"a block of {block_bytes} bytes where {len(data) - position} are left")
        _append_snappy_block(output, data[position : position + block_bytes], max_bytes)
        position += block_bytes
    return output


def _append_snappy_block(output: bytearray, block: memoryview, max_bytes: int) -> None:
    block_bytes = cramjam.snappy.decompress_raw_len(block)
    if block_bytes > max_bytes - len(output):
        raise _too_large(max_bytes)
    if block_bytes > 64 * len(block) + 64:
        # No snappy block can expand so far (a copy of 64 bytes takes 3): do not even allocate.
        raise cramjam.DecompressionError(f"a block of {len(block)} bytes claims to hold {block_bytes}")
    decoded = bytearray(block_bytes)
    cramjam.snappy.decompress_raw_into(block, decoded)
    output += decoded


def _too_large(max_bytes: int) -> KafkaError:
    message = f"The records decompress to more than the {max_bytes} bytes allowed."
    return KafkaError(ErrorCode.MESSAGE_TOO_LARGE, message)


def _unknown(compression: int) -> KafkaError:
    return KafkaError(ErrorCode.INVALID_RECORD, f"Unknown compression type id: {compression}")
