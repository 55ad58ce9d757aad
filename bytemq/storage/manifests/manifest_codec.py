"""Manifests and producer snapshots as bytes. Pure.

Owns: their encoding. Must not: know where the bytes are kept.

All little-endian. A manifest is a value in the metadata store; a snapshot is part of it, or an object that it names
when it is large. Both end in a CRC-32C over what precedes.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from crc32c import crc32c

from bytemq.errors import Corrupt
from bytemq.storage.manifests.manifest import (
    AbortedTxn,
    FileKind,
    InheritedRange,
    Manifest,
    PartitionSnapshot,
    ProducerSnapshot,
    SegmentInfo,
)
from bytemq.storage.pools.names import in_pool, plain_name, pool_of
from bytemq.storage.tables.table_file import objects_of
from bytemq.types import PartitionId, format_topic_id

STEP_BYTES = 32 * 1024
"""Of manifests, decoded in a row before something else is done: a few milliseconds, be they many or large."""
VERSION = 2
"""Of manifests. Version 1 knew segments only, none of them cleaned; it is still read."""
SHARED_VERSION = 3
"""Of manifests on a storage that several brokers share: they also name sessions and what is in their logs."""
POOLS_VERSION = 4
"""As that, and something that it names is in a pool."""
SNAPSHOT_VERSION = 1
_MANIFEST = struct.Struct("<BBiqIIqI")
_SEGMENT_V1 = struct.Struct("<qqQqqBH")
_SEGMENT = struct.Struct("<qqQqqqBBHI")
_HOLE = struct.Struct("<qq")
_OWNER = struct.Struct("<QI")
_INHERITED = struct.Struct("<Qqq")
_SNAPSHOT = struct.Struct("<BqIII")
_EPOCH = struct.Struct("<iq")
_PRODUCER = struct.Struct("<qhiqqB")
_BATCH = struct.Struct("<iiqqqI")
_ABORTED = struct.Struct("<qqqq")
_CRC = struct.Struct("<I")

_NO_SNAPSHOT, _INLINE, _OBJECT = range(3)
_NO_TRANSACTION = -1
_SEALED, _CLEANED = 1, 2
_ELSEWHERE = "/"
"""What the stored name of an object outside its partition's directory begins with."""
_IN_POOL = "@"
"""What one in a pool begins with: the pool and a "/" follow, then the name as it is stored elsewhere."""


class StoredManifest(NamedTuple):
    """A manifest as stored. Its snapshot stays encoded until somebody wants it: `manifest.snapshot` is None."""

    manifest: Manifest
    snapshot_offset: int = -1
    """-1 when there is no snapshot."""
    snapshot: bytes = b""
    snapshot_name: str = ""
    """The object that holds the snapshot when `snapshot` does not."""


def directory_of(partition: PartitionId) -> str:
    """Where a partition's objects are in the store, with a "/" at the end."""
    return f"topics/{format_topic_id(partition.topic_id)}/{partition.index}/"


def encode_manifest(stored: StoredManifest, directory: str) -> bytes:
    manifest = stored.manifest
    if stored.snapshot_name:
        kind, snapshot = _OBJECT, _stored_name(stored.snapshot_name, directory)
    else:
        kind, snapshot = _INLINE if stored.snapshot else _NO_SNAPSHOT, stored.snapshot
    is_pooled = any(pool_of(name) for name in (stored.snapshot_name, *(one.name for one in manifest.segments)))
    is_shared = is_pooled or bool(manifest.owner_session or manifest.inherited)
    parts = [
        _MANIFEST.pack(
            POOLS_VERSION if is_pooled else SHARED_VERSION if is_shared else VERSION,
            kind,
            manifest.leader_epoch,
            manifest.log_start_offset,
            len(manifest.segments),
            len(manifest.holes),
            stored.snapshot_offset,
            len(snapshot),
        )
    ]
    for segment in manifest.segments:
        name = _stored_name(segment.name, directory)
        flags = (_SEALED if segment.sealed else 0) | (_CLEANED if segment.is_cleaned else 0)
        lengths = len(name), len(segment.details)
        parts.append(_SEGMENT.pack(*segment[:5], segment.delete_horizon_ms, segment.kind, flags, *lengths))
        parts.append(name)
        parts.append(segment.details)
    parts.extend(_HOLE.pack(*hole) for hole in manifest.holes)
    if is_shared:
        parts.append(_OWNER.pack(manifest.owner_session, len(manifest.inherited)))
        parts.extend(_INHERITED.pack(*one) for one in manifest.inherited)
    parts.append(snapshot)
    return _closed(parts)


