"""The rows of a result as the bytes that somebody asked for.

Owns: CSV, JSON lines, an Arrow stream, a table for people. Must not: hold more than a batch of rows, except for the
table, which is of few rows.
"""

from __future__ import annotations

import base64
import csv
import datetime
import io
import json
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa

CONTENT_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/x-ndjson",
    "arrow": "application/vnd.apache.arrow.stream",
    "table": "text/plain; charset=utf-8",
}
TABLE_ROWS = 10_000
"""A table that nobody would read to its end is refused: ask for CSV."""


def encoded(schema: pa.Schema, batches: Iterable[pa.RecordBatch], form: str) -> Iterator[tuple[int, bytes]]:
    """(rows, bytes), each for some rows."""
    writers: dict[str, Callable[[pa.Schema, Iterable[pa.RecordBatch]], Iterator[tuple[int, bytes]]]] = {
        "csv": _csv,
        "json": _json,
        "arrow": _arrow,
        "table": _table,
    }
    return writers[form](schema, batches)


def plain(value: Any) -> Any:
    """As JSON has it: bytes as text where they are UTF-8, else {"base64": ...}; times as ISO 8601; what is no JSON
    number as text.
    """
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inside) for inside in value]
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta | Decimal):
        return str(value)
    return value


def _text(value: Any) -> str:
    """As CSV and tables have it; null is the empty string."""
    value = plain(value)
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """Raises ValueError."""
    try:
        return zip(*(column.to_pylist() for column in batch.columns), strict=True)
    except OverflowError as error:
        raise ValueError(
            "a date or timestamp is outside of the years 1 to 9999: cast it to varchar, or ask for --format arrow"
        ) from error


def _csv(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, bytes]]:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(schema.names)
    yield 0, out.getvalue().encode()
    for batch in batches:
        out.seek(0)
        out.truncate()
        writer.writerows([_text(value) for value in row] for row in _rows(batch))
        yield batch.num_rows, out.getvalue().encode("utf-8", "replace")


def _json(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, bytes]]:
    names = schema.names
    for batch in batches:
        lines = [
            json.dumps(dict(zip(names, map(plain, row), strict=True)), ensure_ascii=False) + "\n"
            for row in _rows(batch)
        ]
        yield batch.num_rows, "".join(lines).encode("utf-8", "replace")


def _arrow(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, bytes]]:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        yield 0, _taken(sink)
        for batch in batches:
            writer.write_batch(batch)
            yield batch.num_rows, _taken(sink)
    yield 0, _taken(sink)


def _taken(sink: io.BytesIO) -> bytes:
    data = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    return data


def _table(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, bytes]]:
    lines = [[str(name) for name in schema.names]]
    for batch in batches:
        lines.extend([_one_line(_text(value)) for value in row] for row in _rows(batch))
        if len(lines) > TABLE_ROWS:
            raise ValueError(f"more than {TABLE_ROWS} rows make no table: add a LIMIT, or ask for --format csv")
    numeric = [pa.types.is_integer(type_) or pa.types.is_floating(type_) for type_ in schema.types]
    widths = [max(len(line[column]) for line in lines) for column in range(len(schema.names))]
    out = []
    for number, line in enumerate(lines):
        cells = [
            cell.rjust(width) if is_number and number else cell.ljust(width)
            for cell, width, is_number in zip(line, widths, numeric, strict=True)
        ]
        out.append("  ".join(cells).rstrip())
        if not number:
            out.append("  ".join("-" * width for width in widths))
    yield len(lines) - 1, ("\n".join(out) + "\n").encode("utf-8", "replace")


def _one_line(text: str) -> str:
    shown = "".join(character if character.isprintable() else "\ufffd" for character in text)
    return shown if len(shown) <= 200 else shown[:197] + "..."
