"""Kafka's primitive types: `Reader` takes them from a buffer, `Writer` puts them into one.

Owns every check of a length against the bytes that are really there: a Reader allocates nothing that the input does not
pay for, reads each byte at most once, and fails with `MalformedMessage` only. Knows nothing of messages or versions.

The names are those of the protocol guide (https://kafka.apache.org/protocol#protocol_types). Where the Java client is
lenient so are we: any negative length of a nullable value means null, any boolean but 0 is true.
"""

from __future__ import annotations

from struct import Struct, error
from typing import Any

Buffer = bytes | bytearray | memoryview
"""What a field of type bytes or records holds: a memoryview when decoded, anything bytes-like to encode."""

DEFAULT_MAX_ELEMENTS = 100_000
"""Of all arrays in one message. One byte on the wire may become an object of 200, so bytes alone bound no memory."""

APART_BYTES = 16 * 1024
"""Bytes fields from this size on need not be copied, see Writer."""

_INT8 = Struct(">b")
_INT16 = Struct(">h")
_INT32 = Struct(">i")
_INT64 = Struct(">q")
_UINT16 = Struct(">H")
_FLOAT64 = Struct(">d")

_unpack_int16 = _INT16.unpack_from
_unpack_int32 = _INT32.unpack_from
_unpack_int64 = _INT64.unpack_from

_MAX_STRING_BYTES = 0x7FFF
_MAX_INT32 = 0x7FFFFFFF


class MalformedMessage(Exception):
    """The bytes are no message of the expected kind. There is nothing to answer: close the connection."""


class NumberReader:
    """The part of Reader that takes values of fixed size and varints."""

    # Every request passes through here several times, hence the few repeated lines in place of one more call.

    __slots__ = ("elements_left", "position", "view")

    def __init__(self, view: memoryview, position: int = 0, *, max_elements: int = DEFAULT_MAX_ELEMENTS) -> None:
        self.view = view
        self.position = position
        self.elements_left = max_elements

    def _cut_off(self, position: int, size_bytes: int) -> MalformedMessage:
        return MalformedMessage(f"{size_bytes} bytes expected at {position} of {len(self.view)}")

    def read_fixed(self, form: Struct) -> tuple[Any, ...]:
        """Several values of fixed size at once."""
        position = self.position
        self.position = position + form.size
        try:
            return form.unpack_from(self.view, position)
        except error:
            raise self._cut_off(position, form.size) from None

    def read_int8(self) -> int:
        return int(self.read_fixed(_INT8)[0])

    def read_int16(self) -> int:
        position = self.position
        self.position = position + 2
        try:
            return _unpack_int16(self.view, position)[0]  # type: ignore[no-any-return]
        except error:
            raise self._cut_off(position, 2) from None

    def read_int32(self) -> int:
        position = self.position
        self.position = position + 4
        try:
            return _unpack_int32(self.view, position)[0]  # type: ignore[no-any-return]
        except error:
            raise self._cut_off(position, 4) from None

    def read_int64(self) -> int:
        position = self.position
        self.position = position + 8
        try:
            return _unpack_int64(self.view, position)[0]  # type: ignore[no-any-return]
        except error:
            raise self._cut_off(position, 8) from None

    def read_uint16(self) -> int:
        return int(self.read_fixed(_UINT16)[0])

    def read_float64(self) -> float:
        return float(self.read_fixed(_FLOAT64)[0])

    def read_bool(self) -> bool:
        return bool(self.read_fixed(_INT8)[0])

    def read_unsigned_varint(self) -> int:
        """A 32-bit integer in at most five bytes."""
        view = self.view
        position = self.position
        value = shift = 0
        try:
            while (byte := view[position]) > 0x7F:
                value |= (byte & 0x7F) << shift
                position += 1
                shift += 7
                if shift > 28:
                    raise MalformedMessage(f"varint longer than five bytes at {self.position}")
        except IndexError:
            raise self._cut_off(position, 1) from None
        self.position = position + 1
        return (value | byte << shift) & 0xFFFFFFFF


