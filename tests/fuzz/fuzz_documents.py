"""Fuzz target of JSON documents: natively or through objects of Python, the same columns hold the same values.

The input is some documents, with a zero byte between them; their columns are those of the seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from bytemq.storage.parquet.typed_columns import TypedReader
from bytemq.storage.tables.table_columns import Formats, TableColumns
from tests.fuzz import runner

JSON = Formats("json")
BETWEEN = b"\0"
SEEDS = [
    BETWEEN.join(values)
    for values in (
        [b'{"a": 1, "b": -2.5e-3, "c": "x", "d": true, "e": {"f": [1, 2], "g": [{"h": null}, {"h": "y"}]}, "n": null}'],
        [b'{"c": "\\u00e9\\ud83d\\ude00\\n", "a": -9223372036854775807}', b' { "b" : 0.1 , "b2" : [ ] } ', b"{}"],
        [b'{"a": 1.5, "b": "text"}', b'{"m": [1, "x"]}', b"[1]", b'"x"', b"17", b"null"],
        [
            b'{"e": {"f": [[], null]}, "d": false, "\\u00fc": 12345678901234567890}',
            b'{"\xc3\xbc": "\xc3\xbc"}',
        ],
    )
]


def documents(data: bytes) -> None:
    values = [value or None for value in data.split(BETWEEN)]
    natively, otherwise = (read(values, COLUMNS, is_native=is_native) for is_native in (True, False))
    assert outcome(natively) == outcome(otherwise)
    short, long = natively[1], otherwise[1]
    short.validate(full=True)
    assert short.schema == long.schema
    assert short.equals(long) or _written(short) == _written(long)  # NaN is not equal to itself, -0.0 is to 0.0


def read(values: Sequence[bytes | None], columns: TableColumns, *, is_native: bool) -> tuple[TypedReader, pa.Table]:
    reader = TypedReader(columns, JSON)
    if not is_native:
        reader.plain.clear()
    return reader, reader.read(pa.table({"value": pa.array(values, pa.binary())}))


def outcome(result: tuple[TypedReader, pa.Table]) -> tuple[object, ...]:
    reader, _ = result
    seen = {root: what.as_json() for root, what in reader.seen.items()}
    return reader.has_grown, reader.columns, reader.invalid, reader.left_out, reader.retyped, seen


def columns_of(values: Sequence[bytes | None]) -> TableColumns:
    """All that these need."""
    columns = TableColumns()
    while True:
        reader, _ = read(values, columns, is_native=False)
        if not reader.has_grown:
            return columns
        columns = reader.columns


def _written(table: pa.Table) -> str:
    return repr(table.to_pylist())


COLUMNS = columns_of([value for seed in SEEDS for value in seed.split(BETWEEN)])


if __name__ == "__main__":
    runner.main("fuzz_documents", documents, SEEDS)
