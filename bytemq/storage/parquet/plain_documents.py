"""The short way for JSON documents without surprises: natively, from their bytes to columns.

Owns: which columns can be filled so, and what they are in Arrow. Must not: decide what any other document means.

A document is plain if it is an object whose every value is null or fits the first column of its place exactly. Most
are, once a topic has its columns. Where the package was compiled these become columns without being objects of Python
in between; `typed_columns` reads all others, and all of them where it was not.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import pyarrow as pa

from bytemq.storage.parquet.record_schema import column_type
from bytemq.storage.tables.table_columns import Column, Kind, Place

try:
    from bytemq.storage.parquet._plain_documents import read

    IS_NATIVE = True
except ImportError:  # no compiler when the package was installed: the same, slower
    IS_NATIVE = False

_KINDS = {kind: number for number, kind in enumerate(Kind)}
"""As the native part numbers them."""


class Read(NamedTuple):
    columns: dict[str, pa.Array]
    """By name, as far as there are values."""
    odd: list[int]
    """Rows that are to be read otherwise; they are null here."""


class PlainDocuments:
    def __init__(self, root: Column) -> None:
        self._root = root
        self._described = tuple(_described(root, -1, iter(range(1, 1 << 31))))

    def read(self, raw: pa.Array) -> Read:
        validity, ends, data = raw.buffers()
        odd, buffers = read(self._described, validity, ends, data or b"", raw.offset, len(raw))
        parts = iter(buffers)
        next(parts)  # the document itself
        return Read({one.name: _array(one, parts) for one in _firsts(self._root)}, odd)


def plain_documents(place: Place) -> PlainDocuments | None:
    """None where no document can be read so."""
    holds_objects = next((column for column in place if column.kind in (Kind.STRUCT, Kind.JSON)), None)
    return PlainDocuments(holds_objects) if IS_NATIVE and holds_objects and holds_objects.fields else None


def _firsts(struct: Column) -> Iterator[Column]:
    return (place[0] for place in struct.fields.values())


def _described(column: Column, within: int, numbers: Iterator[int], name: str = "") -> Iterator[tuple[int, bytes, int]]:
    """With what is inside, outer columns first."""
    yield _KINDS[column.kind], name.encode(), within
    number = next(numbers) - 1
    inside = [("", column.element)] if column.element else [(name, place[0]) for name, place in column.fields.items()]
    for name, one in inside:
        yield from _described(one, number, numbers, name)


def _array(column: Column, parts: Iterator[tuple[int, bytes | None, bytes | None, bytes | None]]) -> pa.Array:
    rows, *buffers = next(parts)
    type_ = column_type(column)
    validity, values, text = (None if buffer is None else pa.py_buffer(buffer) for buffer in buffers)
    if column.kind is Kind.STRUCT:
        firsts = {one.name: _array(one, parts) for one in _firsts(column)}
        children = [
            firsts[one.name] if one.name in firsts else pa.nulls(rows, column_type(one))
            for one in chain.from_iterable(column.fields.values())
        ]
        return pa.Array.from_buffers(type_, rows, [validity], children=children)
    if column.element is not None:
        return pa.Array.from_buffers(type_, rows, [validity, values], children=[_array(column.element, parts)])
    if column.kind in (Kind.STRING, Kind.JSON):
        return pa.Array.from_buffers(type_, rows, [validity, values, text or pa.py_buffer(b"")])
    return pa.Array.from_buffers(type_, rows, [validity, values or pa.py_buffer(b"")])
