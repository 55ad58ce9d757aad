"""Checking Parquet files and their companions against the manifest: a part of `verify` and `audit`.

Owns: what can be wrong with such a file. Must not: need pyarrow; without it the rows are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bytemq.errors import Corrupt
from bytemq.storage.manifests.manifest import SegmentInfo
from bytemq.storage.segments.batch_walk import walk
from bytemq.storage.tables.companion import NO_ROW_GROUP, decode_companion, index_bytes
from bytemq.storage.tables.table_file import TableFile, objects_of, table_file


def objects_known_of(info: SegmentInfo) -> list[str]:
    """As `objects_of`, also where the manifest makes no sense, which `table_problems` reports."""
    try:
        return objects_of(info)
    except Corrupt:
        return [info.name]


def table_problems(root: Path, info: SegmentInfo) -> Iterator[tuple[str, str]]:
    """(name of an object, problem). The objects are below `root`, under their names."""
    try:
        table = table_file(info)
    except Corrupt as error:
        yield info.name, str(error)
        return
    try:
        row_groups = _check_companion(root, info, table)
    except (Corrupt, OSError) as error:
        yield table.companion, _problem(error)
        row_groups = None
    try:
        _check_parquet(root, info, table, row_groups)
    except (Corrupt, OSError) as error:
        yield info.name, _problem(error)


def _problem(error: Corrupt | OSError) -> str:
    return "is missing" if isinstance(error, FileNotFoundError) else str(error)


def _check_companion(root: Path, info: SegmentInfo, table: TableFile) -> int:
    """How many row groups there ought to be."""
    data = (root / table.companion).read_bytes()
    companion = decode_companion(data[: index_bytes(data)])
    batches = memoryview(data)[companion.batches_position :]
    if len(batches) != companion.batches_bytes:
        raise Corrupt(f"has {len(batches)} bytes of batches, its header says {companion.batches_bytes}")
    if table.parquet_bytes + len(data) != info.size_bytes:
        raise Corrupt(f"has {len(data)} bytes, the manifest says {info.size_bytes - table.parquet_bytes}")
    first, after = companion.units[0].base_offset, companion.units[-1].next_offset
    if (first, after) != (info.base_offset, info.last_offset + 1):
        raise Corrupt(f"is of offsets {first}..{after - 1}, the manifest says {info.base_offset}..{info.last_offset}")
    for _ in walk(batches, verify=True):
        pass
    return sum(unit.row_group != NO_ROW_GROUP for unit in companion.units)


def _check_parquet(root: Path, info: SegmentInfo, table: TableFile, row_groups: int | None) -> None:
    path = root / info.name
    if path.stat().st_size != table.parquet_bytes:
        raise Corrupt(f"has {path.stat().st_size} bytes, the manifest says {table.parquet_bytes}")
    try:
        from bytemq.storage.parquet.checking import check_rows
    except ImportError:
        return
    check_rows(path, info.base_offset, info.last_offset, table.records, row_groups)
