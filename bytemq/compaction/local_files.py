"""Local copies of what a job reads and writes, where the store is not local.

Owns: where such a copy is and that it goes. Must not: know what is in a file.
"""

from __future__ import annotations

import mmap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from bytemq.storage.manifests.manifest import FileKind, SegmentInfo
from bytemq.storage.parquet.sources import Input, ParquetInput, SegmentInput
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.stores.local import LocalStore
from bytemq.storage.tables.table_file import table_file


async def local_input(file: SegmentInfo, store: ObjectStore, folder: Path) -> Input:
    """A file of a log where it can be read, in `folder` if it is a copy."""
    next_offset = file.last_offset + 1
    if file.kind is FileKind.PARQUET:
        return await _local_table(file, store, folder)
    return SegmentInput(await _local(file.name, store, folder), file.base_offset, next_offset, file.size_bytes)


@asynccontextmanager
async def local_table(file: SegmentInfo, store: ObjectStore, folder: Path) -> AsyncIterator[ParquetInput]:
    """As `local_input`, of a Parquet file. A copy goes when the block ends."""
    source = await _local_table(file, store, folder)
    try:
        yield source
    finally:
        if not isinstance(store, LocalStore):
            source.path.unlink()
            source.companion.unlink()


@contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        view = memoryview(mapping)
        try:
            yield view
        finally:
            view.release()


async def _local_table(file: SegmentInfo, store: ObjectStore, folder: Path) -> ParquetInput:
    companion = await _local(table_file(file).companion, store, folder)
    return ParquetInput(await _local(file.name, store, folder), companion, file.base_offset, file.last_offset + 1)


async def _local(name: str, store: ObjectStore, folder: Path) -> Path:
    if isinstance(store, LocalStore):
        return store.root / name
    path = folder / name.replace("/", "_")
    path.write_bytes(await store.read(name))
    return path
