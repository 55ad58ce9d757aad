"""What metadata and storage say of one session's write-ahead log in objects: its tail record and its indexes. Pure.

Owns: names and encoding. Must not: do I/O.

One flush is one object, as `format` describes it. The tail record, a value in the metadata store, is what commits: it
names the newest flushes exactly (token, sizes, checksum of the head), so that an object which was written but not
committed counts for nothing, whatever name it has. What is older is named through index objects: the heads of some
flushes in a row, so that whoever opens a partition of this session reads a few small objects and no batch.

    tail record         version, broker, session, first and last sequence, CRC of the last head, indexes, flushes
    index object        magic, version, session, first sequence, number of flushes, a reference for each, heads

all big-endian, each with a CRC-32C behind it. Where an object is in a pool, it is of version 2: the names of pools
follow the header, and each reference ends with the places in that list of what it refers to.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from crc32c import crc32c

from bytemq.errors import Corrupt
from bytemq.storage.pools.names import PRIMARY, in_pool, plain_name
from bytemq.storage.wal.format import FlushHeader, check_head, decode_header

VERSION = 1
POOLS_VERSION = 2
INDEX_MAGIC = b"BMQJ"
_TAIL = struct.Struct(">BxHiQQQIHH")
_FLUSH = struct.Struct(">QIII")
_INDEX = struct.Struct(">QQQII")
_INDEX_HEADER = struct.Struct(">4sBxHQQ")
_CRC = struct.Struct(">I")
_PLACE = struct.Struct(">B")
"""In the list of pools."""
_PLACES = struct.Struct(">BI")
"""In the list of pools: that of an index, and a bit for each that its flushes are in."""
FOLDER = "wal/"


class FlushRef(NamedTuple):
    """One committed flush. Its object is whatever `name` says, and nothing else."""

    sequence: int
    token: int
    size_bytes: int
    head_bytes: int
    crc: int
    """Of the head: its successor links to it."""
    pool: str = PRIMARY
    """Where its object is."""


class IndexRef(NamedTuple):
    """An index object over the flushes `first_sequence` to `last_sequence`."""

    first_sequence: int
    last_sequence: int
    token: int
    size_bytes: int
    crc: int
    """CRC-32C of the whole object."""
    pool: str = PRIMARY
    holds: tuple[str, ...] = (PRIMARY,)
    """The pools that its flushes are in, in order."""


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
    return in_pool(flush.pool, f"{FOLDER}{session_id:016x}/{flush.sequence:012x}-{flush.token:016x}.flush")


def index_name(session_id: int, index: IndexRef) -> str:
    return in_pool(index.pool, f"{FOLDER}{session_id:016x}/{index.first_sequence:012x}-{index.token:016x}.index")


def folder_of(session_id: int) -> str:
    return f"{FOLDER}{session_id:016x}/"


def session_of(name: str) -> int | None:
    """The session whose write-ahead log an object belongs to; None for any other name."""
    plain = plain_name(name)
    folder, _, rest = plain.removeprefix(FOLDER).partition("/")
    if not plain.startswith(FOLDER) or not rest:
        return None
    try:
        return int(folder, 16)
    except ValueError:
        return None


def flush_of(name: str) -> tuple[int, int, int] | None:
    """Session, sequence and token of the flush whose object has this name; None for any other name."""
    session_id = session_of(name)
    sequence, dash, token = name.rpartition("/")[2].removesuffix(".flush").partition("-")
    if session_id is None or not dash or not name.endswith(".flush"):
        return None
    try:
        return session_id, int(sequence, 16), int(token, 16)
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


def pools_of_tail(tail: SessionTail) -> set[str]:
    """The pools that hold something of the log."""
    return {
        *(flush.pool for flush in tail.flushes),
        *(pool for index in tail.indexes for pool in (index.pool, *index.holds)),
    }


def encode_tail(tail: SessionTail) -> bytes:
    pools = sorted(pools_of_tail(tail) | {PRIMARY})
    header = (
        0,
        tail.broker_id,
        tail.session_id,
        tail.first_sequence,
        tail.last_sequence,
        tail.last_crc,
        len(tail.indexes),
        len(tail.flushes),
    )
    if len(pools) == 1:
        parts = [_TAIL.pack(VERSION, *header)]
        parts.extend(_INDEX.pack(*index[:5]) for index in tail.indexes)
        parts.extend(_FLUSH.pack(*flush[1:5]) for flush in tail.flushes)
    else:
        parts = [_TAIL.pack(POOLS_VERSION, *header), _encode_pools(pools)]
        for index in tail.indexes:
            held = sum(1 << pools.index(pool) for pool in index.holds)
            parts.append(_INDEX.pack(*index[:5]) + _PLACES.pack(pools.index(index.pool), held))
        parts.extend(_encode_flush(flush, pools) for flush in tail.flushes)
    body = b"".join(parts)
    return body + _CRC.pack(crc32c(body))


def decode_tail(value: bytes) -> SessionTail:
    """Raises Corrupt for anything that `encode_tail` did not make."""
    view = _checked(value, "the tail record of a write-ahead log")
    try:
        version, _, broker, session, first, last, crc, index_count, flush_count = _TAIL.unpack_from(view)
        if not VERSION <= version <= POOLS_VERSION:
            raise Corrupt(
                f"a write-ahead log of version {version}; this program reads versions {VERSION} to {POOLS_VERSION}"
            )
        position = _TAIL.size
        pools, position = _decode_pools(view, position) if version == POOLS_VERSION else ([PRIMARY], position)
        indexes = []
        for _ in range(index_count):
            index = IndexRef(*_INDEX.unpack_from(view, position))
            position += _INDEX.size
            if version == POOLS_VERSION:
                place, held = _PLACES.unpack_from(view, position)
                holds = tuple(pool for number, pool in enumerate(pools) if held >> number & 1)
                index = index._replace(pool=pools[place], holds=holds)
                position += _PLACES.size
            indexes.append(index)
        flushes = []
        for sequence in range(last - flush_count + 1, last + 1):
            flush, position = _decode_flush(view, position, sequence, pools)
            flushes.append(flush)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise Corrupt(f"the tail record of a write-ahead log: {error}") from error
    if position != len(view):
        raise Corrupt("the tail record of a write-ahead log has the wrong size")
    return SessionTail(broker, session, first, last, crc, tuple(indexes), tuple(flushes))


def _encode_pools(pools: Sequence[str]) -> bytes:
    return b"".join([_PLACE.pack(len(pools)), *(_PLACE.pack(len(pool)) + pool.encode() for pool in pools)])


def _decode_pools(view: memoryview, position: int) -> tuple[list[str], int]:
    """And the position behind them. Raises struct.error, UnicodeDecodeError."""
    (count,) = _PLACE.unpack_from(view, position)
    position += _PLACE.size
    pools = []
    for _ in range(count):
        (size_bytes,) = _PLACE.unpack_from(view, position)
        position += _PLACE.size
        pools.append(str(view[position : position + size_bytes], "ascii"))
        position += size_bytes
    return pools, position


def _encode_flush(flush: FlushRef, pools: Sequence[str]) -> bytes:
    return _FLUSH.pack(*flush[1:5]) + _PLACE.pack(pools.index(flush.pool))


def _decode_flush(view: memoryview, position: int, sequence: int, pools: Sequence[str]) -> tuple[FlushRef, int]:
    """And the position behind it. `pools`: the primary alone where nothing says in which one it is."""
    flush = FlushRef(sequence, *_FLUSH.unpack_from(view, position))
    position += _FLUSH.size
    if len(pools) == 1:
        return flush, position
    (place,) = _PLACE.unpack_from(view, position)
    return flush._replace(pool=pools[place]), position + _PLACE.size


def pools_of(flushes: Iterable[FlushRef]) -> tuple[str, ...]:
    return tuple(sorted({flush.pool for flush in flushes}))


def encode_index(session_id: int, flushes: Sequence[tuple[FlushRef, bytes]]) -> bytes:
    """An index object over flushes in a row, each with its head."""
    pools = sorted({PRIMARY, *pools_of(flush for flush, _ in flushes)})
    version = VERSION if len(pools) == 1 else POOLS_VERSION
    parts = [_INDEX_HEADER.pack(INDEX_MAGIC, version, 0, session_id, flushes[0][0].sequence)]
    parts.append(_CRC.pack(len(flushes)))
    if version == POOLS_VERSION:
        parts.append(_encode_pools(pools))
        parts.extend(_encode_flush(flush, pools) for flush, _ in flushes)
    else:
        parts.extend(_FLUSH.pack(*flush[1:5]) for flush, _ in flushes)
    parts.extend(head for _, head in flushes)
    body = b"".join(parts)
    return body + _CRC.pack(crc32c(body))


def index_ref(flushes: Sequence[tuple[FlushRef, bytes]], data: bytes, token: int) -> IndexRef:
    """What a tail says of the index object `data` over these flushes."""
    first, last = flushes[0][0].sequence, flushes[-1][0].sequence
    return IndexRef(first, last, token, len(data), crc32c(data), holds=pools_of(flush for flush, _ in flushes))


def decode_index(data: bytes, session_id: int) -> list[IndexedFlush]:
    """Raises Corrupt unless it is a whole index of that session, heads included."""
    view = _checked(data, "the index of a write-ahead log")
    try:
        magic, version, _, session, sequence = _INDEX_HEADER.unpack_from(view)
        if magic != INDEX_MAGIC or not VERSION <= version <= POOLS_VERSION or session != session_id:
            raise Corrupt("this is no index of that write-ahead log")
        (count,) = _CRC.unpack_from(view, _INDEX_HEADER.size)
        position = _INDEX_HEADER.size + _CRC.size
        pools, position = _decode_pools(view, position) if version == POOLS_VERSION else ([PRIMARY], position)
        refs = []
        for number in range(count):
            ref, position = _decode_flush(view, position, sequence + number, pools)
            refs.append(ref)
        found = []
        for ref in refs:
            found.append(checked_flush(ref, session_id, view[position : position + ref.head_bytes]))
            position += ref.head_bytes
    except (struct.error, IndexError, UnicodeDecodeError) as error:
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
