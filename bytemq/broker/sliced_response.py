"""Answers of thousands of elements, or of large ones, made and encoded a few in a turn of the event loop.

Owns the slicing. Must not: know what the elements are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bytemq.protocol.codec import encode_element, write_element
from bytemq.protocol.primitives import Writer
from bytemq.protocol.schema import Message, Struct, parse_versions
from bytemq.runtime.turns import Turns

SLICE_BYTES = 32 * 1024
"""Some thousand names: a few milliseconds."""


async def encode_in_turns(
    turns: Turns, response: type[Message], version: int, elements: Iterable[Struct], slice_elements: int
) -> bytes:
    """A response that is a throttle time and an array of `elements`. `slice_elements` of them are taken and encoded at
    a time: between two slices others are served.
    """
    flexible = response.FLEXIBLE.includes(version)
    encoded: list[bytes] = []
    for element in elements:
        encoded.append(encode_element(element, version, flexible=flexible))
        if len(encoded) % slice_elements == 0:
            await turns.next()
    return response_of(response, version, encoded)


class EncodedInTurns:
    """Elements of any size: a turn ends when SLICE_BYTES have been made."""

    __slots__ = ("_empty_bytes", "_flexible", "_left", "_turns", "_version")

    def __init__(self, turns: Turns, response: type[Message], version: int) -> None:
        self._turns = turns
        self._version = version
        self._flexible = response.FLEXIBLE.includes(version)
        self._empty_bytes = len(_length(0, flexible=self._flexible))
        self._left = SLICE_BYTES

    async def array(self, elements: Iterable[Struct]) -> bytes:
        """As it stands in the message, with its length in front."""
        writer, count, turn_begins = Writer(), 0, 0
        for element in elements:
            write_element(writer, element, self._version, flexible=self._flexible)
            count += 1
            if len(writer.buffer) - turn_begins >= self._left:
                await self._next_turn()
                turn_begins = len(writer.buffer)
        self._left -= len(writer.buffer) - turn_begins
        return _length(count, flexible=self._flexible) + writer.buffer

    def array_of(self, encoded: Sequence[bytes]) -> bytes:
        """An array of what is encoded already."""
        return _length(len(encoded), flexible=self._flexible) + b"".join(encoded)

    async def element(self, element: Struct) -> bytes:
        encoded = encode_element(element, self._version, flexible=self._flexible)
        self._left -= len(encoded)
        if self._left <= 0:
            await self._next_turn()
        return encoded

    async def _next_turn(self) -> None:
        self._left = SLICE_BYTES
        await self._turns.next()

    async def filled(self, element: Struct, behind_bytes: int, array: bytes) -> bytes:
        """An element, with `array` in the place of its last one, which is empty and has `behind_bytes` behind it."""
        return self.with_array(await self.element(element), behind_bytes, array)

    def with_array(self, encoded: bytes, behind_bytes: int, array: bytes) -> bytes:
        behind = len(encoded) - behind_bytes
        return encoded[: behind - self._empty_bytes] + array + encoded[behind:]


def response_of(response: type[Message], version: int, encoded: Sequence[bytes]) -> bytes:
    """A response that is a throttle time, where the version has one, and an array of these elements."""
    flexible = response.FLEXIBLE.includes(version)
    writer = Writer()
    if parse_versions(response.FIELDS["throttle_time_ms"].versions).includes(version):
        writer.write_int32(0)
    writer.buffer += _length(len(encoded), flexible=flexible)
    return b"".join((writer.buffer, *encoded, b"\0" if flexible else b""))


def _length(count: int, *, flexible: bool) -> bytes:
    """Of an array."""
    writer = Writer()
    if flexible:
        writer.write_compact_array_length(count)
    else:
        writer.write_array_length(count)
    return bytes(writer.buffer)
