"""The typed columns of a topic's table: which there are, and how new ones come. Pure.

Owns: their names, types and field ids, the rules by which they grow, and their bytes. Must not: look into a record
(`parquet.typed_columns` does), or know where the bytes are kept.

A *place* is where a value can be in a document: `$.user.name`. It has any number of columns, in the order in which
they came, and a value goes to the first of them that holds it exactly. Columns are added and never taken away, changed
or renamed, so no value ever moves: what a query has shown is what the file will have, and what every later file has.

    $.price    10, 12.5 seen together     price double
    $.price    10 seen, then 12.5         price long, price_double double: Iceberg cannot make a double of a long
    $.tags     ["a", 1]                   tags json: the text of what no typed column holds

Numbers have the widest type that there is from the start, so nothing is left for Iceberg to widen: readers of plain
files, many of which cannot widen, see one type everywhere.
"""

from __future__ import annotations

import enum
import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from bytemq.errors import Corrupt

MAX_FIELDS = 500
"""Columns of a table, with those within objects and arrays. What would be more has none, and is counted."""
MAX_DEPTH = 8
"""Objects and arrays within each other that have columns; deeper ones are text."""
MAX_NAME_BYTES = 200
FIRST_ID = 1000
"""Field ids below are the fixed columns'."""
ROOTS = ("value", "key")
OUTCOMES = tuple(f"{root}_{outcome}" for root in ROOTS for outcome in ("error", "left_out"))
"""Columns that say how it went to read a value or key as what it is declared to be."""
FIXED_NAMES = (
    "offset",
    "partition",
    "timestamp",
    "timestamp_ms",
    "timestamp_type",
    "key",
    "value",
    "headers",
    "producer_id",
    "producer_epoch",
    "sequence",
    "transactional",
    "leader_epoch",
    "delete_horizon_ms",
)
"""Of the columns of every table (`parquet.record_schema`)."""
VERSION = 1
_SEEN_PLACES = MAX_FIELDS + 100


class Kind(enum.StrEnum):
    BOOLEAN = "boolean"
    LONG = "long"
    DOUBLE = "double"
    STRING = "string"
    STRUCT = "struct"
    LIST = "list"
    JSON = "json"
    """Text: whatever it is."""


NUMBERS = (Kind.LONG, Kind.DOUBLE)


@dataclass(frozen=True, slots=True)
class Column:
    field_id: int
    name: str
    kind: Kind
    fields: Mapping[str, Place] = field(default_factory=dict)
    """Of a struct, by their names in the document."""
    element: Column | None = None
    """Of a list."""


Place = tuple[Column, ...]


class Formats(NamedTuple):
    """What a topic's records are declared to be: raw, string or json."""

    value: str = "raw"
    key: str = "raw"

    @property
    def are_raw(self) -> bool:
        return self.value == self.key == "raw"


@dataclass(frozen=True, slots=True)
class TableColumns:
    """All typed columns of a topic."""

    value: Place = ()
    key: Place = ()
    """A struct here is no column itself; its fields are columns of the table."""
    declared: frozenset[str] = frozenset()
    """The roots that ever had a format: those have columns that say how it went."""
    next_id: int = FIRST_ID

    @property
    def is_full(self) -> bool:
        return self.next_id - FIRST_ID >= MAX_FIELDS

    def root(self, name: str) -> Place:
        return self.value if name == "value" else self.key

    def of_table(self) -> list[Column]:
        """Every column of the table, in the order in which they came."""
        found: list[Column] = []
        for column in (*self.value, *self.key):
            if column.kind is Kind.STRUCT:
                found.extend(one for place in column.fields.values() for one in place)
            else:
                found.append(column)
        return sorted(found, key=lambda column: column.field_id)


