"""From the raw bytes of keys and values to the typed columns of a table.

Owns: which bytes are of the declared format, and which column holds which value. The same for whoever reads records:
conversion, and queries over what is not converted yet. Must not: say which columns there are (`tables.table_columns`
does).

JSON is RFC 8259 as orjson reads it: no NaN, no comma too much, UTF-8 only, at most 1,024 levels. Of a key that an
object has twice the last one counts. An integer of more than 64 bits is the nearest double. Work is by column: what
runs once for each value is orjson, Arrow and the built-in functions of Python, as long as a column has values of one
type, which is nearly always. Documents without surprises take a shorter way (`plain_documents`).
"""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import accumulate, chain, repeat
from operator import itemgetter
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from bytemq.storage.parquet.plain_documents import PlainDocuments, plain_documents
from bytemq.storage.parquet.record_schema import column_type, one_array, typed_fields
from bytemq.storage.tables.table_columns import (
    MAX_DEPTH,
    MAX_FIELDS,
    OUTCOMES,
    ROOTS,
    Column,
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
_ERROR_CHARACTERS = 120
_LEAST, _GREATEST = -(1 << 63), (1 << 63) - 1
_EXACT = float(1 << 53)
_TYPES: Mapping[Kind, frozenset[type]] = {
    Kind.BOOLEAN: frozenset([bool]),
    Kind.LONG: frozenset([int]),
    Kind.DOUBLE: frozenset([float, int]),
    Kind.STRING: frozenset([str]),
    Kind.STRUCT: frozenset([dict]),
}
"""What a column of a kind holds whole, if Arrow does not refuse a number."""
_KINDS: Mapping[type, Kind] = {bool: Kind.BOOLEAN, int: Kind.LONG, float: Kind.DOUBLE, str: Kind.STRING}
_NO_TYPES: frozenset[type] = frozenset()
_NONE = type(None)
_NOTHING: dict[str, Any] = {}
_MOST_SEEN = 4 * MAX_FIELDS


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
        self._ignores_unknown = False
        """Of the document that is being read."""
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
        raw_bytes = sum(table.column(root).nbytes for root in self.roots)
        rows = min(max(CHUNK_BYTES * len(table) // max(raw_bytes, 1), 1), CHUNK_RECORDS)
        parts = []
        for start in range(0, len(table), rows):
            self._fresh = {root: Seen() for root in self.roots}
            part = self._read_some(table.slice(start, rows))
            if not all(fresh.is_empty for fresh in self._fresh.values()):
                self._grow(self._fresh)
            if not self.has_grown:
                parts.append(part)
        return pa.concat_tables(parts) if parts else self._schema.empty_table()

    def _use(self, columns: TableColumns) -> None:
        self.columns = columns
        """With those that turned out to be needed."""
        self.fields = [field for field in typed_fields(columns) if self._wants(field.name)]
        """Of what is read, in Arrow."""
        self._schema = pa.schema(self.fields)
        self._looked_at = {root: self._place_of(root) for root in self.roots}
        self.plain = {root: plain for root in self.roots if (plain := self._plain_documents(root)) is not None}
        """What reads most documents of a root, where there is such a way."""
        self._places_seen = 0

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
        if root not in self.plain:
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
        left_out = [0] * len(values)
        self._ignores_unknown = self._is_partial(root)
        place = self._looked_at[root]
        for column, array in zip(
            place, self._place(place, values, range(len(values)), left_out, self._fresh[root], 0), strict=True
        ):
            if column.kind is Kind.STRUCT:
                inner = chain.from_iterable(column.fields.values())
                found.update((one.name, array.field(number)) for number, one in enumerate(inner))
            else:
                found[column.name] = array
        self.left_out += sum(left_out)
        messages: list[str | None] = [None] * len(values)
        for row, message in errors.items():
            messages[row] = message
        found[f"{root}_error"] = pa.array(messages, pa.string())
        found[f"{root}_left_out"] = pa.array([count or None for count in left_out], pa.int32())
        return found

    def _place(
        self, place: Place, values: Sequence[Any], rows: Sequence[int], left_out: list[int], seen: Seen, depth: int
    ) -> list[pa.Array]:
        """An array for each column. `rows`: the record that a value is of."""
        types = set(map(type, values))
        types.discard(_NONE)
        if place and types:
            array = self._whole(place[0], types, values, rows, left_out, seen, depth)
            if array is not None:
                return [array, *(pa.nulls(len(values), column_type(column)) for column in place[1:])]
        elif not types:
            return [pa.nulls(len(values), column_type(column)) for column in place]
        parts: list[list[Any]] = [[None] * len(values) for _ in place]
        for number, value in enumerate(values):
            if value is None:
                continue
            if type(value) is int and not _LEAST <= value <= _GREATEST:
                value = float(value)
            for which, column in enumerate(place):
                if _holds(column, value):
                    parts[which][number] = float(value) if column.kind is Kind.DOUBLE else value
                    self.retyped += which > 0 and depth > 0
                    break
            else:
                if not _is_nothing(value):
                    left_out[rows[number]] += 1
                    self._note(seen, value, depth, has_list=any(column.kind is Kind.LIST for column in place))
        return [
            self._array(column, part, rows, left_out, seen, depth) for column, part in zip(place, parts, strict=True)
        ]

    def _whole(
        self,
        column: Column,
        types: set[type],
        values: Sequence[Any],
        rows: Sequence[int],
        left_out: list[int],
        seen: Seen,
        depth: int,
    ) -> pa.Array | None:
        """The column, if it holds every value, as far as that is known at a glance."""
        if types <= _TYPES.get(column.kind, _NO_TYPES):
            try:
                return self._array(column, values, rows, left_out, seen, depth)
            except (pa.ArrowInvalid, OverflowError):  # a number that it does not hold
                return None
        element = column.element
        if types == {list} and element is not None and element.kind in _TYPES:
            inside = set(map(type, chain.from_iterable(filter(None, values))))
            inside.discard(_NONE)
            if inside <= _TYPES[element.kind]:
                try:
                    return self._array(column, values, rows, left_out, seen, depth)
                except (pa.ArrowInvalid, OverflowError):
                    return None
        return None

    def _array(
        self, column: Column, values: Sequence[Any], rows: Sequence[int], left_out: list[int], seen: Seen, depth: int
    ) -> pa.Array:
        """Of values that the column holds."""
        if column.kind is Kind.STRUCT:
            return self._struct(column, values, rows, left_out, seen, depth)
        if column.kind is Kind.LIST:
            return self._list(column, values, rows, left_out, seen, depth)
        if column.kind is Kind.JSON:
            return self._text(values, rows, left_out)
        return pa.array(values, column_type(column))

    def _struct(
        self, column: Column, values: Sequence[Any], rows: Sequence[int], left_out: list[int], seen: Seen, depth: int
    ) -> pa.Array:
        documents = [_NOTHING if value is None else value for value in values]
        is_partial = depth == 0 and self._ignores_unknown
        names = set(column.fields) if is_partial else set[str]().union(*documents)
        known = [name for name in column.fields if name in names]
        inside = dict(zip(known, _transposed(documents, known), strict=True))
        arrays = []
        for name, place in column.fields.items():
            if name in inside:
                arrays.extend(self._place(place, inside[name], rows, left_out, seen.at(name), depth + 1))
            else:
                arrays.extend(pa.nulls(len(values), column_type(one)) for one in place)
        unknown = names - column.fields.keys()
        if unknown:
            self._leave_out(unknown, documents, rows, left_out, seen, depth)
        return pa.StructArray.from_arrays(
            arrays, fields=list(column_type(column)), mask=pa.array([value is None for value in values], pa.bool_())
        )

    def _leave_out(
        self,
        unknown: set[str],
        documents: Sequence[dict[str, Any]],
        rows: Sequence[int],
        left_out: list[int],
        seen: Seen,
        depth: int,
    ) -> None:
        for row, document in zip(rows, documents, strict=True):
            for name, value in document.items():  # in their order, which is that of the columns that come
                if name in unknown and not _is_nothing(value):
                    left_out[row] += 1
                    if name in seen.fields or self._has_room():
                        self._note(seen.at(name), value, depth + 1)

    def _list(
        self, column: Column, values: Sequence[Any], rows: Sequence[int], left_out: list[int], seen: Seen, depth: int
    ) -> pa.Array:
        assert column.element is not None
        sizes = [0 if value is None else len(value) for value in values]
        inside = list(chain.from_iterable(filter(None, values)))
        rows_inside = list(chain.from_iterable(map(repeat, rows, sizes)))
        (elements,) = self._place((column.element,), inside, rows_inside, left_out, seen.of_element(), depth + 1)
        offsets = pa.array(accumulate(sizes, initial=0), pa.int32())
        mask = pa.array([value is None for value in values], pa.bool_())
        return pa.ListArray.from_arrays(offsets, elements, type=column_type(column), mask=mask)

    def _text(self, values: Sequence[Any], rows: Sequence[int], left_out: list[int]) -> pa.Array:
        texts: list[str | None] = []
        for row, value in zip(rows, values, strict=True):
            try:
                texts.append(None if value is None else orjson.dumps(value).decode())
            except orjson.JSONEncodeError:  # deeper than it writes
                texts.append(None)
                left_out[row] += 1
        return pa.array(texts, pa.string())

    def _note(self, seen: Seen, value: Any, depth: int, *, has_list: bool = False) -> None:
        """That a value had no column."""
        if self.columns.is_full:
            return
        if isinstance(value, dict):
            if depth >= MAX_DEPTH:
                seen.kinds.add(Kind.JSON)
                return
            seen.kinds.add(Kind.STRUCT)
            for name, inside in value.items():
                if inside is not None and (name in seen.fields or self._has_room()):
                    self._note(seen.at(name), inside, depth + 1)
        elif isinstance(value, list):
            if depth >= MAX_DEPTH or has_list:
                seen.kinds.add(Kind.JSON)
                return
            seen.kinds.add(Kind.LIST)
            for inside in value:
                if inside is not None:
                    self._note(seen.of_element(), inside, depth + 1)
        elif type(value) is int and not _LEAST <= value <= _GREATEST:
            seen.kinds.add(Kind.DOUBLE)
        else:
            seen.kinds.add(_KINDS[type(value)])

    def _has_room(self) -> bool:
        """Whether one more place is remembered."""
        self._places_seen += 1
        return self._places_seen <= _MOST_SEEN


def _names(columns: TableColumns, root: str) -> Iterator[str]:
    """Of all columns of the table that come from keys, or from values."""
    yield from (name for name in OUTCOMES if name.startswith(f"{root}_"))
    for column in columns.root(root):
        if column.kind is Kind.STRUCT:
            yield from (one.name for place in column.fields.values() for one in place)
        else:
            yield column.name


def _transposed(documents: Sequence[dict[str, Any]], names: Sequence[str]) -> Iterable[Sequence[Any]]:
    """The values of each name."""
    if len(names) > 1:
        with suppress(KeyError):  # most often everybody has every name
            return list(zip(*map(itemgetter(*names), documents), strict=True))
    return ([document.get(name) for document in documents] for name in names)


def _holds(column: Column, value: Any) -> bool:
    """Exactly."""
    kind, type_ = column.kind, type(value)
    if kind is Kind.JSON:
        return True
    if kind is Kind.LONG:
        if type_ is int:
            return bool(_LEAST <= value <= _GREATEST)
        return type_ is float and -_EXACT <= value <= _EXACT and value.is_integer()
    if kind is Kind.DOUBLE:
        return type_ is float or (type_ is int and (int(float(value)) == value or not _LEAST <= value <= _GREATEST))
    if kind is Kind.LIST:
        assert column.element is not None
        return type_ is list and all(one is None or _holds(column.element, one) for one in value)
    return type_ in _TYPES[kind]


def _is_nothing(value: Any) -> bool:
    """What no column could be made of: null, and objects and arrays of nothing else, however deep they are."""
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            pending.extend(one.values())
        elif isinstance(one, list):
            pending.extend(one)
        elif one is not None:
            return False
    return True


def _documents(raw: pa.ChunkedArray) -> tuple[list[Any], dict[int, str]]:
    """The values, and what is wrong with those that are no JSON, by row."""
    errors: dict[int, str] = {}
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
