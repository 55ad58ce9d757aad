"""What metadata and storage say of one session's write-ahead log in objects: its tail record and its indexes. Pure.

Owns: names and encoding. Must not: do I/O.

One flush is one object, as `format` describes it. The tail record, a value in the metadata store, is what commits: it
names the newest flushes exactly (token, sizes, checksum of the head), so that an object which was written but not
committed counts for nothing, whatever name it has. What is older is named through index objects: the heads of some
flushes in a row, so that whoever opens a partition of this session reads a few small objects and no batch.

    tail record         version, broker, session, first and last sequence, CRC of the last head, indexes, flushes
    index object        magic, version, session, first sequence, number of flushes, a reference for each, heads

all big-endian, each with a CRC-32C behind it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from crc32c import crc32c

from bytemq.errors import Corrupt
from bytemq.storage.wal.format import FlushHeader, check_head, decode_header

VERSION = 1
INDEX_MAGIC = b"BMQJ"
_TAIL = struct.Struct(">BxHiQQQIHH")
_FLUSH = struct.Struct(">QIII")
_INDEX = struct.Struct(">QQQII")
_INDEX_HEADER = struct.Struct(">4sBxHQQ")
_CRC = struct.Struct(">I")
FOLDER = "wal/"


class FlushRef(NamedTuple):
    """One committed flush. Its object is whatever `name` says, and nothing else."""

    sequence: int
    token: int
    size_bytes: int
    head_bytes: int
    crc: int
    """Of the head: its successor links to it."""


class IndexRef(NamedTuple):
    """An index object over the flushes `first_sequence` to `last_sequence`."""

    first_sequence: int
    last_sequence: int
    token: int
    size_bytes: int
    crc: int
    """CRC-32C of the whole object."""


class SessionTail(NamedTuple):
    broker_id: int
    session_id: int
    first_sequence: int = 1
    """What is below is in segments, or nobody's any more; its objects may be gone."""
    last_sequence: int = 0
    last_crc: int = 0
    indexes: tuple[IndexRef, ...] = ()
    flushes: tuple[FlushRef, ...] = ()
    """The newest ones, up to `last_sequence`, that no index has yet."""


class IndexedFlush(NamedTuple):
    """A committed flush with its checked head."""

    ref: FlushRef
    header: FlushHeader
    head: memoryview


def flush_name(session_id: int, flush: FlushRef) -> str:
    return f"{FOLDER}{session_id:016x}/{flush.sequence:012x}-{flush.token:016x}.flush"


def index_name(session_id: int, index: IndexRef) -> str:
    return f"{FOLDER}{session_id:016x}/{index.first_sequence:012x}-{index.token:016x}.index"


def folder_of(session_id: int) -> str:
    return f"{FOLDER}{session_id:016x}/"


def session_of(name: str) -> int | None:
    """The session whose write-ahead log an object belongs to; None for any other name."""
    folder, _, rest = name.removeprefix(FOLDER).partition("/")
    if not name.startswith(FOLDER) or not rest:
        return None
    try:
        return int(folder, 16)
    except ValueError:
        return None


def names_of_tail(tail: SessionTail) -> Iterator[str]:
    """The objects that a tail names itself; those of indexed flushes are named by the indexes."""
    yield from (index_name(tail.session_id, index) for index in tail.indexes)
    yield from (flush_name(tail.session_id, flush) for flush in tail.flushes)


def with_flushes(tail: SessionTail, flushes: Sequence[FlushRef]) -> SessionTail:
    """After the commit of some flushes in a row."""
    last = flushes[-1]
    return tail._replace(last_sequence=last.sequence, last_crc=last.crc, flushes=(*tail.flushes, *flushes))


def with_index(tail: SessionTail, index: IndexRef) -> SessionTail:
    """An index object is durable: it stands for its flushes from now on."""
    flushes = tuple(flush for flush in tail.flushes if flush.sequence > index.last_sequence)
    return tail._replace(indexes=(*tail.indexes, index), flushes=flushes)


def released_below(tail: SessionTail, sequence: int) -> SessionTail:
    """Nobody needs what is below `sequence`."""
    return tail._replace(
        first_sequence=max(sequence, tail.first_sequence),
        indexes=tuple(index for index in tail.indexes if index.last_sequence >= sequence),
        flushes=tuple(flush for flush in tail.flushes if flush.sequence >= sequence),
    )