class Seen:
    """Values that have no column, or not one that holds them, by place."""

    __slots__ = ("element", "fields", "kinds")

    def __init__(self) -> None:
        self.kinds: set[Kind] = set()
        self.fields: dict[str, Seen] = {}
        self.element: Seen | None = None

    def at(self, name: str) -> Seen:
        found = self.fields.get(name)
        if found is None:
            found = self.fields[name] = Seen()
        return found

    def of_element(self) -> Seen:
        if self.element is None:
            self.element = Seen()
        return self.element

    @property
    def is_empty(self) -> bool:
        inside = self.element is None or self.element.is_empty
        return not self.kinds and inside and all(seen.is_empty for seen in self.fields.values())

    def merge(self, other: Seen) -> None:
        self.kinds |= other.kinds
        for name, seen in other.fields.items():
            if not seen.is_empty:
                self.at(name).merge(seen)
        if other.element is not None and not other.element.is_empty:
            self.of_element().merge(other.element)

    def as_json(self) -> dict[str, Any]:
        """Of at most some thousands of places, so that it stays a message."""
        return self._as_json([_SEEN_PLACES])

    def _as_json(self, left: list[int]) -> dict[str, Any]:
        data: dict[str, Any] = {"kinds": sorted(self.kinds)} if self.kinds else {}
        fields = {}
        for name, seen in self.fields.items():
            if left[0] <= 0:
                break
            if len(name.encode()) <= MAX_NAME_BYTES and not seen.is_empty:
                left[0] -= 1
                fields[name] = seen._as_json(left)
        if fields:
            data["fields"] = fields
        if self.element is not None and not self.element.is_empty:
            data["element"] = self.element._as_json(left)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any], depth: int = 0) -> Seen:
        """Raises ValueError, TypeError, AttributeError for what is no such thing."""
        if depth > MAX_DEPTH + 1:
            raise ValueError("too deep")
        seen = cls()
        seen.kinds = {Kind(kind) for kind in data.get("kinds", ())}
        seen.fields = {str(name): cls.from_json(inside, depth + 1) for name, inside in data.get("fields", {}).items()}
        if "element" in data:
            seen.element = cls.from_json(data["element"], depth + 1)
        return seen


def grown(columns: TableColumns, seen: Mapping[str, Seen]) -> TableColumns:
    """With columns for what was seen, as far as there may be more. The same if nothing new was seen."""
    growth = _Growth(columns.next_id)
    names = {*map(_folded, FIXED_NAMES), *map(_folded, OUTCOMES), *(_folded(one.name) for one in columns.of_table())}
    roots = {
        root: growth.root(root, columns.root(root), seen[root], names) if root in seen else columns.root(root)
        for root in ROOTS
    }
    declared = columns.declared | seen.keys()
    return replace(columns, value=roots["value"], key=roots["key"], declared=declared, next_id=growth.next_id)


class _Growth:
    def __init__(self, next_id: int) -> None:
        self.next_id = next_id

    def root(self, root: str, place: Place, seen: Seen, names: set[str]) -> Place:
        prefix = "key_" if root == "key" else ""
        grown_place = []
        for column in place:
            if column.kind is Kind.STRUCT:
                column = replace(column, fields=self._fields(column.fields, seen, names, prefix, 1))
            grown_place.append(column)
        for kind in _new_kinds(place, seen):
            if kind is Kind.STRUCT:
                fields = self._fields({}, seen, names, prefix, 1)
                if fields:
                    grown_place.append(Column(0, root, kind, fields))
            else:
                self._append(grown_place, kind, f"{root}_{kind}", seen, names, 0)
        return tuple(grown_place)

    def _fields(
        self, fields: Mapping[str, Place], seen: Seen, names: set[str], prefix: str, depth: int
    ) -> Mapping[str, Place]:
        changed = dict(fields)
        for name, inside in seen.fields.items():
            if len(name.encode()) <= MAX_NAME_BYTES and not inside.is_empty:
                place = self._place(changed.get(name, ()), prefix + _clean(name), inside, names, depth)
                if place:
                    changed[name] = place
        return changed

    def _place(self, place: Place, base: str, seen: Seen, names: set[str], depth: int) -> Place:
        """`names`: of the columns beside it."""
        grown_place = [self._within(column, seen, depth) for column in place]
        for kind in _new_kinds(place, seen):
            name = f"{base}_{kind}" if grown_place else base
            self._append(grown_place, kind, name, seen, names, depth)
        return tuple(grown_place)

    def _within(self, column: Column, seen: Seen, depth: int) -> Column:
        """A column that there is, with what is new inside of it."""
        if column.kind is Kind.STRUCT and seen.fields:
            fields = self._fields(column.fields, seen, _names(column.fields), "", depth + 1)
            return replace(column, fields=fields)
        if column.kind is Kind.LIST and column.element is not None and seen.element is not None:
            return replace(column, element=self._within(column.element, seen.element, depth + 1))
        return column

    def _append(self, place: list[Column], kind: Kind, name: str, seen: Seen, names: set[str], depth: int) -> None:
        start = self.next_id
        name = _unused(name, names)
        made = self._column(kind, name, seen, depth)
        if made is None:
            self.next_id = start
            return
        names.add(_folded(name))
        place.append(made)

    def _column(self, kind: Kind, name: str, seen: Seen, depth: int) -> Column | None:
        """None where there is no room, or nothing in it."""
        if self.next_id - FIRST_ID >= MAX_FIELDS:
            return None
        field_id = self.next_id
        self.next_id += 1
        if kind is Kind.STRUCT:
            fields = self._fields({}, seen, set(), "", depth + 1)
            return Column(field_id, name, kind, fields) if fields else None
        if kind is Kind.LIST:
            element_seen = seen.of_element()
            (element_kind,) = _new_kinds((), element_seen)
            element = self._column(element_kind, "element", element_seen, depth + 1)
            return Column(field_id, name, kind, element=element) if element is not None else None
        return Column(field_id, name, kind)


