"""A cut through a topic: what one query sees of it, exactly. Pure data.

Owns: which offsets come from which file and which from the log. A cut is taken in one step of the event loop, so each
record below it is in one place only, whatever is converted, merged or deleted afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from bytemq.errors import Unavailable
from bytemq.storage.log_files import LogFiles
from bytemq.storage.manifests.manifest import AbortedTxn, FileKind
from bytemq.storage.tables.table_file import table_file
from bytemq.types import TopicId


class Overtaken(Unavailable):
    """What the cut has named has expired, was deleted, or was compacted away by what came after the cut, before it was
    read: a later cut shows what there is.
    """


class CutFile(NamedTuple):
    """A Parquet file of the cut."""

    name: str
    first_offset: int
    last_offset: int
    max_timestamp_ms: int
    records: int
    size_bytes: int


class PartitionCut(NamedTuple):
    """The records of [start_offset, end_offset) that are committed and visible."""

    partition: int
    start_offset: int
    end_offset: int
    """The last stable offset of that moment."""
    files: Sequence[CutFile]
    ranges: Sequence[tuple[int, int]]
    """[first, end) offsets that are not in files: segments not converted yet, and the tail."""
    aborted: Sequence[tuple[int, int, int]]
    """(producer id, first offset, offset of the marker) of the aborted transactions that reach into the ranges."""

    def as_json(self) -> dict[str, Any]:
        return {**self._asdict(), "files": [list(file) for file in self.files], "ranges": [*map(list, self.ranges)]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PartitionCut:
        return cls(
            data["partition"],
            data["start_offset"],
            data["end_offset"],
            [CutFile(*file) for file in data["files"]],
            [(first, end) for first, end in data["ranges"]],
            [(producer_id, first, last) for producer_id, first, last in data["aborted"]],
        )


class TopicCut(NamedTuple):
    """Of a topic as it was then: one that is created anew under its name is another one."""

    topic_id: TopicId
    partitions: Sequence[PartitionCut]


def cut_of(files: LogFiles, start_offset: int, stable_offset: int, aborted: Sequence[AbortedTxn]) -> PartitionCut:
    """What of a partition is visible now to read_committed.

    A file may reach beyond `stable_offset`, where its owner is further than is known here.
    """
    tables: list[CutFile] = []
    ranges: list[tuple[int, int]] = []
    at = start_offset
    for info in files.manifest.segments:
        if info.kind is not FileKind.PARQUET or info.base_offset >= stable_offset:
            continue
        if info.base_offset > at:
            ranges.append((at, info.base_offset))
        table = table_file(info)
        if table.records:
            tables.append(
                CutFile(
                    info.name,
                    info.base_offset,
                    info.last_offset,
                    info.max_timestamp,
                    table.records,
                    table.parquet_bytes,
                )
            )
        at = max(at, info.last_offset + 1)
    if at < stable_offset:
        ranges.append((at, stable_offset))
    touching = [
        txn[:3] for txn in aborted if any(txn.first_offset < end and txn.last_offset >= first for first, end in ranges)
    ]
    return PartitionCut(files.partition.index, start_offset, stable_offset, tables, ranges, touching)
