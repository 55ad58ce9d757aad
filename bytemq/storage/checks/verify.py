"""Checking everything in a data folder against everything else: for support, and for tests.

Owns: what "as it was written" means over all files together. Must not: write, or repair.

Checks every checksum (flushes, batches, chunks, footers, manifests), that no offsets are missing but where the log was
cleaned, that the indexes agree with the logs, that each file named exists, and which files nothing names. The node
should not be running.
"""

from __future__ import annotations

import mmap
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from crc32c import crc32c

from bytemq.errors import BytemqError, Corrupt, Invalid
from bytemq.metadata import keys
from bytemq.metadata.database import Database, error_of
from bytemq.metadata.features import SUPPORTED, require_supported
from bytemq.storage.checks.verify_tables import objects_known_of, table_problems
from bytemq.storage.checks.verify_wal import verify_session
from bytemq.storage.manifests.manifest import FileKind, SegmentInfo, contradictions
from bytemq.storage.manifests.manifest_codec import StoredManifest, decode_manifest, decode_snapshot, directory_of
from bytemq.storage.segments.batch_walk import walk
from bytemq.storage.segments.segment_format import decode_footer
from bytemq.storage.wal.wal_files import SPARE_PREFIX
from bytemq.storage.wal.wal_index import TailRecord, decode_tail, newest_session
from bytemq.types import PartitionId

DATABASE = "meta.db"


class Finding(NamedTuple):
    """Something that is not as it was written. `name` is a file, or a key of the metadata."""

    name: str
    problem: str
    is_leftover: bool = False
    """Nothing is wrong: a file that a crash left and that the next start removes."""
    size_bytes: int = 0
    """Of what is left over."""

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}"


def verify(path: str | os.PathLike[str]) -> Iterator[Finding]:
    """Everything that is wrong in the data folder `path`, as it is found. Raises Invalid for a newer version's data."""
    root = Path(path)
    if not (root / DATABASE).is_file():
        yield Finding(DATABASE, "is missing: this is no data folder")
        return
    manifests: dict[PartitionId, StoredManifest] = {}
    tails: list[TailRecord] = []
    named: set[str] = set()
    offline: list[str] = []
    try:
        with _metadata(root) as database:
            require_supported(database.get(keys.FEATURE_LEVEL), SUPPORTED)
            for key, problem in database.problems():
                yield Finding(key or DATABASE, problem)
            yield from _decode_metadata(database, manifests, tails, offline)
            newest = newest_session(path.name for path in (root / "wal").glob("*"))
            if newest > database.revision:
                yield Finding(DATABASE, f"is older than the files of session {newest} in wal/")
    except Invalid:
        raise
    except BytemqError as error:
        yield Finding(DATABASE, str(error))
        return
    for partition, stored in manifests.items():
        yield from _verify_partition(root, partition, stored, named)
    ends = {partition: stored.manifest.end_offset for partition, stored in manifests.items()}
    for tail in sorted(tails):
        for name, problem in verify_session(root, tail, ends, named):
            yield Finding(name, problem)
    for folder in ("topics", "tables", "iceberg", "wal"):
        for found in sorted((root / folder).rglob("*")):
            name = found.relative_to(root).as_posix()
            if found.is_file() and name not in named and not name.startswith((SPARE_PREFIX, *offline)):
                problem = "nothing refers to this file; the next start removes it"
                yield Finding(name, problem, is_leftover=True, size_bytes=found.stat().st_size)


def require_readable(path: str | os.PathLike[str]) -> None:
    """Raises Invalid when the file `path` is in a data folder whose formats may be newer than this version's."""
    for folder in Path(path).resolve().parents:
        if (folder / DATABASE).is_file():
            with _metadata(folder) as database:
                require_supported(database.get(keys.FEATURE_LEVEL), SUPPORTED)
            return


@contextmanager
def _metadata(root: Path) -> Iterator[Database]:
    """A copy of the metadata, so that looking changes nothing. Raises Corrupt, also in the middle."""
    with tempfile.TemporaryDirectory(prefix="bytemq-verify-") as folder:
        for name in (DATABASE, f"{DATABASE}-wal"):
            if (root / name).exists():
                shutil.copy(root / name, folder)
        try:
            with closing(Database(Path(folder) / DATABASE, "page-cache")) as database:
                yield database
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise error_of(error, root / DATABASE) from error
        except Corrupt as error:
            raise Corrupt(str(error).replace(folder, str(root))) from error


