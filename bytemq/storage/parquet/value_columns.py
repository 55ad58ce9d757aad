"""From values, as JSON has them, to the arrays of the columns that they are for.

Owns: which column of a place holds a value, and what is told of those that none holds. Must not: read bytes
(`typed_columns` does), or say which columns there are.

Work is by column: what runs once for each value is Arrow and the built-in functions of Python, as long as a column has
values of one type, which is nearly always.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate, chain, repeat
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
import pyarrow as pa

from bytemq.storage.parquet.record_schema import column_type
from bytemq.storage.tables.table_columns import MAX_DEPTH, MAX_FIELDS, Column, Kind, Place, Seen

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


class Placed(NamedTuple):
    arrays: Sequence[pa.Array]
    """One for each column of the place."""
    left_out: Sequence[int]
    """For each value, how many within it have no column."""
    retyped: int
    """How many are in a column that is not the first of its place: fields that changed their type."""


class ValueColumns:
    """For the columns of one table as they are; with `is_full` it can have no more."""

    def __init__(self, *, is_full: bool) -> None:
        self._is_full = is_full
        self._places_seen = 0
        self._left_out: list[int] = []
        self._retyped = 0
        self._ignores_unknown = False

    def place(self, place: Place, values: Sequence[Any], seen: Seen, *, ignores_unknown: bool) -> Placed:
        """`seen` is told what has no column; with `ignores_unknown` not of the fields of the documents themselves."""
        self._left_out, self._retyped = [0] * len(values), 0
        self._ignores_unknown = ignores_unknown
        arrays = self._place(place, values, range(len(values)), seen, 0)
        return Placed(arrays, self._left_out, self._retyped)

    def _place(
        self, place: Place, values: Sequence[Any], rows: Sequence[int], seen: Seen, depth: int
    ) -> list[pa.Array]:
        """An array for each column. `rows`: the record that a value is of."""
        types = set(map(type, values))
        types.discard(_NONE)
        if place and types:
            array = self._whole(place[0], types, values, rows, seen, depth)
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
                    self._retyped += which > 0 and depth > 0
                    break
            else:
                if not _is_nothing(value):
                    self._left_out[rows[number]] += 1
                    self._note(seen, value, depth, has_list=any(column.kind is Kind.LIST for column in place))
        return [self._array(column, part, rows, seen, depth) for column, part in zip(place, parts, strict=True)]

    def _whole(
        self,
        column: Column,
        types: set[type],
        values: Sequence[Any],
        rows: Sequence[int],
        seen: Seen,
        depth: int,
    ) -> pa.Array | None:
        """The column, if it holds every value, as far as that is known at a glance."""
        if types <= _TYPES.get(column.kind, _NO_TYPES):
            try:
                return self._array(column, values, rows, seen, depth)
            except (pa.ArrowInvalid, OverflowError):  # a number that it does not hold
                return None
        element = column.element
        if types == {list} and element is not None and element.kind in _TYPES:
            inside = set(map(type, chain.from_iterable(filter(None, values))))
            inside.discard(_NONE)
            if inside <= _TYPES[element.kind]:
                try:
                    return self._array(column, values, rows, seen, depth)
                except (pa.ArrowInvalid, OverflowError):
                    return None
        return None

    def _array(self, column: Column, values: Sequence[Any], rows: Sequence[int], seen: Seen, depth: int) -> pa.Array:
        """Of values that the column holds."""
        if column.kind is Kind.STRUCT:
            return self._struct(column, values, rows, seen, depth)
        if column.kind is Kind.LIST:
            return self._list(column, values, rows, seen, depth)
        if column.kind is Kind.JSON:
            return self._text(values, rows)
        return pa.array(values, column_type(column))

    def _struct(self, column: Column, values: Sequence[Any], rows: Sequence[int], seen: Seen, depth: int) -> pa.Array:
        documents = [_NOTHING if value is None else value for value in values]
        is_partial = depth == 0 and self._ignores_unknown
        names = set(column.fields) if is_partial else set[str]().union(*documents)
        known = [name for name in column.fields if name in names]
        inside = dict(zip(known, _transposed(documents, known), strict=True))
        arrays = []
        for name, place in column.fields.items():
            if name in inside:
                arrays.extend(self._place(place, inside[name], rows, seen.at(name), depth + 1))
            else:
                arrays.extend(pa.nulls(len(values), column_type(one)) for one in place)
        unknown = names - column.fields.keys()
        if unknown:
            self._leave_out(unknown, documents, rows, seen, depth)
        return pa.StructArray.from_arrays(
            arrays, fields=list(column_type(column)), mask=pa.array([value is None for value in values], pa.bool_())
        )

    def _leave_out(
        self,
        unknown: set[str],
        documents: Sequence[dict[str, Any]],
        rows: Sequence[int],
        seen: Seen,
        depth: int,
    ) -> None:
        for row, document in zip(rows, documents, strict=True):
            for name, value in document.items():  # in their order, which is that of the columns that come
                if name in unknown and not _is_nothing(value):
                    self._left_out[row] += 1
                    if name in seen.fields or self._has_room():
                        self._note(seen.at(name), value, depth + 1)

    def _list(self, column: Column, values: Sequence[Any], rows: Sequence[int], seen: Seen, depth: int) -> pa.Array:
        assert column.element is not None
        sizes = [0 if value is None else len(value) for value in values]
        inside = list(chain.from_iterable(filter(None, values)))
        rows_inside = list(chain.from_iterable(map(repeat, rows, sizes)))
        (elements,) = self._place((column.element,), inside, rows_inside, seen.of_element(), depth + 1)
        offsets = pa.array(accumulate(sizes, initial=0), pa.int32())
        mask = pa.array([value is None for value in values], pa.bool_())
        return pa.ListArray.from_arrays(offsets, elements, type=column_type(column), mask=mask)

    def _text(self, values: Sequence[Any], rows: Sequence[int]) -> pa.Array:
        texts: list[str | None] = []
        for row, value in zip(rows, values, strict=True):
            try:
                texts.append(None if value is None else orjson.dumps(value).decode())
            except orjson.JSONEncodeError:  # deeper than it writes
                texts.append(None)
                self._left_out[row] += 1
        return pa.array(texts, pa.string())

    def _note(self, seen: Seen, value: Any, depth: int, *, has_list: bool = False) -> None:
        """That a value had no column."""
        if self._is_full:
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
