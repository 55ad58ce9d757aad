"""What the broker and a query's process say to each other, and how it looks on the socket between them.

Owns: the framing: two lengths (little-endian), a JSON object, and bytes that belong to it. Must not: unpickle
anything: the other side works on what users wrote.

    broker -> query   {"sql", "format", "explain", limits...}          the first message
    query -> broker   {"ask": "cut", "topics": [...]}                  answer: {"cuts": {topic: cut}}
    query -> broker   {"ask": "urls", "files": [...]}                  answer: {"urls": [...]}, of files of its cuts
    query -> broker   {"ask": "columns", "topic", "seen": {root: ...}}   answer: {"columns", "formats"}
    query -> broker   {"ask": "read", topic, partition, offset, end}   answer: {"next_offset"} and batches
    query -> broker   {"content_type"}, then {"rows": n} with bytes    the result, as it comes
    query -> broker   {"done": {...}} or {"failed": "a sentence"}      the last message
    broker -> query   {"failed": "a sentence", "later", "overtaken"}   in place of an answer; later: it may work soon;
                                                                       overtaken: with a cut of now
"""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple

LENGTHS = struct.Struct("<II")
MAX_MESSAGE_BYTES = 1 << 20
MAX_PAYLOAD_BYTES = 64 << 20


class Message(NamedTuple):
    content: dict[str, Any]
    payload: bytes | memoryview = b""


def encode(message: Message) -> list[bytes | memoryview]:
    content = json.dumps(message.content).encode()
    return [LENGTHS.pack(len(content), len(message.payload)) + content, message.payload]


def decode(content: bytes, payload: bytes) -> Message:
    """Raises ValueError for what is no message."""
    parsed = json.loads(content)
    if not isinstance(parsed, dict):
        raise ValueError("a message is an object")
    return Message(parsed, payload)


def lengths(prefix: bytes) -> tuple[int, int]:
    """Raises ValueError for a message larger than one may be."""
    content, payload = LENGTHS.unpack(prefix)
    if content > MAX_MESSAGE_BYTES or payload > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a message of {content} + {payload} bytes")
    return content, payload
