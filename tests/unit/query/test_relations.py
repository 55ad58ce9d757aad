"""What is not Parquet yet, as a relation: the same columns, whether it fits into memory or not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import duckdb
import pytest

from bytemq.protocol.records.builder import Record, build_batch
from bytemq.query import relations
from bytemq.query.cuts import PartitionCut
from bytemq.query.relations import LogPart, Relations
from bytemq.storage.tables.table_columns import Formats, Seen, TableColumns, grown

VALUES = [b'{"a": %d}' % number for number in range(20)] + [b'{"a": 9007199254740993, "b": {"c": "x"}}', b'{"a": 0.5}']


class Log:
    """A partition whose records are asked for one batch at a time."""

    def __init__(self) -> None:
        self.batches = [bytes(build_batch([Record(None, v)], base_offset=at)) for at, v in enumerate(VALUES)]
        self.published = TableColumns()
        self.asked = 0

    def path(self, name: str) -> Path:
        raise AssertionError("there are no files")

    def read(self, topic: str, partition: int, offset: int, end_offset: int) -> LogPart:
        return LogPart(memoryview(self.batches[offset]), offset + 1)

    def columns(self, topic: str, seen: Mapping[str, Seen]) -> tuple[TableColumns, Formats]:
        self.asked += 1
        self.published = grown(self.published, seen)
        return self.published, Formats("json")


@pytest.mark.parametrize("in_memory_bytes", [1 << 20, 1])
def test_relations__columns_that_come_late_hold_for_all_that_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory_bytes: int
) -> None:
    monkeypatch.setattr(relations, "IN_MEMORY_BYTES", in_memory_bytes)
    monkeypatch.setattr(relations, "CHUNK_BYTES", 1)
    log = Log()
    connection = duckdb.connect()
    cut = PartitionCut(0, 0, len(VALUES), [], [(0, len(VALUES))], [])
    relation, make_view = Relations(log, tmp_path).add(connection, "t", [cut])
    make_view()
    assert bool(relation.files) == (in_memory_bytes == 1)
    found = connection.execute('select a, a_long, b.c from t order by "offset"').fetchall()
    # Doubles and integers seen together are doubles; the integer that is no double was seen again, and has its own.
    assert found == [
        *((float(number), None, None) for number in range(20)),
        (None, 9007199254740993, "x"),
        (0.5, None, None),
    ]
    assert log.asked == 3
