"""Record batches by hand, for everything that a client's own builder would refuse to write. Independent of bytemq's
code.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import crc32c

HEADER = struct.Struct(">qiibIhiqqqhii")
CRC_START = 21
TIMESTAMP_MS = 1_700_000_000_000


def varint(value: int) -> bytes:
    zigzag = (value << 1) ^ (value >> 63)
    out = bytearray()
    while zigzag >= 0x80:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    out.append(zigzag)
    return bytes(out)


def blob(data: bytes | None) -> bytes:
    return varint(-1) if data is None else varint(len(data)) + data


def record(value: bytes | None, key: bytes | None = None, *, offset_delta: int = 0, timestamp_delta: int = 0) -> bytes:
    body = b"\x00" + varint(timestamp_delta) + varint(offset_delta) + blob(key) + blob(value) + varint(0)
    return varint(len(body)) + body


def batch(values: Iterable[bytes | None] = (b"value",), *, key: bytes | None = None, **fields: Any) -> bytes:
    """One v2 batch. `fields` override what is right: base_offset, magic, crc, attributes, last_offset_delta,
    base_timestamp,
    max_timestamp, producer_id, producer_epoch, base_sequence, count, leader_epoch, length, deltas, body."""
    values = list(values)
    deltas = fields.get("deltas", range(len(values)))
    body = fields.get("body")
    if body is None:
        body = b"".join(record(value, key, offset_delta=delta) for value, delta in zip(values, deltas, strict=True))
    base_timestamp = fields.get("base_timestamp", TIMESTAMP_MS)
    payload = struct.pack(
        ">hiqqqhii",
        fields.get("attributes", 0),
        fields.get("last_offset_delta", len(values) - 1),
        base_timestamp,
        fields.get("max_timestamp", base_timestamp),
        fields.get("producer_id", -1),
        fields.get("producer_epoch", -1),
        fields.get("base_sequence", -1),
        fields.get("count", len(values)),
    )
    payload += body
    crc = fields.get("crc", crc32c.crc32c(payload))
    length = fields.get("length", len(payload) + 9)
    prefix = struct.pack(">qii", fields.get("base_offset", 0), length, fields.get("leader_epoch", -1))
    return prefix + struct.pack(">bI", fields.get("magic", 2), crc) + payload


def message_set(magic: int, value: bytes = b"value") -> bytes:
    """An old message (magic 0 or 1) with a right checksum."""
    import zlib

    body = struct.pack(">bb", magic, 0)
    if magic == 1:
        body += struct.pack(">q", TIMESTAMP_MS)
    body += struct.pack(">i", -1) + struct.pack(">i", len(value)) + value
    message = struct.pack(">I", zlib.crc32(body)) + body
    return struct.pack(">qi", 0, len(message)) + message


def describe(data: bytes) -> list[dict[str, Any]]:
    """What a fetch returned, batch by batch. Timestamps of append are told from ours by the caller's normaliser."""
    found = []
    position = 0
    while len(data) - position >= HEADER.size:
        fields = HEADER.unpack_from(data, position)
        end = position + 12 + fields[1]
        if end > len(data):
            found.append({"cut": True})
            break
        payload = data[position + CRC_START : end]
        found.append(
            {
                "base_offset": fields[0],
                "leader_epoch": fields[2],
                "magic": fields[3],
                "crc_right": fields[4] == crc32c.crc32c(payload),
                "attributes": fields[5],
                "last_offset_delta": fields[6],
                "base_timestamp": fields[7],
                "max_timestamp": fields[8],
                "producer_id": fields[9],
                "producer_epoch": fields[10],
                "base_sequence": fields[11],
                "count": fields[12],
                "body": payload[40:].hex() if len(payload) < 200 else len(payload),
            }
        )
        position = end
    return found


CONTROL = 0x20
TRANSACTIONAL = 0x10


class Batch(NamedTuple):
    """One batch of a fetch, uncompressed, with its records."""

    base_offset: int
    last_offset: int
    attributes: int
    producer_id: int
    records: list[tuple[int, bytes | None, bytes | None]]
    """Offset, key, value."""

    def rows(self, aborted: Mapping[int, int]) -> list[list[Any]]:
        """Records as text: offset, key, value; markers as what they say. Without those of `aborted`: where the first
        of a producer's aborted transactions begins.
        """
        if self.attributes & CONTROL:
            kinds = {0: "abort", 1: "commit"}
            return [
                [offset, "marker", kinds[struct.unpack_from(">h", key or b"", 2)[0]]] for offset, key, _ in self.records
            ]
        if self.attributes & TRANSACTIONAL and self.base_offset >= aborted.get(self.producer_id, self.base_offset + 1):
            return []
        return [[offset, _text(key), _text(value)] for offset, key, value in self.records]


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode()


def records_of(data: bytes) -> list[Batch]:
    """All whole batches of a fetch, of one producer's one transaction at most."""
    found = []
    position = 0
    while len(data) - position >= HEADER.size:
        fields = HEADER.unpack_from(data, position)
        end = position + 12 + fields[1]
        if end > len(data):
            break
        records, at = [], position + HEADER.size
        for _ in range(fields[12]):
            length, at = _read_varint(data, at)
            records.append(_read_record(data, at, fields[0]))
            at += length
        found.append(Batch(fields[0], fields[0] + fields[6], fields[5], fields[9], records))
        position = end
    return found


def _read_record(data: bytes, at: int, base_offset: int) -> tuple[int, bytes | None, bytes | None]:
    _, at = _read_varint(data, at + 1)
    delta, at = _read_varint(data, at)
    key, at = _read_blob(data, at)
    value, at = _read_blob(data, at)
    return base_offset + delta, key, value


def _read_blob(data: bytes, at: int) -> tuple[bytes | None, int]:
    length, at = _read_varint(data, at)
    return (None, at) if length < 0 else (data[at : at + length], at + length)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
