"""What is not Parquet yet, as a relation: the same columns, whether it fits into memory or not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bytemq.protocol.records.builder import Record, build_batch
from bytemq.query import relations
from bytemq.query.cuts import CutFile, PartitionCut
from bytemq.query.relations import LogPart, Relations, TopicRelation
from bytemq.query.sandbox import Refused, understood
from bytemq.storage.parquet.record_schema import SCHEMA
from bytemq.storage.parquet.typed_columns import TypedReader
from bytemq.storage.tables.table_columns import Formats, Seen, TableColumns, grown

VALUES = [b'{"a": %d}' % number for number in range(20)] + [b'{"a": 9007199254740993, "b": {"c": "x"}}', b'{"a": 0.5}']


class Log:
    """A partition whose records are asked for one batch at a time."""

    def __init__(self) -> None:
        self.batches = [bytes(build_batch([Record(None, v)], base_offset=at)) for at, v in enumerate(VALUES)]
        self.published = TableColumns()
        self.asked = 0

    def path(self, name: str) -> str:
        raise AssertionError("there are no files")

    def read(self, topic: str, partition: int, offset: int, end_offset: int) -> LogPart:
        return LogPart(memoryview(self.batches[offset]), offset + 1)

    def columns(self, topic: str, seen: Mapping[str, Seen]) -> tuple[TableColumns, Formats]:
        self.asked += 1
        self.published = grown(self.published, seen)
        return self.published, Formats("json")


class ConvertedMeanwhile(Log):
    """Of which the first batch was read as it was written, and what follows as its table has it: in batches of ten."""

    def read(self, topic: str, partition: int, offset: int, end_offset: int) -> LogPart:
        if offset == 0:
            return LogPart(memoryview(b"".join(self.batches[:5])), 5)
        first = offset - offset % 10
        values = VALUES[first : first + 10]
        batch = build_batch([Record(None, value) for value in values], base_offset=first)
        return LogPart(memoryview(bytes(batch)), first + len(values))


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 1])
def test_relations__have_each_record_once_where_batches_are_cut_differently_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr(relations, "CHUNK_BYTES", chunk_bytes)
    connection = duckdb.connect()
    cut = PartitionCut(0, 0, len(VALUES), [], [(0, len(VALUES))], [])
    _, make_view = Relations(ConvertedMeanwhile(), tmp_path, 1 << 30).add(connection, "t", [cut])
    make_view()
    found = connection.execute('select "offset", value from t order by "offset"').fetchall()
    assert found == list(enumerate(VALUES))


@pytest.mark.parametrize("in_memory_bytes", [1 << 20, 1])
def test_relations__columns_that_come_late_hold_for_all_that_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory_bytes: int
) -> None:
    monkeypatch.setattr(relations, "IN_MEMORY_BYTES", in_memory_bytes)
    monkeypatch.setattr(relations, "CHUNK_BYTES", 1)
    log = Log()
    connection = duckdb.connect()
    cut = PartitionCut(0, 0, len(VALUES), [], [(0, len(VALUES))], [])
    relation, make_view = Relations(log, tmp_path, 1 << 30).add(connection, "t", [cut])
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


def test_relations__that_need_more_scratch_space_than_there_is_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relations, "IN_MEMORY_BYTES", 1)
    monkeypatch.setattr(relations, "CHUNK_BYTES", 1)
    cut = PartitionCut(0, 0, len(VALUES), [], [(0, len(VALUES))], [])
    made = Relations(Log(), tmp_path, 10_000)
    with pytest.raises(Refused, match="more than 10000 bytes of scratch space"):
        made.add(duckdb.connect(), "t", [cut])
    written = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert 10_000 < written < 20_000 and not made.left_bytes, "one file beyond it at most"
    made.clear()
    assert made.left_bytes == 10_000 and not list(tmp_path.iterdir())


DOCUMENTS = [
    b'{"a": 1, "b": {"c": 2}, "d": "x", "e": [1]}',
    b'{"a": "text", "f": true}',
    b"no json",
    b'{"b": {"g": 1}}',
]


def log_of(documents: list[bytes]) -> Log:
    log = Log()
    log.batches = [bytes(build_batch([Record(b"k", one)], base_offset=at)) for at, one in enumerate(documents)]
    return log


def asked(log: Log, sql: str, scratch: Path, *, partly: bool) -> tuple[list[tuple[object, ...]], TopicRelation]:
    connection = duckdb.connect()
    cut = PartitionCut(0, 0, len(log.batches), [], [(0, len(log.batches))], [])
    wanted = understood(connection, sql).columns if partly else None
    relation, make_view = Relations(log, scratch, 1 << 30).add(connection, "t", [cut], wanted)
    make_view()
    return connection.execute(sql).fetchall(), relation


@pytest.mark.parametrize(
    "sql",
    [
        "select count(*) from t",
        'select a, a_string from t order by "offset"',
        "select count(b.c), max(b.g) from t",
        'select B from t order by "offset"',
        'select value_error is null from t order by "offset"',
        "select sum(value_left_out) from t",
        "select max(e) from t where f is null",
        'select key, value, partition from t order by "offset"',
    ],
)
def test_relations__what_a_query_names_is_what_it_would_get_of_all(tmp_path: Path, sql: str) -> None:
    log = log_of(DOCUMENTS)
    whole, _ = asked(log, sql, tmp_path, partly=False)
    before = log.published
    part, relation = asked(log, sql, tmp_path, partly=True)
    assert part == whole and relation.is_partial
    assert log.published == before


def test_relations__a_field_that_is_named_has_its_columns_before_it_is_shown(tmp_path: Path) -> None:
    log = log_of(DOCUMENTS[:1])
    asked(log, "select * from t", tmp_path, partly=False)
    log.batches += log_of([b'{"a": 1}', b'{"b": {"h": "new"}, "z": 1}']).batches[1:]
    found, _ = asked(log, "select b.h from t where b.h is not null", tmp_path, partly=True)
    assert found == [("new",)]
    assert "z" not in {column.name for column in log.published.of_table()}, "nobody has asked for it"
    with pytest.raises(duckdb.BinderException):
        asked(log, "select z from t", tmp_path, partly=True)


def test_relations__nothing_is_decoded_that_a_query_does_not_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = log_of(DOCUMENTS)
    asked(log, "select * from t", tmp_path, partly=False)

    def refuse(*_: object) -> None:
        raise AssertionError("nobody has asked for documents")

    monkeypatch.setattr(TypedReader, "_read_root", refuse)
    assert asked(log, "select count(*), max(key) from t", tmp_path, partly=True)[0] == [(4, b"k")]


def test_relations__rows_of_files_beyond_the_cut_are_not_there(tmp_path: Path) -> None:
    """Its owner is further than was known here when it was cut."""
    table = pa.Table.from_pylist([row_at(offset) for offset in range(10, 20)], schema=SCHEMA)
    pq.write_table(table, tmp_path / "f.parquet")
    log = log_of([])
    log.path = lambda name: str(tmp_path / name)  # type: ignore[method-assign]
    connection = duckdb.connect()
    cut = PartitionCut(0, 12, 17, [CutFile("f.parquet", 10, 19, 0, 10, 1)], [], [])
    _, make_view = Relations(log, tmp_path, 1 << 30).add(connection, "t", [cut], frozenset())
    make_view()
    assert connection.execute('select min("offset"), max("offset"), count(*) from t').fetchall() == [(12, 16, 5)]


def row_at(offset: int) -> dict[str, object]:
    required: dict[str, object] = {
        field.name: [] if pa.types.is_list(field.type) else 0 for field in SCHEMA if not field.nullable
    }
    return {**required, "offset": offset, "transactional": False}
