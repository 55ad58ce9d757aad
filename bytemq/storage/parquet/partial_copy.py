"""A Parquet file of a remote store, as far as it is read: a local file with holes, filled by ranges.

Owns: which bytes are here, and fetching others. Must not: decode a row, or hold more of the file in memory than one
range.

A consumer that reads history wants one row group after the other, the cleaner two columns of fourteen: neither has to
wait for a file of 128 MiB, and nobody has it in memory.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from bytemq.errors import Corrupt
from bytemq.storage.stores.interface import ObjectStore

PART_BYTES = 8 * 1024 * 1024
"""What is asked of the store at once, and in memory meanwhile."""
END_BYTES = 64 * 1024
"""Where the footer is, nearly always."""
MAX_GAP_BYTES = 64 * 1024
"""What lies between two ranges and is fetched with them, because a request costs more."""
_END = struct.Struct("<I4x")
"""The last bytes of a file: how long the footer before them is, and a mark."""


class PartialCopy:
    def __init__(self, store: ObjectStore, name: str, path: Path, metadata: pq.FileMetaData) -> None:
        """Use `open`."""
        self.path = path
        self._store = store
        self._name = name
        self.metadata = metadata
        self._here: set[tuple[int, int]] = set()
        """Row groups and columns."""

    @classmethod
    async def open(cls, store: ObjectStore, name: str, path: Path) -> PartialCopy:
        """With the footer. `path` is ours, a file that may go at any time. Raises NotFound, Unavailable, Corrupt."""
        size_bytes = await store.size(name)
        with path.open("w+b") as file:
            file.truncate(size_bytes)
            start = max(size_bytes - END_BYTES, 0)
            await _fetch(store, name, file, start, size_bytes)
            file.seek(max(size_bytes - _END.size, 0))
            last = file.read(_END.size)
            footer_bytes = _END.size + (_END.unpack(last)[0] if len(last) == _END.size else size_bytes)
            if footer_bytes > size_bytes:
                raise Corrupt(f"{name} is no Parquet file")
            if footer_bytes > END_BYTES:
                await _fetch(store, name, file, size_bytes - footer_bytes, start)
        try:
            return cls(store, name, path, pq.read_metadata(path))
        except (OSError, pa.ArrowException) as error:
            raise Corrupt(f"{name}: {error}") from error

    async def bring(self, row_group: int, columns: Collection[str] | None = None) -> None:
        """Returns when these columns of a row group, or all of it, can be read in the file."""
        if row_group >= self.metadata.num_row_groups:
            raise Corrupt(f"{self._name} has no row group {row_group}")
        group = self.metadata.row_group(row_group)
        wanted: dict[tuple[int, int], tuple[int, int]] = {}
        for number in range(group.num_columns):
            column = group.column(number)
            is_wanted = columns is None or column.path_in_schema.partition(".")[0] in columns
            if is_wanted and (row_group, number) not in self._here:
                pages = [p for p in (column.dictionary_page_offset, column.data_page_offset) if p is not None]
                wanted[row_group, number] = min(pages), min(pages) + column.total_compressed_size
        for start, stop in _joined(wanted.values()):
            with self.path.open("r+b") as file:
                await _fetch(self._store, self._name, file, start, stop)
        self._here |= wanted.keys()


async def copy_whole(store: ObjectStore, name: str, path: Path) -> None:
    """All of an object, in parts. Raises NotFound, Unavailable."""
    size_bytes = await store.size(name)
    with path.open("wb") as file:
        await _fetch(store, name, file, 0, size_bytes)


async def _fetch(store: ObjectStore, name: str, file: BinaryIO, start: int, stop: int) -> None:
    """A range of an object, to the same place in the file."""
    for position in range(start, stop, PART_BYTES):
        part = await store.read_range(name, position, min(PART_BYTES, stop - position))
        file.seek(position)
        file.write(part)


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """In order, with those in one that are near each other."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if found and start - found[-1][1] <= MAX_GAP_BYTES:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return found