def encode_tail(tail: SessionTail) -> bytes:
    parts = [
        _TAIL.pack(
            VERSION,
            0,
            tail.broker_id,
            tail.session_id,
            tail.first_sequence,
            tail.last_sequence,
            tail.last_crc,
            len(tail.indexes),
            len(tail.flushes),
        )
    ]
    parts.extend(_INDEX.pack(*index) for index in tail.indexes)
    parts.extend(_FLUSH.pack(*flush[1:]) for flush in tail.flushes)
    body = b"".join(parts)
    return body + _CRC.pack(crc32c(body))


def decode_tail(value: bytes) -> SessionTail:
    """Raises Corrupt for anything that `encode_tail` did not make."""
    view = _checked(value, "the tail record of a write-ahead log")
    try:
        version, _, broker, session, first, last, crc, index_count, flush_count = _TAIL.unpack_from(view)
        if version != VERSION:
            raise Corrupt(f"a write-ahead log of version {version}; this program reads version {VERSION}")
        position = _TAIL.size
        indexes = tuple(IndexRef(*_INDEX.unpack_from(view, position + n * _INDEX.size)) for n in range(index_count))
        position += index_count * _INDEX.size
        flushes = tuple(
            FlushRef(last - flush_count + 1 + n, *_FLUSH.unpack_from(view, position + n * _FLUSH.size))
            for n in range(flush_count)
        )
    except struct.error as error:
        raise Corrupt(f"the tail record of a write-ahead log: {error}") from error
    if position + flush_count * _FLUSH.size != len(view):
        raise Corrupt("the tail record of a write-ahead log has the wrong size")
    return SessionTail(broker, session, first, last, crc, indexes, flushes)


def encode_index(session_id: int, flushes: Sequence[tuple[FlushRef, bytes]]) -> bytes:
    """An index object over flushes in a row, each with its head."""
    parts = [_INDEX_HEADER.pack(INDEX_MAGIC, VERSION, 0, session_id, flushes[0][0].sequence)]
    parts.append(_CRC.pack(len(flushes)))
    parts.extend(_FLUSH.pack(*flush[1:]) for flush, _ in flushes)
    parts.extend(head for _, head in flushes)
    body = b"".join(parts)
    return body + _CRC.pack(crc32c(body))


def index_ref(flushes: Sequence[tuple[FlushRef, bytes]], data: bytes, token: int) -> IndexRef:
    """What a tail says of the index object `data` over these flushes."""
    return IndexRef(flushes[0][0].sequence, flushes[-1][0].sequence, token, len(data), crc32c(data))


def decode_index(data: bytes, session_id: int) -> list[IndexedFlush]:
    """Raises Corrupt unless it is a whole index of that session, heads included."""
    view = _checked(data, "the index of a write-ahead log")
    try:
        magic, version, _, session, sequence = _INDEX_HEADER.unpack_from(view)
        if magic != INDEX_MAGIC or version != VERSION or session != session_id:
            raise Corrupt("this is no index of that write-ahead log")
        (count,) = _CRC.unpack_from(view, _INDEX_HEADER.size)
        start = _INDEX_HEADER.size + _CRC.size
        position = start + count * _FLUSH.size
        found = []
        for number in range(count):
            ref = FlushRef(sequence + number, *_FLUSH.unpack_from(view, start + number * _FLUSH.size))
            found.append(checked_flush(ref, session_id, view[position : position + ref.head_bytes]))
            position += ref.head_bytes
    except struct.error as error:
        raise Corrupt(f"the index of a write-ahead log: {error}") from error
    if position != len(view):
        raise Corrupt("the index of a write-ahead log has the wrong size")
    return found


def checked_flush(ref: FlushRef, session_id: int, head: bytes | memoryview) -> IndexedFlush:
    """Raises Corrupt unless `head` is that of the flush which was committed under `ref`."""
    view = memoryview(head)
    header = decode_header(view)
    check_head(view, header)
    if (header.session_id, header.sequence, header.crc) != (session_id, ref.sequence, ref.crc):
        raise Corrupt(f"the object of flush {ref.sequence} is not the one that was committed")
    return IndexedFlush(ref, header, view)


def _checked(data: bytes, what: str) -> memoryview:
    view = memoryview(data)
    if len(view) < _CRC.size or crc32c(view[: -_CRC.size]) != _CRC.unpack_from(view, len(view) - _CRC.size)[0]:
        raise Corrupt(f"the checksum of {what} does not match")
    return view[: -_CRC.size]
