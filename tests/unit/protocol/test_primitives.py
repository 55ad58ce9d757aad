"""Kafka's primitive types: their bytes, and that every length is checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytemq.protocol.primitives import MalformedMessage, Reader, Writer

GOLDEN: list[tuple[str, Any, bytes]] = [
    ("int8", -2, b"\xfe"),
    ("int16", -2, b"\xff\xfe"),
    ("int32", 0x01020304, b"\1\2\3\4"),
    ("int64", -1, b"\xff" * 8),
    ("uint16", 0xFFFE, b"\xff\xfe"),
    ("float64", 1.5, b"\x3f\xf8\0\0\0\0\0\0"),
    ("bool", True, b"\1"),
    ("bool", False, b"\0"),
    ("uuid", b"0123456789abcdef", b"0123456789abcdef"),
    ("unsigned_varint", 127, b"\x7f"),
    ("unsigned_varint", 300, b"\xac\2"),
    ("unsigned_varint", 0xFFFFFFFF, b"\xff\xff\xff\xff\x0f"),
    ("string", "é", b"\0\2\xc3\xa9"),
    ("compact_string", "é", b"\3\xc3\xa9"),
    ("nullable_string", None, b"\xff\xff"),
    ("nullable_string", "", b"\0\0"),
    ("compact_nullable_string", None, b"\0"),
    ("compact_nullable_string", "", b"\1"),
    ("compact_nullable_string", "x" * 127, b"\x80\1" + b"x" * 127),
    ("bytes", b"ab", b"\0\0\0\2ab"),
    ("compact_bytes", b"ab", b"\3ab"),
    ("nullable_bytes", None, b"\xff\xff\xff\xff"),
    ("nullable_bytes", b"", b"\0\0\0\0"),
    ("compact_nullable_bytes", None, b"\0"),
    ("compact_nullable_bytes", b"", b"\1"),
]


def write(kind: str, value: Any) -> bytes:
    writer = Writer()
    getattr(writer, f"write_{kind}")(value)
    return bytes(writer.buffer)


def read(kind: str, data: bytes) -> Any:
    reader = Reader(memoryview(data))
    value = getattr(reader, f"read_{kind}")()
    assert reader.position == len(data)
    return value


@pytest.mark.parametrize(("kind", "value", "data"), GOLDEN)
def test_primitive__has_kafkas_form(kind: str, value: Any, data: bytes) -> None:
    assert write(kind, value) == data
    assert read(kind, data) == value


@pytest.mark.parametrize(("kind", "value", "data"), GOLDEN)
def test_reader__finds_every_truncation(kind: str, value: Any, data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(MalformedMessage):
            read(kind, data[:length])


@given(st.integers(0, 0xFFFFFFFF))
def test_unsigned_varint__comes_back(value: int) -> None:
    assert read("unsigned_varint", write("unsigned_varint", value)) == value


@given(st.text(max_size=300).filter(lambda text: len(text.encode("utf-8", "replace")) < 0x7FFF))
def test_string__comes_back_with_lone_surrogates_replaced(text: str) -> None:
    expected = text.encode("utf-8", "replace").decode()

    assert read("compact_nullable_string", write("compact_nullable_string", text)) == expected
    assert read("string", write("string", text)) == expected


@pytest.mark.parametrize("data", [b"\x80" * 5 + b"\0", b"\xff" * 6, b"\x80" * 4])
def test_reader__refuses_varints_that_are_overlong_or_cut_off(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        read("unsigned_varint", data)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("string", b"\xff\xff"),
        ("compact_string", b"\0"),
        ("bytes", b"\xff\xff\xff\xfe"),
        ("compact_bytes", b"\0"),
        ("array_length", b"\xff\xff\xff\xff"),
        ("compact_array_length", b"\0"),
    ],
)
def test_reader__refuses_null_of_what_is_not_nullable(kind: str, data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        read(kind, data + bytes(8))


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("nullable_string", b"\xff\xfe"),
        ("nullable_bytes", b"\x80\0\0\0"),
        ("compact_nullable_string", b"\xff\xff\xff\xff\x0f"),
        ("compact_nullable_bytes", b"\x81\x80\x80\x80\x08"),
    ],
)
def test_reader__takes_any_negative_length_for_null(kind: str, data: bytes) -> None:
    assert read(kind, data) is None


def test_reader__refuses_strings_that_kafka_would_not_read() -> None:
    with pytest.raises(MalformedMessage):
        read("compact_string", write("unsigned_varint", 0x8001) + b"x" * 0x8000)


def test_writer__refuses_strings_that_kafka_would_not_read() -> None:
    with pytest.raises(ValueError, match="32768 bytes"):
        write("string", "x" * 0x8000)


def test_writer__refuses_a_uuid_of_another_size() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        write("uuid", b"short")


@pytest.mark.parametrize(
    ("read_length", "data"),
    [
        (Reader.read_array_length, b"\0\0\0\3"),
        (Reader.read_compact_array_length, b"\4"),
        (Reader.read_nullable_array_length, b"\0\0\0\3"),
        (Reader.read_compact_nullable_array_length, b"\4"),
    ],
)
def test_array_length__is_checked_against_bytes_and_budget(read_length: Callable[[Reader], int], data: bytes) -> None:
    assert read_length(Reader(memoryview(data + b"abc"))) == 3
    with pytest.raises(MalformedMessage, match="3 elements in 2 bytes"):
        read_length(Reader(memoryview(data + b"ab")))
    with pytest.raises(MalformedMessage, match="too many elements"):
        read_length(Reader(memoryview(data + b"abc"), max_elements=2))


def test_bytes__are_a_view_not_a_copy() -> None:
    data = bytearray(b"\0\0\0\2ab")
    view = Reader(memoryview(data)).read_bytes()
    data[4:] = b"cd"

    assert view == b"cd"


def test_skip_tagged_fields__passes_over_what_it_does_not_know() -> None:
    reader = Reader(memoryview(b"\2\7\3abc\1\0rest"))
    reader.skip_tagged_fields()

    assert reader.position == 8
    with pytest.raises(MalformedMessage):
        Reader(memoryview(b"\1\7\4abc")).skip_tagged_fields()
    with pytest.raises(MalformedMessage):
        Reader(memoryview(b"")).skip_tagged_fields()
