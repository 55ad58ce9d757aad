"""From the raw bytes of keys and values to the typed columns of a table.

Owns: which bytes are of the declared format, and when columns are missing; `value_columns` puts values into those that
there are. The same for whoever reads records: conversion, and queries over what is not converted yet. Must not: say
which columns there are (`tables.table_columns` does).

JSON is RFC 8259 as orjson reads it: no NaN, no comma too much, UTF-8 only, at most 1,024 levels. Of a key that an
object has twice the last one counts. An integer of more than 64 bits is the nearest double. A document of more than
4 MiB is not read. Documents without surprises take a shorter way (`plain_documents`).
"""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from bytemq.storage.parquet.plain_documents import PlainDocuments, plain_documents
from bytemq.storage.parquet.record_schema import one_array, typed_fields
from bytemq.storage.parquet.value_columns import ValueColumns
from bytemq.storage.tables.table_columns import (
    FIRST_ID,
    OUTCOMES,
    ROOTS,
    Formats,
    Kind,
    Place,
    Seen,
    TableColumns,
    grown,
)

CHUNK_BYTES = 1024 * 1024
"""Of raw bytes that are objects of Python at once; those take ten times as much."""
CHUNK_RECORDS = 8192
CHUNK_CELLS = 1024 * 1024
"""Records times columns: of each there is an object, or that there is none, before there are arrays."""
MOST_DOCUMENT_BYTES = 4 * 1024 * 1024
"""A document may be all of them: one that is larger is not read. `[{},{},...` takes thirty times as much."""
_ERROR_CHARACTERS = 120


