"""Making tables and reading them back, in a worker process.

Owns: from the files that a job names to those that it makes. Must not: publish or delete anything.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import bytemq.compaction.arrow_limits  # noqa: F401
from bytemq.compaction.job import Workspace
from bytemq.compaction.local_files import LocalTable, local_input, mapped, open_table, remove_table
from bytemq.compaction.table_jobs import Convert, Converted, Restore
from bytemq.errors import Invalid
from bytemq.storage.manifests.manifest import FileKind
from bytemq.storage.parquet.restoring import RESTORED_COLUMNS, restore_unit
from bytemq.storage.parquet.settings import ParquetSettings
from bytemq.storage.parquet.units import opened_table
from bytemq.storage.parquet.writing import described, write_table
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.tables.restored import RestoredFile
from bytemq.storage.tables.table_file import table_file


async def convert(job: Convert, space: Workspace) -> Converted:
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
            settings=ParquetSettings(job.row_group_bytes, job.codec, job.codec_level),
            columns=job.columns,
            formats=job.formats,
        )
        taken = [file for file in job.files if file.last_offset < written.next_offset]
        if len(taken) == 1 and taken[0].kind is FileKind.PARQUET:
            raise Invalid(f"{taken[0].name} has as many row groups, of as many columns, as a file may have")
        # The companion first: a Parquet file that can be seen under tables/ is whole.
        for target, path in ((job.names.companion, companion), (job.names.parquet, parquet)):
            with mapped(path) as data:
                await space.create(target, [data])
    horizons = [file.delete_horizon_ms for file in taken if file.delete_horizon_ms >= 0]
    converted = described(
        written,
        job.names,
        taken[0].base_offset,
        taken[-1].last_offset,
        [table_file(file) for file in taken if file.kind is FileKind.PARQUET],
        max_timestamp=max(file.max_timestamp for file in taken),
        created_ms=taken[0].created_ms,
        is_cleaned=taken[0].is_cleaned,
        delete_horizon_ms=min(horizons, default=-1),
    )
    return Converted(converted, written.columns)


async def restore(job: Restore, space: Workspace) -> RestoredFile:
    local = await _tables.get(job.parquet, job.companion, space.store)
    with opened_table(local.parquet, local.companion) as table:
        unit = table.units[job.unit]
        await local.bring(unit, RESTORED_COLUMNS)
        with (Path(job.folder) / job.name).open("wb") as file:  # the name is ours alone, and a crash may lose it
            size_bytes = restore_unit(table, unit, job.batch_bytes, file.write)
    return RestoredFile(job.name, size_bytes)


class _Tables:
    """Copies of a remote store's files that were read last: their next unit will be wanted soon."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._known: dict[str, LocalTable] = {}

    async def get(self, parquet: str, companion: str, store: ObjectStore) -> LocalTable:
        if parquet in self._known:
            return self._known[parquet]
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="bytemq-restore-")
        table = await open_table(parquet, companion, store, Path(self._folder.name))
        if table.copy is not None:
            while len(self._known) >= self._most:
                remove_table(self._known.pop(next(iter(self._known))))
            self._known[parquet] = table
        return table


_tables = _Tables(most=8)


__all__: Sequence[str] = ("convert", "restore")
