"""Local copies of what a job reads and writes, where the store is not local.

Owns: where such a copy is, what of it is there, and that it goes. Must not: know what is in a file.

Whatever the size of a file, a few MiB of it are in memory at once.
"""

from __future__ import annotations

import mmap
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

from bytemq.storage.manifests.manifest import FileKind, SegmentInfo
from bytemq.storage.parquet.partial_copy import PartialCopy, copy_whole
from bytemq.storage.parquet.sources import Input, ParquetInput, SegmentInput
from bytemq.storage.pools.names import plain_name
from bytemq.storage.pools.pooled_store import PooledStore
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.stores.local import LocalStore
from bytemq.storage.tables.companion import NO_ROW_GROUP, Unit
from bytemq.storage.tables.table_file import table_file


class LocalTable(NamedTuple):
    """A Parquet file and its companion where they can be read."""

    parquet: Path
    companion: Path
    copy: PartialCopy | None
    """None where `parquet` is the store's own file."""

    async def bring(self, unit: Unit, columns: Collection[str] | None = None) -> None:
        """Returns when a unit can be read, or `columns` of it. Raises NotFound, Corrupt, Unavailable."""
        if self.copy is not None and unit.row_group != NO_ROW_GROUP:
            await self.copy.bring(unit.row_group, columns)


async def local_input(file: SegmentInfo, store: ObjectStore, folder: Path) -> Input:
    """A file of a log where all of it can be read, in `folder` if it is a copy."""
    next_offset = file.last_offset + 1
    path = await _local(file.name, store, folder)
    if file.kind is FileKind.PARQUET:
        companion = await _local(table_file(file).companion, store, folder)
        return ParquetInput(path, companion, file.base_offset, next_offset)
    return SegmentInput(path, file.base_offset, next_offset, file.size_bytes)


@asynccontextmanager
async def local_table(file: SegmentInfo, store: ObjectStore, folder: Path) -> AsyncIterator[LocalTable]:
    """A Parquet file of a log; of a copy there is what was brought, and it goes when the block ends."""
    table = await open_table(file.name, table_file(file).companion, store, folder)
    try:
        yield table
    finally:
        remove_table(table)


async def open_table(parquet: str, companion: str, store: ObjectStore, folder: Path) -> LocalTable:
    """As `local_table`, until `remove_table`."""
    own = await own_file(parquet, store)
    if own is not None:
        return LocalTable(own, await _local(companion, store, folder), None)
    copy = await PartialCopy.open(store, parquet, _path_of(parquet, folder))
    return LocalTable(copy.path, await _local(companion, store, folder), copy)


def remove_table(table: LocalTable) -> None:
    if table.copy is not None:
        table.parquet.unlink(missing_ok=True)
        table.companion.unlink(missing_ok=True)


async def own_file(name: str, store: ObjectStore) -> Path | None:
    """Where an object can be read as it is: in a store, or a pool of it, that is a folder of this machine."""
    if isinstance(store, PooledStore):
        store = await store.holder(name)
    return store.root / plain_name(name) if isinstance(store, LocalStore) else None


@contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        view = memoryview(mapping)
        try:
            yield view
        finally:
            view.release()


async def _local(name: str, store: ObjectStore, folder: Path) -> Path:
    own = await own_file(name, store)
    if own is not None:
        return own
    path = _path_of(name, folder)
    await copy_whole(store, name, path)
    return path


def _path_of(name: str, folder: Path) -> Path:
    return folder / name.replace("/", "_")