class TypedReader:
    """Reads records into the columns that there are, until a value has none: from there on it only learns which columns
    are needed.
    """

    def __init__(self, columns: TableColumns, formats: Formats, wanted: Collection[str] | None = None) -> None:
        """`wanted`: names of the columns that are asked for, among others perhaps, in any case of letters; None: all.
        Of documents only the fields of those are looked at, and have new columns if they need some.
        """
        self.seen: dict[str, Seen] = {}
        """By root, what needs more columns than were given."""
        self.has_grown = False
        """Whether anything does."""
        self.invalid = 0
        """Keys and values that are not what they are declared to be."""
        self.left_out = 0
        """Values within documents that have no column."""
        self.retyped = 0
        """Values in a column that is not the first of its place: fields that changed their type."""
        self._fresh: dict[str, Seen] = {}
        """Of the part that is being read."""
        self._formats = formats
        self._wanted = None if wanted is None else {name.casefold() for name in wanted}
        self.roots = [root for root in ROOTS if getattr(formats, root) != "raw" and self._wants(*_names(columns, root))]
        """What is read."""
        self._given = columns
        self._use(columns)
        if any(root not in columns.declared for root in self.roots):
            self._grow({root: Seen() for root in self.roots})

    def read(self, table: pa.Table) -> pa.Table:
        """The typed columns of records; `table` has at least the `roots`. No rows once it has grown."""
        if not self.roots:
            return self._nulls(len(table))
        parts = []
        for some in self._in_chunks(table):
            self._fresh = {root: Seen() for root in self.roots}
            part = self._read_some(some)
            if not all(fresh.is_empty for fresh in self._fresh.values()):
                self._grow(self._fresh)
            if not self.has_grown:
                parts.append(part)
        return pa.concat_tables(parts) if parts else self._schema.empty_table()

    def _in_chunks(self, table: pa.Table) -> Iterator[pa.Table]:
        """Of at most twice CHUNK_BYTES, or of one record."""
        fitting = CHUNK_BYTES * len(table) // max(self._raw_bytes(table), 1)
        rows = max(min(fitting, CHUNK_RECORDS, CHUNK_CELLS // max(self.columns.next_id - FIRST_ID, 1)), 1)
        for start in range(0, len(table), rows):
            pending = [table.slice(start, rows)]
            while pending:
                some = pending.pop()
                if len(some) == 1 or self._raw_bytes(some) <= 2 * CHUNK_BYTES:
                    yield some
                else:
                    half = len(some) // 2
                    pending += some.slice(half), some.slice(0, half)

    def _raw_bytes(self, table: pa.Table) -> int:
        return sum(table.column(root).nbytes for root in self.roots)

    def _use(self, columns: TableColumns) -> None:
        self.columns = columns
        """With those that turned out to be needed."""
        self.fields = [field for field in typed_fields(columns) if self._wants(field.name)]
        """Of what is read, in Arrow."""
        self._schema = pa.schema(self.fields)
        self._looked_at = {root: self._place_of(root) for root in self.roots}
        self.plain = {root: plain for root in self.roots if (plain := self._plain_documents(root)) is not None}
        """What reads most documents of a root, where there is such a way."""
        self._values = ValueColumns(is_full=columns.is_full)

    def _wants(self, *names: str) -> bool:
        return self._wanted is None or any(name.casefold() in self._wanted for name in names)

    def _is_partial(self, root: str) -> bool:
        """Whether not all fields of documents are looked at."""
        return self._wanted is not None and not self._wants(f"{root}_left_out")

    def _place_of(self, root: str) -> Place:
        """With the fields that are looked at: of documents all, or those that have a wanted column."""
        place = self.columns.root(root)
        if not self._is_partial(root):
            return place
        return tuple(
            replace(column, fields=self._wanted_fields(column.fields)) if column.kind is Kind.STRUCT else column
            for column in place
        )

    def _plain_documents(self, root: str) -> PlainDocuments | None:
        is_whole = getattr(self._formats, root) == "json" and not self._is_partial(root)
        return plain_documents(self._looked_at[root]) if is_whole else None

    def _wanted_fields(self, fields: Mapping[str, Place]) -> Mapping[str, Place]:
        found = {name: place for name, place in fields.items() if self._wants(*(column.name for column in place))}
        return found or dict(list(fields.items())[:1])  # Arrow knows no struct without any

    def _grow(self, fresh: Mapping[str, Seen]) -> None:
        for root, seen in fresh.items():
            self.seen.setdefault(root, Seen()).merge(seen)
        needed = grown(self._given, self.seen)
        if needed != self.columns:
            self.has_grown = True
            self._use(needed)

    def _nulls(self, rows: int) -> pa.Table:
        return pa.Table.from_arrays([pa.nulls(rows, field.type) for field in self._schema], schema=self._schema)

    def _read_some(self, table: pa.Table) -> pa.Table:
        found: dict[str, pa.Array] = {}
        with _no_collection():
            for root in self.roots:
                found.update(self._read_root(root, table.column(root)))
        arrays = [
            found[field.name] if field.name in found else pa.nulls(len(table), field.type) for field in self._schema
        ]
        return pa.Table.from_arrays(arrays, schema=self._schema)

    def _read_root(self, root: str, raw: pa.ChunkedArray) -> dict[str, pa.Array]:
        """Of columns in which there is nothing some may be left out."""
        if root not in self.plain or raw.nbytes > MOST_DOCUMENT_BYTES:
            return self._read_values(root, raw)
        found, odd = self.plain[root].read(one_array(raw))
        if not odd:
            return found
        rest = self._read_values(root, raw.take(odd))
        order = np.arange(len(raw))
        order[odd] = np.arange(len(raw), len(raw) + len(odd))
        for name, array in rest.items():
            plain = found[name] if name in found else pa.nulls(len(raw), array.type)
            found[name] = pa.concat_arrays([plain, array]).take(order)
        return found

    def _read_values(self, root: str, raw: pa.ChunkedArray) -> dict[str, pa.Array]:
        read = _texts if getattr(self._formats, root) == "string" else _documents
        found: dict[str, pa.Array] = {}
        values, errors = read(raw)
        self.invalid += len(errors)
        place = self._looked_at[root]
        placed = self._values.place(place, values, self._fresh[root], ignores_unknown=self._is_partial(root))
        for column, array in zip(place, placed.arrays, strict=True):
            if column.kind is Kind.STRUCT:
                inner = chain.from_iterable(column.fields.values())
                found.update((one.name, array.field(number)) for number, one in enumerate(inner))
            else:
                found[column.name] = array
        self.left_out += sum(placed.left_out)
        self.retyped += placed.retyped
        messages: list[str | None] = [None] * len(values)
        for row, message in errors.items():
            messages[row] = message
        found[f"{root}_error"] = pa.array(messages, pa.string())
        found[f"{root}_left_out"] = pa.array([count or None for count in placed.left_out], pa.int32())
        return found


def _names(columns: TableColumns, root: str) -> Iterator[str]:
    """Of all columns of the table that come from keys, or from values."""
    yield from (name for name in OUTCOMES if name.startswith(f"{root}_"))
    for column in columns.root(root):
        if column.kind is Kind.STRUCT:
            yield from (one.name for place in column.fields.values() for one in place)
        else:
            yield column.name


def _documents(raw: pa.ChunkedArray) -> tuple[list[Any], dict[int, str]]:
    """The values, and what is wrong with those that are no JSON, by row."""
    errors: dict[int, str] = {}
    if len(raw) == 1 and raw.nbytes > MOST_DOCUMENT_BYTES:
        return [None], {0: f"not read: larger than {MOST_DOCUMENT_BYTES} bytes"}
    values = raw.to_pylist()
    try:
        return [None if value is None else orjson.loads(value) for value in values], errors
    except orjson.JSONDecodeError:
        pass
    documents: list[Any] = []
    for row, value in enumerate(values):
        try:
            documents.append(None if value is None else orjson.loads(value))
        except orjson.JSONDecodeError as error:
            documents.append(None)
            errors[row] = f"not JSON: {error}"[:_ERROR_CHARACTERS]
    return documents, errors


def _texts(raw: pa.ChunkedArray) -> tuple[list[Any], dict[int, str]]:
    errors: dict[int, str] = {}
    texts: list[Any] = []
    for row, value in enumerate(raw.to_pylist()):
        try:
            texts.append(None if value is None else value.decode())
        except UnicodeDecodeError as error:
            texts.append(None)
            errors[row] = f"not UTF-8: {error}"[:_ERROR_CHARACTERS]
    return texts, errors


@contextmanager
def _no_collection() -> Iterator[None]:
    """Documents have no cycles, and a collector that walks over them again and again costs a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