def _decode_metadata(
    database: Database, manifests: dict[PartitionId, StoredManifest], tails: list[TailRecord], offline: list[str]
) -> Iterator[Finding]:
    """`offline` gets the folders of partitions whose manifest is damaged: nobody knows which files there are needed."""
    for entry in database.range(keys.MANIFESTS).entries:
        partition = keys.partition_of_manifest(entry.key)
        try:
            manifests[partition] = decode_manifest(entry.value, directory_of(partition))
        except Corrupt as error:
            offline.append(directory_of(partition))
            yield Finding(entry.key, f"{error}; the partition is offline")
    for entry in database.range(keys.WAL_TAILS).entries:
        try:
            tails.append(decode_tail(entry.value))
        except Corrupt as error:
            yield Finding(entry.key, str(error))


def _verify_partition(root: Path, partition: PartitionId, stored: StoredManifest, named: set[str]) -> Iterator[Finding]:
    key = keys.manifest(partition)
    for problem in contradictions(stored.manifest):
        yield Finding(key, problem)
    for first, last in stored.manifest.holes:
        yield Finding(key, f"offsets {first}..{last} are lost to earlier damage")
    try:
        snapshot = stored.snapshot
        if stored.snapshot_name:
            named.add(stored.snapshot_name)
            snapshot = (root / stored.snapshot_name).read_bytes()
        if snapshot and decode_snapshot(snapshot).offset != stored.snapshot_offset:
            yield Finding(key, "the producer snapshot is of another offset than the manifest says")
    except (Corrupt, OSError) as error:
        yield Finding(stored.snapshot_name or key, str(error))
    for segment in stored.manifest.segments:
        if segment.kind is FileKind.PARQUET:
            named.update(objects_known_of(segment))
            yield from (Finding(*problem) for problem in table_problems(root, segment))
            continue
        named.add(segment.name)
        try:
            with open(root / segment.name, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
                view = memoryview(data)
                try:
                    problems = [*segment_problems(view, segment)]
                finally:
                    view.release()
            for problem in problems:
                yield Finding(segment.name, problem)
        except (OSError, ValueError) as error:
            yield Finding(segment.name, f"cannot be read: {error}")


def segment_problems(view: memoryview, segment: SegmentInfo) -> Iterator[str]:
    """What is wrong with the file of a segment, given its bytes."""
    if len(view) < segment.size_bytes:
        yield f"has {len(view)} bytes, the manifest says {segment.size_bytes}"
        return
    with view[: segment.size_bytes] as batches, view[segment.size_bytes :] as footer:
        starts: dict[int, int] = {}
        expected, newest = segment.base_offset, -1
        try:
            for batch in walk(batches, verify=True):
                if batch.base_offset != expected and not segment.is_cleaned:
                    yield f"offset {batch.base_offset} follows where {expected} should"
                starts[batch.position] = batch.base_offset
                expected, newest = batch.last_offset + 1, max(newest, batch.max_timestamp)
        except Corrupt as error:
            yield f"from offset {expected} on: {error}"
        else:
            if expected != segment.last_offset + 1:
                yield f"ends at offset {expected - 1}, the manifest says {segment.last_offset}"
            if newest != segment.max_timestamp:
                yield f"its newest timestamp is {newest}, the manifest says {segment.max_timestamp}"
        if segment.sealed:
            yield from _footer_problems(batches, bytes(footer), segment, starts)


def _footer_problems(batches: memoryview, footer: bytes, segment: SegmentInfo, starts: dict[int, int]) -> Iterator[str]:
    try:
        index, _ = decode_footer(footer)
    except Corrupt as error:
        yield str(error)
        return
    if (index.next_offset, index.end_position) != (segment.last_offset + 1, segment.size_bytes):
        yield "the footer is of another content than the manifest says"
        return
    for number in range(len(index)):
        chunk, checksum = index.chunk(number), index.checksums[number]
        if starts.get(chunk.position) != chunk.base_offset:
            yield f"the index points to position {chunk.position} for offset {chunk.base_offset}"
        with batches[chunk.position : chunk.position + chunk.size_bytes] as view:
            if checksum and crc32c(view) != checksum:
                yield f"the checksum of the chunk at offset {chunk.base_offset} does not match"
