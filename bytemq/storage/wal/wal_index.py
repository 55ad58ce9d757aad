"""The index of one write-ahead-log file, and the tail record of a session. Pure.

Owns: their encoding. Must not: do I/O.

A file that is full (or closed by a clean stop) gets an index object beside it: the heads of its flushes with their
positions, so that recovery reads one small object in place of a walk through the file. It is a convenience: each head
carries its own CRC, and when the object is missing or damaged the file itself is walked.

    header (56 bytes)   magic, version, session, file number, number of flushes, end position in the file, size of the
    heads, CRC-32C positions           of each flush in the file, 8 bytes each heads               headers and indexes
    of the flushes, one after the other

little-endian except for the heads. The CRC covers header and positions.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

from crc32c import crc32c

from bytemq.errors import Corrupt
from bytemq.storage.segments.segment_format import from_little_endian, little_endian
from bytemq.storage.wal.format import check_head, decode_header
from bytemq.storage.wal.heads import Head, chained

MAGIC = b"BMQX"
VERSION = 1
_HEADER = struct.Struct("<4sHxxQQIxxxxqq")
_CRC = struct.Struct("<I")


class TailRecord(NamedTuple):
    """What the metadata store says of one session's write-ahead log."""

    session_id: int
    first_number: int
    """Number of the first file that is still needed; below, the first sequence in it and the CRC which that flush links
    to."""
    first_sequence: int = 1
    first_link: int = 0
    sealed_number: int = -1
    """Number of the last file and, below, sequence of the last flush that count; -1 while the session may still write.
    """
    sealed_sequence: int = -1

    @property
    def is_sealed(self) -> bool:
        return self.sealed_number >= 0


def file_name(session_id: int, number: int) -> str:
    return f"wal/{session_id:016x}-{number:08x}.log"


def file_number(name: str, session_id: int) -> int | None:
    """The number that `file_name` made `name` of; None for anything that is not a file of that session."""
    before, _, rest = name.partition(f"/{session_id:016x}-")
    number, _, suffix = rest.partition(".")
    return int(number, 16) if before == "wal" and number and suffix == "log" else None


def newest_session(names: Iterable[str]) -> int:
    """The highest session id among the names of files in `wal/`, 0 without any.

    Session ids only grow. A file of a session that the metadata have not come to shows that they were lost, or are an
    older copy; going on would take everything newer for garbage.
    """
    found = 0
    for name in names:
        session, _, _ = name.rpartition("/")[2].removeprefix("spare-").partition("-")
        with suppress(ValueError):
            found = max(found, int(session, 16))
    return found


def index_name(session_id: int, number: int) -> str:
    return f"wal/{session_id:016x}-{number:08x}.index"


def encode_tail(tail: TailRecord) -> bytes:
    return json.dumps({"version": 1, **tail._asdict()}).encode()


def decode_tail(value: bytes) -> TailRecord:
    try:
        fields = json.loads(value)
        if fields.pop("version") != 1:
            raise Corrupt("the record of a write-ahead log is of a newer version")
        return TailRecord(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"the record of a write-ahead log is damaged: {error}") from error


def encode_index(session_id: int, number: int, heads: Sequence[tuple[int, bytes]], end_position: int) -> list[bytes]:
    """The parts of an index object. `heads` are (position, head)."""
    positions = little_endian(array("q", (position for position, _ in heads)))
    heads_bytes = sum(len(head) for _, head in heads)
    header = _HEADER.pack(MAGIC, VERSION, session_id, number, len(heads), end_position, heads_bytes)
    crc = _CRC.pack(crc32c(positions, crc32c(header)))
    return [header, crc, positions, *(head for _, head in heads)]


def decode_index(data: bytes, session_id: int, number: int) -> list[Head]:
    """The flushes of the file, heads checked. Raises Corrupt for anything but the whole index of just this file."""
    view = memoryview(data)
    start = _HEADER.size + _CRC.size
    if len(view) < start:
        raise Corrupt("the index of a write-ahead-log file is cut")
    magic, version, session, of_number, count, _, heads_bytes = _HEADER.unpack_from(view)
    if magic != MAGIC or version != VERSION or (session, of_number) != (session_id, number):
        raise Corrupt("not the index of this write-ahead-log file")
    body = start + count * 8
    if len(view) != body + heads_bytes:
        raise Corrupt("the index of a write-ahead-log file has the wrong size")
    if crc32c(view[start:body], crc32c(view[: _HEADER.size])) != _CRC.unpack_from(view, _HEADER.size)[0]:
        raise Corrupt("the checksum of the index of a write-ahead-log file does not match")
    heads = _heads(view, body)
    if len(heads) != count:
        raise Corrupt("the index of a write-ahead-log file has the wrong size")
    positions = from_little_endian("q", view[start:body])
    return [(position, head) for position, (_, head) in zip(positions, heads, strict=True)]


def _heads(view: memoryview, at: int) -> list[Head]:
    """Those that `view` ends with. Where flushes are missing, as they may be in a damaged file, a chain begins anew."""
    heads: list[Head] = []
    while at < len(view):
        header = decode_header(view, at)
        found, after, *_ = chained(view, at, 0, header.session_id, header.sequence - 1, header.previous_crc, True)
        check_head(view[at : at + header.head_bytes], header)
        heads += found
        at = after
    return heads
