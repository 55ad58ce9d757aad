"""Making tables and reading them back, in a worker process.

Owns: local copies of what a job reads and writes, where the store is not local. Must not: publish or delete anything.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from bytemq.compaction.job import Workspace
from bytemq.compaction.table_jobs import Convert, Converted, Restore
from bytemq.storage.manifests.manifest import FileKind, SegmentInfo
from bytemq.storage.parquet.restoring import restored
from bytemq.storage.parquet.settings import ParquetSettings
from bytemq.storage.parquet.sources import Input, ParquetInput, SegmentInput
from bytemq.storage.parquet.writing import write_table
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.stores.local import LocalStore
from bytemq.storage.tables.restored import RestoredFile
from bytemq.storage.tables.table_file import TableFile, encode_details, table_file

pa.set_cpu_count(1)  # low priority is no licence to take every core


async def convert(job: Convert, space: Workspace) -> Converted:
    first, last = job.files[0], job.files[-1]
    with tempfile.TemporaryDirectory(prefix="bytemq-table-") as name:
        folder = Path(name)
        inputs = [await _input(file, space.store, folder) for file in job.files]
        parquet, companion = folder / "table.parquet", folder / "table.companion"
        written = write_table(
            inputs,
            parquet,
            companion,
            partition=job.partition,
            aborted=job.aborted,
            settings=ParquetSettings(row_group_bytes=job.row_group_bytes, codec=job.codec),
            columns=job.columns,
            formats=job.formats,
        )
        # The companion first: a Parquet file that can be seen under tables/ is whole.
        for target, path in ((job.names.companion, companion), (job.names.parquet, parquet)):
            with _mapped(path) as data:
                await space.create(target, [data])
    horizons = [file.delete_horizon_ms for file in job.files if file.delete_horizon_ms >= 0]
    before = [table_file(file) for file in job.files if file.kind is FileKind.PARQUET]
    details = TableFile(
        job.names.companion,
        written.records,
        written.size_bytes,
        written.kept_raw + sum(table.kept_raw for table in before),
        written.invalid + sum(table.invalid for table in before),
        written.left_out + sum(table.left_out for table in before),
        written.retyped + sum(table.retyped for table in before),
    )
    converted = SegmentInfo(
        first.base_offset,
        last.last_offset,
        written.size_bytes + written.companion_bytes,
        max(file.max_timestamp for file in job.files),
        first.created_ms,
        job.names.parquet,
        sealed=True,
        is_cleaned=first.is_cleaned,
        delete_horizon_ms=min(horizons, default=-1),
        kind=FileKind.PARQUET,
        details=encode_details(details),
    )
    return Converted(converted, written.columns)


async def restore(job: Restore, space: Workspace) -> RestoredFile:
    parquet = await _copies.path(job.parquet, space.store)
    companion = await _copies.path(job.companion, space.store)
    pieces = restored(parquet, companion, job.unit, job.batch_bytes)
    with (Path(job.folder) / job.name).open("wb") as file:  # the name is ours alone, and a crash may lose it
        file.writelines(pieces)
    return RestoredFile(job.name, sum(map(len, pieces[:-1])))


class _Copies:
    """Files of a remote store that were read last: their next unit will be wanted soon."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._paths: dict[str, Path] = {}
        self._made = 0

    async def path(self, name: str, store: ObjectStore) -> Path:
        if isinstance(store, LocalStore):
            return store.root / name
        if name in self._paths:
            return self._paths[name]
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="bytemq-restore-")
        while len(self._paths) >= self._most:
            self._paths.pop(next(iter(self._paths))).unlink()
        self._made += 1
        path = Path(self._folder.name) / str(self._made)
        path.write_bytes(await store.read(name))
        self._paths[name] = path
        return path


_copies = _Copies(most=8)


async def _input(file: SegmentInfo, store: ObjectStore, folder: Path) -> Input:
    next_offset = file.last_offset + 1
    if file.kind is FileKind.PARQUET:
        companion = await _local(table_file(file).companion, store, folder)
        return ParquetInput(await _local(file.name, store, folder), companion, file.base_offset, next_offset)
    return SegmentInput(await _local(file.name, store, folder), file.base_offset, next_offset, file.size_bytes)


async def _local(name: str, store: ObjectStore, folder: Path) -> Path:
    if isinstance(store, LocalStore):
        return store.root / name
    path = folder / name.replace("/", "_")
    path.write_bytes(await store.read(name))
    return path


@contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        try:
            yield view
        finally:
            view.release()


__all__: Sequence[str] = ("convert", "restore")
