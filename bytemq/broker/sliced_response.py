"""Answers of thousands of elements, made and encoded a few in a turn of the event loop.

Owns the slicing. Must not: know what the elements are.
"""

from __future__ import annotations

from collections.abc import Iterable

from bytemq.protocol.codec import encode_element
from bytemq.protocol.primitives import Writer
from bytemq.protocol.schema import Message, Struct
from bytemq.runtime.turns import Turns


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
    writer = Writer()
    writer.write_int32(0)  # throttle_time_ms
    if flexible:
        writer.write_compact_array_length(len(encoded))
    else:
        writer.write_array_length(len(encoded))
    return b"".join((writer.buffer, *encoded, b"\0" if flexible else b""))
