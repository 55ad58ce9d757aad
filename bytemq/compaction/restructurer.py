"""Making tables and reading them back, in a worker process.

Owns: from the files that a job names to those that it makes. Must not: publish or delete anything.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import bytemq.compaction.arrow_limits  # noqa: F401
from bytemq.compaction.job import Workspace
from bytemq.compaction.local_files import local_input, mapped
from bytemq.compaction.table_jobs import Convert, Converted, Restore
from bytemq.storage.manifests.manifest import FileKind
from bytemq.storage.parquet.restoring import restored
from bytemq.storage.parquet.settings import ParquetSettings
from bytemq.storage.parquet.writing import described, write_table
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.stores.local import LocalStore
from bytemq.storage.tables.restored import RestoredFile
from bytemq.storage.tables.table_file import table_file


async def convert(job: Convert, space: Workspace) -> Converted:
    first, last = job.files[0], job.files[-1]
    with tempfile.TemporaryDirectory(prefix="bytemq-table-") as name:
        folder = Path(name)
        inputs = [await local_input(file, space.store, folder) for file in job.files]
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
            with mapped(path) as data:
                await space.create(target, [data])
    horizons = [file.delete_horizon_ms for file in job.files if file.delete_horizon_ms >= 0]
    converted = described(
        written,
        job.names,
        first.base_offset,
        last.last_offset,
        [table_file(file) for file in job.files if file.kind is FileKind.PARQUET],
        max_timestamp=max(file.max_timestamp for file in job.files),
        created_ms=first.created_ms,
        is_cleaned=first.is_cleaned,
        delete_horizon_ms=min(horizons, default=-1),
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


__all__: Sequence[str] = ("convert", "restore")