class Reader(NumberReader):
    """Reads Kafka's types from `view` one after the other, starting at `position`."""

    __slots__ = ()

    def read_uuid(self) -> bytes:
        return bytes(self._take(16))

    def _compact_length(self) -> int:
        """Length + 1 as a varint. Java computes in 32 bits with sign, so huge ones come out negative: null."""
        position = self.position
        if position < len(self.view) and (byte := self.view[position]) < 0x80:
            self.position = position + 1
            return byte - 1
        length = self.read_unsigned_varint() - 1
        return length if length <= _MAX_INT32 else -1

    def _take(self, length: int) -> memoryview:
        position = self.position
        end = position + length
        if length < 0 or end > len(self.view):
            raise self._cut_off(position, length)
        self.position = end
        return self.view[position:end]

    def read_text(self, length: int) -> str:
        """A string of `length` bytes. What is not UTF-8 is replaced, as in Java."""
        position = self.position
        end = position + length
        if not 0 <= length <= _MAX_STRING_BYTES or end > len(self.view):
            raise self._cut_off(position, length)
        self.position = end
        return str(self.view[position:end], "utf-8", "replace")

    def read_string(self) -> str:
        return self.read_text(self.read_int16())

    def read_compact_string(self) -> str:
        return self.read_text(self._compact_length())

    def read_nullable_string(self) -> str | None:
        length = self.read_int16()
        return None if length < 0 else self.read_text(length)

    def read_compact_nullable_string(self) -> str | None:
        length = self._compact_length()
        return None if length < 0 else self.read_text(length)

    def read_bytes(self) -> memoryview:
        return self._take(self.read_int32())

    def read_compact_bytes(self) -> memoryview:
        return self._take(self._compact_length())

    def read_nullable_bytes(self) -> memoryview | None:
        length = self.read_int32()
        return None if length < 0 else self._take(length)

    def read_compact_nullable_bytes(self) -> memoryview | None:
        length = self._compact_length()
        return None if length < 0 else self._take(length)

    def read_array_length(self) -> int:
        """The number of elements that follow. Charged to the element budget."""
        return self._charge(self.read_int32())

    def read_compact_array_length(self) -> int:
        return self._charge(self._compact_length())

    def read_nullable_array_length(self) -> int:
        """As `read_array_length`, or -1 for a null array."""
        length = self.read_int32()
        return -1 if length < 0 else self._charge(length)

    def read_compact_nullable_array_length(self) -> int:
        length = self._compact_length()
        return -1 if length < 0 else self._charge(length)

    def read_tag_count(self) -> int:
        """The number of tagged fields that follow. They too cost time, so they too are charged."""
        return self._charge(self.read_unsigned_varint())

    def _charge(self, count: int) -> int:
        remaining = len(self.view) - self.position
        if not 0 <= count <= remaining:
            raise MalformedMessage(f"{count} elements in {remaining} bytes at {self.position}")
        self.elements_left -= count
        if self.elements_left < 0:
            raise MalformedMessage(f"too many elements at {self.position}")
        return count

    def skip(self, length: int) -> None:
        """Passes over `length` bytes, which must be there."""
        self._take(length)

    def skip_tagged_fields(self) -> None:
        """Passes over a section of tagged fields of which we know none (KIP-482)."""
        position = self.position
        if position < len(self.view) and self.view[position] == 0:
            self.position = position + 1
            return
        for _ in range(self.read_tag_count()):
            self.read_unsigned_varint()
            self._take(self.read_unsigned_varint())


class NumberWriter:
    """The part of Writer that puts values of fixed size and varints."""

    __slots__ = ("buffer",)

    def __init__(self) -> None:
        self.buffer = bytearray()

    def write_int8(self, value: int) -> None:
        self.buffer += _INT8.pack(value)

    def write_int16(self, value: int) -> None:
        self.buffer += _INT16.pack(value)

    def write_int32(self, value: int) -> None:
        self.buffer += _INT32.pack(value)

    def write_int64(self, value: int) -> None:
        self.buffer += _INT64.pack(value)

    def write_uint16(self, value: int) -> None:
        self.buffer += _UINT16.pack(value)

    def write_float64(self, value: float) -> None:
        self.buffer += _FLOAT64.pack(value)

    def write_bool(self, value: bool) -> None:
        self.buffer.append(1 if value else 0)

    def write_unsigned_varint(self, value: int) -> None:
        buffer = self.buffer
        while value > 0x7F:
            buffer.append(value & 0x7F | 0x80)
            value >>= 7
        buffer.append(value)


class Writer(NumberWriter):
    """Appends Kafka's types to `buffer`. A value of the wrong type or range is the caller's bug and raises as such.

    With `apart`, fields of bytes that are large are not copied: they are put there, each behind what was written before
    it, and `buffer` has what comes after the last of them.
    """

    __slots__ = ("apart",)

    def __init__(self, apart: list[Buffer] | None = None) -> None:
        self.buffer = bytearray()
        self.apart = apart

    def write_uuid(self, value: bytes) -> None:
        if len(value) != 16:
            raise ValueError(f"a uuid has 16 bytes, not {len(value)}")
        self.buffer += value

    def write_string(self, value: str) -> None:
        data = _encode_text(value)
        self.buffer += _INT16.pack(len(data))
        self.buffer += data

    def write_compact_string(self, value: str) -> None:
        data = _encode_text(value)
        if len(data) < 0x7F:
            self.buffer.append(len(data) + 1)
        else:
            self.write_unsigned_varint(len(data) + 1)
        self.buffer += data

    def write_nullable_string(self, value: str | None) -> None:
        if value is None:
            self.buffer += b"\xff\xff"
        else:
            self.write_string(value)

    def write_compact_nullable_string(self, value: str | None) -> None:
        if value is None:
            self.buffer.append(0)
        else:
            self.write_compact_string(value)

    def write_bytes(self, value: Buffer) -> None:
        self.buffer += _INT32.pack(len(value))
        self._put(value)

    def write_compact_bytes(self, value: Buffer) -> None:
        self.write_unsigned_varint(len(value) + 1)
        self._put(value)

    def write_nullable_bytes(self, value: Buffer | None) -> None:
        if value is None:
            self.buffer += b"\xff\xff\xff\xff"
        else:
            self.write_bytes(value)

    def write_compact_nullable_bytes(self, value: Buffer | None) -> None:
        if value is None:
            self.buffer.append(0)
        else:
            self.write_compact_bytes(value)

    def _put(self, value: Buffer) -> None:
        if self.apart is None or len(value) < APART_BYTES:
            self.buffer += value
            return
        self.apart += (self.buffer, value)
        self.buffer = bytearray()

    def write_array_length(self, count: int) -> None:
        """The number of elements that will follow; -1 for a null array."""
        self.buffer += _INT32.pack(count)

    def write_compact_array_length(self, count: int) -> None:
        """As `write_array_length`, of the flexible versions."""
        self.write_unsigned_varint(count + 1)


def _encode_text(value: str) -> bytes:
    data = value.encode("utf-8", "replace")
    if len(data) > _MAX_STRING_BYTES:
        raise ValueError(f"string of {len(data)} bytes; the protocol allows {_MAX_STRING_BYTES}")
    return data
