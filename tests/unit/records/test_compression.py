"""Codecs: round trips, the framings that clients use, and input that wants to blow up."""

from __future__ import annotations

import struct
import tracemalloc

import cramjam
import pytest

from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.records.compression import XERIAL_MAGIC, compress, decompress

TEXT = b"some bytes that repeat themselves, " * 5000
MIB = 1024 * 1024
CODECS = (1, 2, 3, 4)


def refused(compression: int, data: bytes, max_bytes: int) -> ErrorCode:
    with pytest.raises(KafkaError) as caught:
        decompress(compression, memoryview(data), max_bytes)
    return caught.value.code


@pytest.mark.parametrize("compression", [0, *CODECS])
@pytest.mark.parametrize("data", [b"", b"x", TEXT, bytes(range(256)) * 300])
def test_compress__round_trip(compression: int, data: bytes) -> None:
    assert bytes(decompress(compression, memoryview(bytes(compress(compression, data))), MIB)) == data


@pytest.mark.parametrize("compression", CODECS)
def test_decompress__limit_is_exact(compression: int) -> None:
    packed = bytes(compress(compression, TEXT))
    assert len(decompress(compression, memoryview(packed), len(TEXT))) == len(TEXT)
    assert refused(compression, packed, len(TEXT) - 1) == ErrorCode.MESSAGE_TOO_LARGE


@pytest.mark.parametrize("compression", [1, 3, 4])
def test_decompress__a_bomb_costs_no_more_memory_than_the_limit(compression: int) -> None:
    bomb = bytes(compress(compression, bytes(64 * MIB)))
    tracemalloc.start()
    try:
        assert refused(compression, bomb, 2 * MIB) == ErrorCode.MESSAGE_TOO_LARGE
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * MIB


def test_decompress__snappy_that_claims_more_than_it_can_hold_allocates_nothing() -> None:
    claim = b"\xff\xff\xff\xff\x0f" + b"\x00"  # 4 GiB in six bytes
    framed = XERIAL_MAGIC + struct.pack(">iii", 1, 1, len(claim)) + claim
    for data in (claim, framed):
        assert refused(2, data, 100) == ErrorCode.MESSAGE_TOO_LARGE
        tracemalloc.start()
        try:
            assert refused(2, data, 1 << 40) == ErrorCode.CORRUPT_MESSAGE
            assert tracemalloc.get_traced_memory()[1] < MIB
        finally:
            tracemalloc.stop()


def test_decompress__snappy_in_one_raw_block_and_in_xerial_blocks() -> None:
    raw = bytes(cramjam.snappy.compress_raw(TEXT))
    assert bytes(decompress(2, memoryview(raw), MIB)) == TEXT
    assert bytes(compress(2, TEXT))[:8] == XERIAL_MAGIC


@pytest.mark.parametrize("length", [-1, 5, 1 << 30])
def test_decompress__xerial_block_lengths_are_checked(length: int) -> None:
    framed = XERIAL_MAGIC + struct.pack(">iii", 1, 1, length) + b"\x00"
    assert refused(2, framed, MIB) == ErrorCode.CORRUPT_MESSAGE


@pytest.mark.parametrize("compression", CODECS)
@pytest.mark.parametrize("data", [b"", b"\x99" * 50, b"\x82SNAPPY\x00\x00"])
def test_decompress__rubbish_is_corrupt(compression: int, data: bytes) -> None:
    if not (compression == 2 and data == b"\x82SNAPPY\x00\x00"):  # a framed nothing is an empty snappy stream
        assert refused(compression, data, MIB) in (ErrorCode.CORRUPT_MESSAGE, ErrorCode.MESSAGE_TOO_LARGE)


@pytest.mark.parametrize("compression", CODECS)
def test_decompress__cut_data_is_corrupt(compression: int) -> None:
    packed = bytes(compress(compression, TEXT))
    assert refused(compression, packed[:-3], MIB) == ErrorCode.CORRUPT_MESSAGE


@pytest.mark.parametrize("compression", [5, 6, 7, -1])
def test_decompress__unknown_types_are_invalid(compression: int) -> None:
    assert refused(compression, b"x", 10) == ErrorCode.INVALID_RECORD
    with pytest.raises(KafkaError):
        compress(compression, b"x")


@pytest.mark.parametrize("compression", [1, 3, 4])
def test_decompress__takes_memory_for_what_comes_out_not_for_what_might(compression: int) -> None:
    data = bytes(compress(compression, bytes(5 << 20)))
    tracemalloc.start()
    try:
        output = decompress(compression, memoryview(data), (1 << 31) - 9)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert bytes(output) == bytes(5 << 20)
    assert peak_bytes < 2 << 20, "large buffers are mapped: zeroing them would stop every other thread"