def decode_manifest(data: bytes, directory: str) -> StoredManifest:
    """Raises Corrupt for anything that `encode_manifest` did not make."""
    view = _opened(data, "manifest")
    try:
        version, kind, epoch, start, segment_count, hole_count, snapshot_offset, snapshot_bytes = _MANIFEST.unpack_from(
            view
        )
        if not 1 <= version <= POOLS_VERSION:
            raise Corrupt(f"manifest of version {version}; this program reads versions 1 to {POOLS_VERSION}")
        decode_segment = _decode_segment if version >= VERSION else _decode_segment_v1
        position = _MANIFEST.size
        segments = []
        for _ in range(segment_count):
            segment, position = decode_segment(view, position, directory)
            segments.append(segment)
        holes = []
        for _ in range(hole_count):
            holes.append(_HOLE.unpack_from(view, position))
            position += _HOLE.size
        owner_session, inherited = 0, []
        if version >= SHARED_VERSION:
            owner_session, range_count = _OWNER.unpack_from(view, position)
            position += _OWNER.size
            for _ in range(range_count):
                inherited.append(InheritedRange(*_INHERITED.unpack_from(view, position)))
                position += _INHERITED.size
    except (struct.error, ValueError) as error:
        raise Corrupt(f"manifest: {error}") from error
    snapshot = view[position:]
    if len(snapshot) != snapshot_bytes:
        raise Corrupt("a manifest has the wrong size")
    manifest = Manifest(epoch, start, tuple(segments), None, tuple(holes), owner_session, tuple(inherited))
    if kind == _OBJECT:
        return StoredManifest(manifest, snapshot_offset, b"", _full_name(snapshot, directory))
    return StoredManifest(manifest, snapshot_offset, bytes(snapshot))


def names_of(stored: StoredManifest) -> list[str]:
    """Every object that a manifest names: what is in none of them is garbage."""
    names = [name for segment in stored.manifest.segments for name in objects_of(segment)]
    return [*names, stored.snapshot_name] if stored.snapshot_name else names


def _decode_segment(view: memoryview, position: int, directory: str) -> tuple[SegmentInfo, int]:
    """And the position after it. Raises struct.error, or ValueError for a kind that this version does not know."""
    base, last, size_bytes, max_timestamp, created_ms, horizon_ms, kind, flags, name_bytes, details_bytes = (
        _SEGMENT.unpack_from(view, position)
    )
    position += _SEGMENT.size
    name = _full_name(view[position : position + name_bytes], directory)
    position += name_bytes
    details = bytes(view[position : position + details_bytes])
    segment = SegmentInfo(
        base,
        last,
        size_bytes,
        max_timestamp,
        created_ms,
        name,
        bool(flags & _SEALED),
        bool(flags & _CLEANED),
        horizon_ms,
        FileKind(kind),
        details,
    )
    return segment, position + details_bytes


def _decode_segment_v1(view: memoryview, position: int, directory: str) -> tuple[SegmentInfo, int]:
    base, last, size_bytes, max_timestamp, created_ms, sealed, name_bytes = _SEGMENT_V1.unpack_from(view, position)
    position += _SEGMENT_V1.size
    name = _full_name(view[position : position + name_bytes], directory)
    segment = SegmentInfo(base, last, size_bytes, max_timestamp, created_ms, name, bool(sealed))
    return segment, position + name_bytes


