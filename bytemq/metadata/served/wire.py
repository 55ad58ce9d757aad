"""Messages between a broker and the supervisor that serves its metadata. Pure but for reading a stream.

Owns the form: length of all that follows, length of the head, the head as JSON, then blobs whose lengths the head has
under "blobs". Values of the store travel as blobs, everything else in the head.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from struct import Struct
from typing import Any

from bytemq.errors import BytemqError, Corrupt, Fenced, Full, Invalid, NotFound, Unavailable
from bytemq.metadata.store import Compacted

_LENGTHS = Struct(">II")
MAX_BYTES = 256 * 1024 * 1024

Message = dict[str, Any]
_ERRORS: dict[str, type[BytemqError]] = {
    kind.__name__: kind for kind in (Compacted, Corrupt, Fenced, Full, Invalid, NotFound, Unavailable)
}


def encode(message: Message, blobs: Sequence[bytes] = ()) -> bytes:
    head = json.dumps({**message, "blobs": list(map(len, blobs))}, separators=(",", ":")).encode()
    size_bytes = 4 + len(head) + sum(map(len, blobs))
    return b"".join((_LENGTHS.pack(size_bytes, len(head)), head, *blobs))


async def read(stream: asyncio.StreamReader) -> tuple[Message, list[bytes]]:
    """Raises IncompleteReadError at the end of the stream, Corrupt for what is no message."""
    size_bytes, head_bytes = _LENGTHS.unpack(await stream.readexactly(_LENGTHS.size))
    if not 4 + head_bytes <= size_bytes <= MAX_BYTES:
        raise Corrupt(f"a message of {size_bytes} bytes with a head of {head_bytes}")
    body = memoryview(await stream.readexactly(size_bytes - 4))
    try:
        message: Message = json.loads(bytes(body[:head_bytes]))
        lengths = message["blobs"]
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"a message whose head cannot be read: {error!r}") from error
    blobs, position = [], head_bytes
    for length in lengths:
        blobs.append(bytes(body[position : position + length]))
        position += length
    return message, blobs


def error_message(error: BytemqError) -> Message:
    kind = next(name for name, kind in _ERRORS.items() if isinstance(error, kind))
    return {"error": kind, "text": str(error)}


def raise_error(message: Message) -> None:
    """Raises what the other side raised, if it did."""
    if "error" in message:
        raise _ERRORS.get(message["error"], Unavailable)(message["text"])
