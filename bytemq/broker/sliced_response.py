"""Answers of thousands of elements, or of large ones, made and encoded a few in a turn of the event loop.

Owns the slicing. Must not: know what the elements are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bytemq.protocol.codec import encode_element
from bytemq.protocol.primitives import Writer
from bytemq.protocol.schema import Message, Struct
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
    """Elements of any size, of messages of a flexible version: a turn ends when SLICE_BYTES have been made."""

    __slots__ = ("_left", "_turns", "_version")

    def __init__(self, turns: Turns, version: int) -> None:
        self._turns = turns
        self._version = version
        self._left = SLICE_BYTES

    async def array(self, elements: Iterable[Struct]) -> bytes:
        """As it stands in the message, with its length in front."""
        encoded = [await self.element(element) for element in elements]
        writer = Writer()
        writer.write_compact_array_length(len(encoded))
        return b"".join((writer.buffer, *encoded))

    async def element(self, element: Struct) -> bytes:
        encoded = encode_element(element, self._version, flexible=True)
        self._left -= len(encoded)
        if self._left <= 0:
            self._left = SLICE_BYTES
            await self._turns.next()
        return encoded


def response_of(response: type[Message], version: int, encoded: Sequence[bytes]) -> bytes:
    """A response that is a throttle time and an array of these elements."""
    flexible = response.FLEXIBLE.includes(version)
    writer = Writer()
    writer.write_int32(0)  # throttle_time_ms
    if flexible:
        writer.write_compact_array_length(len(encoded))
    else:
        writer.write_array_length(len(encoded))
    return b"".join((writer.buffer, *encoded, b"\0" if flexible else b""))