def _stored_name(name: str, directory: str) -> bytes:
    if pool := pool_of(name):
        return f"{_IN_POOL}{pool}/".encode() + _stored_name(plain_name(name), directory)
    return (name[len(directory) :] if name.startswith(directory) else _ELSEWHERE + name).encode()


def _full_name(stored: memoryview, directory: str) -> str:
    name = str(stored, "utf-8")
    pool = ""
    if name.startswith(_IN_POOL):
        pool, _, name = name.removeprefix(_IN_POOL).partition("/")
    return in_pool(pool, name.removeprefix(_ELSEWHERE) if name.startswith(_ELSEWHERE) else directory + name)


def encode_snapshot(snapshot: PartitionSnapshot) -> bytes:
    parts = [
        _SNAPSHOT.pack(
            SNAPSHOT_VERSION,
            snapshot.offset,
            len(snapshot.leader_epochs),
            len(snapshot.producers),
            len(snapshot.aborted),
        )
    ]
    parts.extend(_EPOCH.pack(*entry) for entry in snapshot.leader_epochs)
    for producer in snapshot.producers:
        open_offset = producer.open_txn_first_offset
        parts.append(
            _PRODUCER.pack(
                producer.producer_id,
                producer.producer_epoch,
                producer.coordinator_epoch,
                producer.last_timestamp,
                _NO_TRANSACTION if open_offset is None else open_offset,
                len(producer.batches),
            )
        )
        parts.extend(_BATCH.pack(*batch) for batch in producer.batches)
    parts.extend(_ABORTED.pack(*transaction) for transaction in snapshot.aborted)
    return _closed(parts)


def decode_snapshot(data: bytes) -> PartitionSnapshot:
    """Raises Corrupt for anything that `encode_snapshot` did not make."""
    view = _opened(data, "snapshot")
    try:
        version, offset, epoch_count, producer_count, aborted_count = _SNAPSHOT.unpack_from(view)
        if version != SNAPSHOT_VERSION:
            raise Corrupt(f"producer snapshot of version {version}; this program reads version {SNAPSHOT_VERSION}")
        position = _SNAPSHOT.size
        epochs = []
        for _ in range(epoch_count):
            epochs.append(_EPOCH.unpack_from(view, position))
            position += _EPOCH.size
        producers = []
        for _ in range(producer_count):
            producer_id, epoch, coordinator, timestamp, first, batch_count = _PRODUCER.unpack_from(view, position)
            position += _PRODUCER.size
            batches = []
            for _ in range(batch_count):
                batches.append(_BATCH.unpack_from(view, position))
                position += _BATCH.size
            open_txn = None if first == _NO_TRANSACTION else first
            producers.append(ProducerSnapshot(producer_id, epoch, coordinator, timestamp, batches, open_txn))
        aborted = []
        for _ in range(aborted_count):
            aborted.append(AbortedTxn(*_ABORTED.unpack_from(view, position)))
            position += _ABORTED.size
    except struct.error as error:
        raise Corrupt(f"producer snapshot: {error}") from error
    if position != len(view):
        raise Corrupt("a producer snapshot has the wrong size")
    return PartitionSnapshot(offset, epochs, producers, aborted)


def _closed(parts: list[bytes]) -> bytes:
    body = b"".join(parts)
    return body + _CRC.pack(crc32c(body))


def _opened(data: bytes, what: str) -> memoryview:
    view = memoryview(data)
    if len(view) < _CRC.size or crc32c(view[: -_CRC.size]) != _CRC.unpack_from(view, len(view) - _CRC.size)[0]:
        raise Corrupt(f"the checksum of a {what} does not match")
    return view[: -_CRC.size]