def _new_kinds(place: Place, seen: Seen) -> list[Kind]:
    """The kinds of the columns to be added, in an order that does not depend on who saw what first."""
    present = {column.kind for column in place}
    kinds = seen.kinds - present
    if Kind.DOUBLE in kinds and Kind.LONG in kinds and not present.intersection(NUMBERS):
        kinds.discard(Kind.LONG)  # doubles hold most integers; those that they do not are seen again
    if Kind.LIST in kinds:
        elements = _new_kinds((), seen.of_element())
        if len(elements) > 1:
            kinds = (kinds - {Kind.LIST}) | ({Kind.JSON} - present)
        elif not elements or Kind.JSON in kinds:
            kinds.discard(Kind.LIST)
    return [kind for kind in Kind if kind in kinds]


def _names(fields: Mapping[str, Place]) -> set[str]:
    return {_folded(column.name) for place in fields.values() for column in place}


def _folded(name: str) -> str:
    """Names that are equal so are equal to some engine."""
    return unicodedata.normalize("NFC", name).casefold()


def _clean(name: str) -> str:
    """A dot would be a path to half of the engines; what cannot be printed is of use to nobody."""
    return "".join("_" if character == "." or not character.isprintable() else character for character in name) or "_"


def _unused(name: str, names: set[str]) -> str:
    number, unused = 1, name
    while _folded(unused) in names:
        number += 1
        unused = f"{name}_{number}"
    return unused


def encode_columns(columns: TableColumns) -> bytes:
    return json.dumps(columns_as_json(columns), ensure_ascii=False, separators=(",", ":")).encode()


def decode_columns(data: bytes) -> TableColumns:
    """Raises Corrupt."""
    try:
        return columns_from_json(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"the columns of a table make no sense: {error!r}") from error


def columns_as_json(columns: TableColumns) -> dict[str, Any]:
    return {
        "version": VERSION,
        "next_id": columns.next_id,
        "declared": sorted(columns.declared),
        **{root: [_as_json(column) for column in columns.root(root)] for root in ROOTS},
    }


def columns_from_json(data: Mapping[str, Any]) -> TableColumns:
    """Raises ValueError, KeyError, TypeError, AttributeError."""
    if data["version"] != VERSION:
        raise ValueError(f"version {data['version']}; this program reads version {VERSION}")
    value, key = (tuple(map(_from_json, data[root])) for root in ROOTS)
    return TableColumns(value, key, frozenset(data["declared"]), int(data["next_id"]))


def _as_json(column: Column) -> dict[str, Any]:
    data: dict[str, Any] = {"id": column.field_id, "name": column.name, "kind": str(column.kind)}
    if column.fields:
        data["fields"] = {name: [_as_json(one) for one in place] for name, place in column.fields.items()}
    if column.element is not None:
        data["element"] = _as_json(column.element)
    return data


def _from_json(data: Mapping[str, Any]) -> Column:
    return Column(
        int(data["id"]),
        str(data["name"]),
        Kind(data["kind"]),
        {str(name): tuple(map(_from_json, place)) for name, place in data.get("fields", {}).items()},
        _from_json(data["element"]) if "element" in data else None,
    )


def paths(columns: TableColumns) -> Iterator[tuple[int, str]]:
    """(field id, place in the document) of every column, as documentation of a schema."""
    for root in ROOTS:
        for column in columns.root(root):
            yield from _paths(column, "$" if root == "value" else "$key")


def _paths(column: Column, at: str) -> Iterator[tuple[int, str]]:
    yield column.field_id, at
    for name, place in column.fields.items():
        for one in place:
            yield from _paths(one, f"{at}[{json.dumps(name, ensure_ascii=False)}]")
    if column.element is not None:
        yield from _paths(column.element, f"{at}[*]")
