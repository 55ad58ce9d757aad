"""Checking everything on a shared store and its pools against the metadata, while brokers run or not.

Owns: what "as it was written" means over all objects together. Must not: write, or repair.

Checks every checksum (flushes, batches, chunks, footers, manifests, indexes, companions), every row of Parquet files,
that no offsets are missing but where the log was cleaned, that each object that metadata name is there, and which
objects nothing names. Metadata are read after the listing, and again where something looks wrong: what is superseded
meanwhile is no finding. What live sessions have made and nothing names, they are about to publish or to delete; only
what is so a time of grace later is a finding. The Iceberg metadata of a topic that a broker has made last it serves for
as long as it lives, and nobody else needs to know of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Set
from pathlib import Path

from bytemq.errors import Corrupt, NotFound, Unavailable
from bytemq.metadata import keys
from bytemq.metadata.store import MetadataStore
from bytemq.metadata.values import decode_topic
from bytemq.storage.checks.verify import Finding, segment_problems
from bytemq.storage.checks.verify_tables import objects_known_of, table_problems
from bytemq.storage.manifests.manifest import FileKind, SegmentInfo, contradictions
from bytemq.storage.manifests.manifest_codec import (
    StoredManifest,
    decode_manifest,
    decode_snapshot,
    directory_of,
    names_of,
)
from bytemq.storage.objects.session_log import (
    FlushRef,
    SessionTail,
    decode_index,
    decode_tail,
    flush_name,
    index_name,
    names_of_tail,
)
from bytemq.storage.objects.shared_garbage import FOLDERS, writer_of
from bytemq.storage.pools.pooled_store import PooledStore
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.tables.table_file import iceberg_metadata_of, partition_folder_of
from bytemq.storage.wal.format import check_head, decode_header, decode_shares, payload_errors
from bytemq.types import PartitionId, TopicId

COPY_BYTES = 8 * 1024 * 1024
LOOKS = 2
"""At what live sessions have made: between the first ones it may have been published and superseded."""


async def audit(
    store: PooledStore, metadata: MetadataStore, outlast_grace: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[Finding]:
    """Everything that is wrong, as it is found. Raises Unavailable. `outlast_grace` returns after the time of grace; it
    is called, twice at most, when live sessions have objects that nothing names. None: these are left out.
    """
    listed = await _listed(store)
    live = {entry.revision for entry in (await metadata.range(keys.BROKERS)).entries}
    named: set[str] = set()
    unknown: set[str] = set()
    """Folders of partitions whose manifest does not say what is needed."""
    for entry in (await metadata.range(keys.MANIFESTS)).entries:
        partition = keys.partition_of_manifest(entry.key)
        try:
            stored = decode_manifest(entry.value, directory_of(partition))
        except Corrupt as error:
            unknown.add(directory_of(partition))
            yield Finding(entry.key, f"{error}; the partition is offline")
            continue
        try:
            named.update(names_of(stored))
        except Corrupt:  # which is reported with the file
            unknown.add(directory_of(partition))
        async for finding in _partition(store, metadata, partition, stored, entry.revision):
            yield finding
    for entry in (await metadata.range(keys.SESSION_LOGS)).entries:
        try:
            tail = decode_tail(entry.value)
        except Corrupt as error:
            yield Finding(entry.key, str(error))
            continue
        async for finding in _session(store, metadata, tail, entry.revision, named):
            yield finding
    unborn: list[str] = []
    for name in sorted(listed.keys() - named):
        session = writer_of(name)
        if partition_folder_of(name) in unknown:
            continue
        if session in live:
            unborn.append(name)
        else:
            problem = "nothing refers to this object; a running broker removes it"
            yield Finding(name, problem, is_leftover=True, size_bytes=listed[name])
    if outlast_grace is None:
        return
    for _ in range(LOOKS):
        if unborn:
            await outlast_grace()
            unborn = await _named_by_nothing(store, metadata, unborn)
    for name in unborn:
        yield Finding(name, "nothing refers to this object, and the broker that made it lives and leaves it there")


async def _listed(store: PooledStore) -> dict[str, int]:
    """Sizes by name."""
    found, unseen = await store.list_everywhere(*FOLDERS)
    if unseen:
        raise Unavailable(f"the pool {min(unseen)} does not answer")
    return {info.name: info.size_bytes for info in found}


async def _named_by_nothing(store: PooledStore, metadata: MetadataStore, names: Iterable[str]) -> list[str]:
    """Those that are there now and that no manifest and no tail names; nothing when that cannot be known."""
    there = await _listed(store)
    named: set[str] = set()
    try:
        for entry in (await metadata.range(keys.MANIFESTS)).entries:
            directory = directory_of(keys.partition_of_manifest(entry.key))
            named.update(names_of(decode_manifest(entry.value, directory)))
        for entry in (await metadata.range(keys.SESSION_LOGS)).entries:
            tail = decode_tail(entry.value)
            named.update(names_of_tail(tail))
            for index in tail.indexes:
                indexed = decode_index(await store.read(index_name(tail.session_id, index)), tail.session_id)
                named.update(flush_name(tail.session_id, flush.ref) for flush in indexed)
        topics = {decode_topic(entry.value).topic_id for entry in (await metadata.range(keys.TOPICS)).entries}
    except (Corrupt, NotFound):
        return []
    served = _served_metadata(there, topics)
    return [name for name in names if name in there and name not in named and name not in served]


def _served_metadata(names: Iterable[str], topics: Set[TopicId]) -> set[str]:
    """Those of Iceberg tables that the broker which made them has made last, of topics that there are."""
    newest: dict[tuple[str, int | None], tuple[int, list[str]]] = {}
    for name in names:
        made = iceberg_metadata_of(name)
        if made is None or made.topic_id not in topics:
            continue
        of_broker = (made.folder, writer_of(name))
        number, objects = newest.get(of_broker, (-1, []))
        if made.number > number:
            newest[of_broker] = (made.number, [name])
        elif made.number == number:
            objects.append(name)
    return {name for _, objects in newest.values() for name in objects}


async def _partition(
    store: ObjectStore, metadata: MetadataStore, partition: PartitionId, stored: StoredManifest, revision: int
) -> AsyncIterator[Finding]:
    key, manifest = keys.manifest(partition), stored.manifest
    for problem in contradictions(manifest):
        yield Finding(key, problem)
    for first, last in manifest.holes:
        yield Finding(key, f"offsets {first}..{last} are lost to earlier damage")
    found: list[Finding] = []
    try:
        snapshot = await store.read(stored.snapshot_name) if stored.snapshot_name else stored.snapshot
        if snapshot and decode_snapshot(snapshot).offset != stored.snapshot_offset:
            found.append(Finding(key, "the producer snapshot is of another offset than the manifest says"))
    except (Corrupt, NotFound) as error:
        found.append(Finding(stored.snapshot_name, f"cannot be read: {error}"))
    for segment in manifest.segments:
        try:
            if segment.kind is FileKind.SEGMENT:
                view = memoryview(await store.read(segment.name))
                found.extend(Finding(segment.name, problem) for problem in segment_problems(view, segment))
            else:
                found.extend(await _table_findings(store, segment))
        except NotFound:
            found.append(Finding(segment.name, "is missing"))
    if found and await _is_unchanged(metadata, key, revision):
        for finding in found:
            yield finding


async def _table_findings(store: ObjectStore, info: SegmentInfo) -> list[Finding]:
    """With copies on local files: Parquet is not read from one end to the other."""
    with tempfile.TemporaryDirectory(prefix="bytemq-verify-") as folder:
        for name in objects_known_of(info):
            await _copy(store, name, Path(folder) / name)
        return [Finding(*problem) for problem in table_problems(Path(folder), info)]


async def _copy(store: ObjectStore, name: str, path: Path) -> None:
    """What is not there is not there in the copy either."""
    try:
        source = await store.open_read(name)
    except NotFound:
        return
    copied_bytes = 0
    try:
        while data := await source.read(copied_bytes, COPY_BYTES):
            _append(path, data)
            copied_bytes += len(data)
    except NotFound:
        _remove(path)
    finally:
        await source.close()


def _append(path: Path, data: memoryview) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(data)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _session(
    store: ObjectStore, metadata: MetadataStore, tail: SessionTail, revision: int, named: set[str]
) -> AsyncIterator[Finding]:
    """Adds what the session's log consists of to `named`."""
    found: list[Finding] = []
    flushes: list[FlushRef] = []
    for index in tail.indexes:
        name = index_name(tail.session_id, index)
        named.add(name)
        try:
            flushes.extend(flush.ref for flush in decode_index(await store.read(name), tail.session_id))
        except (Corrupt, NotFound) as error:
            found.append(Finding(name, f"cannot be read: {error}"))
    flushes.extend(tail.flushes)
    previous: FlushRef | None = None
    for flush in flushes:
        if flush.sequence < tail.first_sequence:
            continue
        name = flush_name(tail.session_id, flush)
        named.add(name)
        try:
            found.extend(Finding(name, problem) for problem in _flush_problems(await store.read(name), flush, previous))
        except (Corrupt, NotFound) as error:
            found.append(Finding(name, f"cannot be read: {error}"))
        previous = flush
    if found and await _is_unchanged(metadata, keys.session_log(tail.session_id), revision):
        for finding in found:
            yield finding


def _flush_problems(data: bytes, flush: FlushRef, previous: FlushRef | None) -> Iterator[str]:
    header = decode_header(data)
    check_head(data, header)
    if len(data) != flush.size_bytes or header.crc != flush.crc or header.sequence != flush.sequence:
        yield "is not the flush that was committed"
    if previous is not None and (header.previous_crc, header.sequence - 1) != (previous.crc, previous.sequence):
        yield "does not follow the flush before it"
    payload = memoryview(data)[header.head_bytes :]
    for share in decode_shares(data, header):
        problem = payload_errors(share, payload[share.position : share.position + share.size_bytes])
        if problem is not None:
            yield problem


async def _is_unchanged(metadata: MetadataStore, key: str, revision: int) -> bool:
    """What looks wrong may be superseded by now."""
    entry = await metadata.get(key)
    return entry is not None and entry.revision == revision
