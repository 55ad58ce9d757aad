"""Which column holds which value: the rules, and everything that a document can do to them."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemq.errors import Corrupt
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.storage.parquet import typed_columns, writing
from bytemq.storage.parquet.record_schema import SCHEMA, conformed, table_schema
from bytemq.storage.parquet.settings import ParquetSettings
from bytemq.storage.parquet.sources import CompanionFile, ParquetInput, SegmentInput
from bytemq.storage.parquet.typed_columns import TypedReader
from bytemq.storage.parquet.writing import WrittenTable, write_table
from bytemq.storage.tables.table_columns import (
    FIXED_NAMES,
    MAX_FIELDS,
    OUTCOMES,
    Formats,
    Seen,
    TableColumns,
    decode_columns,
    encode_columns,
    grown,
    paths,
)
from tests.unit.storage.parquet.shapes import fingerprint, parsed, restored
from tests.unit.storage.parquet.test_conversion import parquet, read_back, segment

JSON = Formats("json")
EXAMPLES = int(os.environ.get("BYTEMQ_TYPED_EXAMPLES", "60"))


def as_table(values: Sequence[bytes | None], keys: Sequence[bytes | None] | None = None) -> pa.Table:
    return pa.table(
        {"key": pa.array(keys or [None] * len(values), pa.binary()), "value": pa.array(values, pa.binary())}
    )


def read(
    values: Sequence[bytes | None],
    known: TableColumns | None = None,
    formats: Formats = JSON,
    keys: Sequence[bytes | None] | None = None,
) -> tuple[TableColumns, pa.Table, TypedReader]:
    """As a query does: what was seen goes over a wire as JSON, and what has columns is read anew."""
    columns, table = known or TableColumns(), as_table(values, keys)
    while True:
        reader = TypedReader(columns, formats)
        typed = reader.read(table)
        seen = {root: Seen.from_json(json.loads(json.dumps(what.as_json()))) for root, what in reader.seen.items()}
        if not reader.has_grown:
            assert decode_columns(encode_columns(columns)) == columns == pickle.loads(pickle.dumps(columns))
            return columns, typed, reader
        columns = grown(columns, seen)
        assert columns == reader.columns


def rows(typed: pa.Table) -> list[dict[str, Any]]:
    """What is not null."""
    return [{name: value for name, value in row.items() if value is not None} for row in typed.to_pylist()]


def test_names__of_the_fixed_columns_are_those_of_every_table() -> None:
    assert list(FIXED_NAMES) == SCHEMA.names


def test_json__fields_have_columns_of_their_types() -> None:
    document = b'{"a": 1, "b": 1.5, "c": "x", "d": true, "e": {"f": [1, 2], "g": [{"h": null}, {"h": 1}]}, "n": null}'
    columns, typed, reader = read([document, b'{"e": {}}', None])
    assert rows(typed) == [
        {"a": 1, "b": 1.5, "c": "x", "d": True, "e": {"f": [1, 2], "g": [{"h": None}, {"h": 1}]}},
        {"e": {"f": None, "g": None}},
        {},
    ]
    assert (reader.invalid, reader.left_out, reader.retyped) == (0, 0, 0)
    assert {name: str(typed.schema.field(name).type) for name in "abcd"} == {
        "a": "int64",
        "b": "double",
        "c": "string",
        "d": "bool",
    }
    documented = dict(paths(columns))
    assert documented[int(typed.schema.field("e").metadata[b"PARQUET:field_id"])] == '$["e"]'


def test_json__what_is_not_json_is_counted_and_says_why() -> None:
    values = [b"{", b"", b"NaN", b'{"a": NaN}', b'"\xff"', b"[" * 1100 + b"]" * 1100, b'{"a": 1}', b"{'a': 1}", b"1 2"]
    _, typed, reader = read(values)
    assert [row.get("value_error", "")[:8] for row in rows(typed)] == ["not JSON"] * 6 + [""] + ["not JSON"] * 2
    assert rows(typed)[6] == {"a": 1}
    assert reader.invalid == 8


def test_json__numbers_go_where_they_are_exact() -> None:
    columns, typed, _ = read([b'{"a": 1}', b'{"a": 2.5}'])
    assert rows(typed) == [{"a": 1.0}, {"a": 2.5}]
    columns, typed, reader = read([b'{"a": 9007199254740993}', b'{"a": 7}', b'{"a": 1e30}'], columns)
    assert rows(typed) == [{"a_long": 9007199254740993}, {"a": 7.0}, {"a": 1e30}]
    assert reader.retyped == 1

    columns, _, _ = read([b'{"a": 9223372036854775807}'])
    columns, typed, _ = read([b'{"a": 3.0}', b'{"a": 3.5}', b'{"a": -9223372036854775808}'], columns)
    assert rows(typed) == [{"a": 3}, {"a_double": 3.5}, {"a": -9223372036854775808}]


def test_json__huge_integers_are_the_nearest_double() -> None:
    _, typed, _ = read([b'{"a": 18446744073709551615}', b'{"a": 123456789012345678901234567890}'])
    assert rows(typed) == [{"a": 2.0**64}, {"a": 123456789012345678901234567890.0}]
    values = [b'{"a": [9007199254740994, 18446744073709551615]}', b'{"a": [1, 18446744073709551614]}']
    assert rows(read(values)[1]) == [{"a": [9007199254740994.0, 2.0**64]}, {"a": [1.0, 2.0**64]}]
    assert rows(read([b'{"a": 1e999}'])[1])[0]["value_error"].startswith("not JSON: number is infinity")


def test_json__a_field_of_another_type_has_another_column_and_is_counted() -> None:
    columns, _, _ = read([b'{"a": 1}'])
    columns, typed, reader = read(
        [b'{"a": "x"}', b'{"a": {"b": 1}}', b'{"a": [1]}', b'{"a": true}', b'{"a": 2}'], columns
    )
    assert rows(typed) == [
        {"a_string": "x"},
        {"a_struct": {"b": 1}},
        {"a_list": [1]},
        {"a_boolean": True},
        {"a": 2},
    ]
    assert reader.retyped == 4


def test_json__names_are_such_that_every_engine_can_tell_them_apart() -> None:
    document = {"A": 1, "a": 2, "offset": 3, "Value": 4, "x.y": 5, "x_y": 6, "q\"`'": 7, "\u0000": 8, "": 9}
    long_name = "n" * 201
    _, typed, reader = read([json.dumps({**document, long_name: 10}).encode()])
    (row,) = rows(typed)
    assert row == {
        "A": 1,
        "a_2": 2,
        "offset_2": 3,
        "Value_2": 4,
        "x_y": 5,
        "x_y_2": 6,
        "q\"`'": 7,
        "_": 8,
        "__2": 9,
        "value_left_out": 1,
    }
    assert reader.left_out == 1


def test_json__of_a_key_that_is_there_twice_the_last_one_counts() -> None:
    assert rows(read([b'{"a": 1, "a": 2}'])[1]) == [{"a": 2}]


def test_json__arrays_of_mixed_types_are_text() -> None:
    columns, typed, _ = read([b'{"a": [1, "x", {"b": 1}]}', b'{"a": [1]}'])
    assert rows(typed) == [{"a": '[1,"x",{"b":1}]'}, {"a": "[1]"}]
    columns, _, _ = read([b'{"a": [1, null]}'])
    _, typed, reader = read([b'{"a": [1, "x"]}', b'{"a": [2]}', b'{"a": []}'], columns)
    assert rows(typed) == [{"a_json": '[1,"x"]'}, {"a": [2]}, {"a": []}]
    assert reader.retyped == 1
    assert rows(read([b'{"a": [[1], [2.5, null]]}'])[1]) == [{"a": [[1.0], [2.5, None]]}]


def test_json__documents_that_are_no_objects_have_columns_too() -> None:
    _, typed, reader = read([b"5", b'"x"', b"[1, 2]", b"null", b"true", b'{"a": 1}', b'[1, {"b": 2}]'])
    assert rows(typed) == [
        {"value_long": 5},
        {"value_string": "x"},
        {"value_json": "[1,2]"},
        {},
        {"value_boolean": True},
        {"a": 1},
        {"value_json": '[1,{"b":2}]'},
    ]
    assert (reader.invalid, reader.retyped) == (0, 0)


def test_json__what_is_deep_is_text_and_what_is_deeper_is_left_out() -> None:
    def deep(levels: int) -> bytes:
        return b'{"a":' * levels + b"1" + b"}" * levels

    columns, typed, _ = read([deep(12)])
    value, level = typed.to_pylist()[0], 0
    while isinstance(value, dict):
        value, level = value["a"], level + 1
    assert value == deep(4).decode()
    assert level == 8
    _, typed, reader = read([deep(600), deep(12)], columns)
    assert reader.left_out == 1
    assert [row.get("value_left_out") for row in rows(typed)] == [1, None]


@pytest.mark.parametrize(("opened", "closed"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
def test_json__what_is_deep_and_empty_keeps_nothing_else_back(opened: bytes, closed: bytes) -> None:
    empty = b"{}" if opened.endswith(b":") else b""
    levels = 500 if b"[{" in opened else 1000
    _, typed, reader = read([b'{"b": 1, "deep": ' + opened * levels + empty + closed * levels + b"}"])
    assert rows(typed)[0]["b"] == 1
    assert reader.invalid == 0


def test_json__of_ten_thousand_fields_some_have_columns_and_the_rest_is_counted() -> None:
    values = [b'{"k%d": %d, "common": 1}' % (number, number) for number in range(10_000)]
    columns, typed, reader = read(values)
    assert len(columns.of_table()) == MAX_FIELDS
    placed = sum(len(row) - 1 for row in rows(typed) if "value_left_out" not in row)
    assert placed + reader.left_out == 10_000
    assert pa.compute.sum(typed.column("value_left_out")).as_py() == reader.left_out
    again, _, reader = read([b'{"other": 1, "common": "now text"}'], columns)
    assert again == columns
    assert reader.left_out == 2


def test_json__an_object_of_ten_thousand_fields() -> None:
    columns, _, reader = read([json.dumps({f"k{number}": {"x": number} for number in range(10_000)}).encode()])
    assert columns.next_id == 1000 + MAX_FIELDS
    assert reader.left_out == 10_000 - MAX_FIELDS // 2


def test_string__is_text_or_an_error() -> None:
    _, typed, reader = read([b"abc", b"\xff", b"", None], formats=Formats("string", "string"), keys=[b"k"] * 4)
    assert [row.get("value_string") for row in rows(typed)] == ["abc", None, "", None]
    assert [row.get("key_string") for row in rows(typed)] == ["k"] * 4
    assert rows(typed)[1]["value_error"].startswith("not UTF-8")
    assert reader.invalid == 1


def test_keys__have_columns_that_say_so() -> None:
    _, typed, _ = read([b'{"id": 1}', b"{}"], formats=Formats("json", "json"), keys=[b'{"id": "x"}', b"17"])
    assert rows(typed) == [{"id": 1, "key_id": "x"}, {"key_long": 17}]


def test_columns__that_make_no_sense_are_refused() -> None:
    for data in (b"", b"{}", b'{"version": 2}', b"[]", encode_columns(TableColumns())[:-1]):
        with pytest.raises(Corrupt):
            decode_columns(data)


NAMES = st.sampled_from(["a", "A", "b", "offset", "a_string", "x.y", ""])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.sampled_from([1 << 53, (1 << 53) + 1, 1 << 63, (1 << 63) - 1]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=3),
)
DOCUMENTS = st.recursive(
    SCALARS, lambda inside: st.lists(inside, max_size=3) | st.dictionaries(NAMES, inside, max_size=4), max_leaves=12
)
VALUES = st.one_of(
    st.none(),
    st.binary(max_size=4),
    st.dictionaries(NAMES, DOCUMENTS, max_size=5).map(lambda document: json.dumps(document).encode()),
    DOCUMENTS.map(lambda document: json.dumps(document).encode()),
)


@settings(max_examples=EXAMPLES)
@given(st.lists(VALUES, max_size=12), st.integers(0, 12))
def test_columns__no_value_moves_when_others_come(values: list[bytes | None], cut: int) -> None:
    """What was shown of the first records is still so when there are columns for all, however they are read."""
    early, before, _ = read(values[:cut])
    columns, _, _ = read(values[cut:], early)
    _, after, reader = read(values[:cut], columns)
    assert rows(after) == rows(before) or added_only(rows(before), rows(after))
    _, together, _ = read(values, columns)
    assert rows(together)[:cut] == rows(after)
    assert reader.invalid == sum("value_error" in row for row in rows(after))


def added_only(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> bool:
    """Columns that came later may hold what was nothing before: an empty array or object."""
    return all(_within(old, new) for old, new in zip(before, after, strict=True))


def _within(old: Any, new: Any) -> bool:
    if isinstance(old, dict) and isinstance(new, dict):
        return all(_within(value, new.get(name)) for name, value in old.items() if value is not None) and all(
            _is_nothing(value) for name, value in new.items() if old.get(name) is None
        )
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_within, old, new))
    return bool(old == new) or (old is None and _is_nothing(new))


def _is_nothing(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_nothing, value.values()))
    if isinstance(value, str) and value[:1] in ("[", "{"):  # of a column that is text
        return bool(_is_nothing(json.loads(value)))
    return value is None or (isinstance(value, list) and all(map(_is_nothing, value)))


def log_of(values: Sequence[bytes | None]) -> list[bytes]:
    batches = []
    for start in range(0, len(values), 3):
        records = [Record(None, value, (), 5) for value in values[start : start + 3]]
        batches.append(bytes(build_batch(records, base_offset=start)))
    return batches


@settings(max_examples=EXAMPLES)
@given(st.lists(VALUES, min_size=1, max_size=12), st.integers(1, 3), st.sampled_from([1, 1 << 20]))
def test_conversion__in_one_step_or_in_several_gives_the_same(
    values: list[bytes | None], cut: int, row_group_bytes: int
) -> None:
    batches = log_of(values)
    middle = min(3 * cut, len(values))
    chosen = ParquetSettings(row_group_bytes=row_group_bytes, codec="none")

    def convert(inputs: list[SegmentInput | ParquetInput], name: str, columns: TableColumns) -> WrittenTable:
        return write_table(
            inputs, *parquet(folder, name), partition=0, aborted=[], settings=chosen, columns=columns, formats=JSON
        )

    with TemporaryDirectory() as place:
        folder = Path(place)
        first = segment(folder, "1", batches[:cut], 0, middle)
        one = convert([first], "one", TableColumns())
        inputs: list[SegmentInput | ParquetInput] = [ParquetInput(*parquet(folder, "one"), 0, middle)]
        if middle < len(values):
            second = segment(folder, "2", batches[cut:], middle, len(values))
            two = convert([second], "two", one.columns)
            inputs.append(ParquetInput(*parquet(folder, "two"), middle, len(values)))
        else:
            two = one
        merged = convert(inputs, "merged", two.columns)
        assert merged.columns == two.columns
        assert fingerprint(parsed(read_back(parquet(folder, "merged")))) == fingerprint(parsed(b"".join(batches)))
        table = pq.read_table(parquet(folder, "merged")[0])
        assert table.schema.equals(table_schema(merged.columns), check_metadata=True)
        # What a query over the log, with the columns of then, would have shown.
        for name, columns, shown in (("one", one.columns, values[:middle]), ("two", two.columns, values[middle:])):
            if shown:
                _, typed, _ = read(shown, columns)
                part = pq.read_table(parquet(folder, name)[0])
                assert rows(part.select(typed.schema.names)) == rows(typed)
                part = conformed(part, table_schema(merged.columns))
                at = part.column("offset")[0].as_py()
                assert table.slice(at, len(part)).equals(part)
    assert not set(OUTCOMES) - {"key_error", "key_left_out"} - set(table.schema.names)


def test_conversion__fields_that_come_late_are_in_the_whole_file(tmp_path: Path) -> None:
    values = [b'{"a": %d}' % number for number in range(50)] + [b'{"a": 0.5, "b": {"c": "x"}}', b"no"]
    batches = log_of(values)
    source = segment(tmp_path, "in", batches, 0, len(values))
    files = parquet(tmp_path, "out")
    written = write_table(
        [source], *files, partition=0, aborted=[], settings=ParquetSettings(row_group_bytes=200), formats=JSON
    )
    assert pq.read_metadata(files[0]).num_row_groups > 10
    table = pq.read_table(files[0])
    assert table.column("a").to_pylist() == [*map(float, range(50)), 0.5, None]
    assert table.column("b").to_pylist()[50] == {"c": "x"}
    assert (written.records, written.invalid, written.left_out, written.retyped) == (52, 1, 0, 0)
    assert pq.read_metadata(files[0]).row_group(0).column(table.schema.names.index("a") + 2).statistics is not None


def test_conversion__row_groups_end_where_their_typed_columns_are_many_bytes(tmp_path: Path) -> None:
    """Of documents with few of many fields those are far more than the documents; between two rows is a batch that is
    none of them, and later than all.
    """
    rows, at = 3 * writing._ADDED_ROWS, writing._ADDED_ROWS + 10
    documents = [b'{"f%d": %d}' % (number % 50, number) for number in range(rows)]
    batches = [
        bytes(build_batch([Record(None, one, (), 5) for one in documents[:at]])),
        bytes(build_batch([Record(None, b"no row", (), 9)], base_offset=at, control=True)),
        bytes(build_batch([Record(None, one, (), 5) for one in documents[at:]], base_offset=at + 1)),
    ]
    (tmp_path / "log").write_bytes(b"".join(batches))
    source = SegmentInput(tmp_path / "log", 0, rows + 1, sum(map(len, batches)))
    files = tmp_path / "parquet", tmp_path / "companion"
    width_bytes = 50 * 8 * writing._ADDED_ROWS
    narrow = ParquetSettings(typed_bytes=int(1.5 * width_bytes))
    written = write_table([source], *files, partition=0, aborted=[], settings=narrow, formats=Formats("json"))
    assert written.records == rows
    metadata = pq.read_metadata(files[0])
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [8192] * 3
    units = CompanionFile(files[1]).units
    assert [unit.max_timestamp for unit in units] == [5, 9, 5]
    assert fingerprint(parsed(b"".join(b"".join(restored(*files, n, 1000)[:-1]) for n in range(3)))) == fingerprint(
        parsed(b"".join(batches))
    )
    merged = tmp_path / "merged", tmp_path / "merged-companion"
    inputs = [ParquetInput(*files, 0, rows + 1)]
    write_table(inputs, *merged, partition=0, aborted=[], settings=narrow, columns=written.columns)
    assert pq.read_metadata(merged[0]).num_row_groups == 3
    assert pq.read_table(merged[0]).equals(pq.read_table(files[0]))


def test_conversion__of_more_than_a_file_should_have_is_of_the_first_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "MOST_CHUNKS", 100)
    inputs = []
    for number in range(3):
        data = b"".join(bytes(build_batch([Record(None, b"{}")], base_offset=5 * number + n)) for n in range(5))
        (tmp_path / f"{number}").write_bytes(data)
        inputs.append(SegmentInput(tmp_path / f"{number}", 5 * number, 5 * number + 5, len(data)))
    files = tmp_path / "parquet", tmp_path / "companion"
    written = write_table(inputs, *files, partition=0, aborted=[], settings=ParquetSettings(row_group_bytes=1))
    assert (written.records, written.next_offset) == (10, 10)
    assert CompanionFile(files[1]).units[-1].next_offset == 10


@pytest.mark.parametrize("with_columns", [False, True])
def test_json__of_documents_that_are_too_large_nothing_is_read(
    monkeypatch: pytest.MonkeyPatch,
    *,
    with_columns: bool,
) -> None:
    """As objects of Python they would be thirty times as much."""
    monkeypatch.setattr(typed_columns, "CHUNK_BYTES", 400)
    monkeypatch.setattr(typed_columns, "MOST_DOCUMENT_BYTES", 1000)
    columns = read([b'{"a": ["x"]}'])[0] if with_columns else None
    large = b'{"a": [%s]}' % b",".join([b'"x"'] * 300)
    _, typed, _ = read([b'{"a": ["y"]}', large, b'{"a": ["z"]}'], columns)
    assert typed.column("a").to_pylist() == [["y"], None, ["z"]]
    assert typed.column("value_error").to_pylist() == [None, "not read: larger than 1000 bytes", None]


def test_json__a_few_large_documents_among_many_small_ones_are_not_read_all_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(typed_columns, "CHUNK_BYTES", 1000)
    values = [b"{}"] * 500 + [b'{"a": "%s"}' % (b"x" * 900)] * 8 + [b"{}"] * 500
    reader = TypedReader(TableColumns(), Formats("json"))
    chunks = list(reader._in_chunks(as_table(values)))
    assert [value for one in chunks for value in one.column("value").to_pylist()] == values
    assert max(one.column("value").nbytes for one in chunks if len(one) > 1) <= 2000
