"""Messages with a value in every field, the same in every run: what the golden files were made from.

`messages` lists all classes. `full` and `bare` build two messages for any class and version, `as_json` their form for
Kafka's own JSON converters. `random_message` builds any other.
"""

from __future__ import annotations

import base64
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from random import Random
from typing import Any, TypeVar

from bytemq.protocol import messages as package
from bytemq.protocol.schema import Field, Message, Struct, parse_versions
from bytemq.types import format_topic_id

_S = TypeVar("_S", bound=Struct)

_LIMITS = {"int8": 7, "int16": 15, "int32": 31, "int64": 63, "uint16": 16}


def messages() -> list[type[Message]]:
    """Every message class of the package, requests and records alike, by name."""
    found: dict[str, type[Message]] = {}
    for module in pkgutil.iter_modules(package.__path__):
        for value in vars(import_module(f"{package.__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Message) and value is not Message:
                found[value.__name__] = value
    return [found[name] for name in sorted(found)]


def cases() -> Iterator[tuple[type[Message], int]]:
    """Every class at every version."""
    for cls in messages():
        for version in range(cls.VERSIONS.lowest, cls.VERSIONS.highest + 1):
            yield cls, version


class _Values:
    """A stream of values without a pattern that a mistake in the order of fields could hide in."""

    def __init__(self) -> None:
        self._state = 1

    def integer(self, bits: int) -> int:
        self._state = self._state * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
        return (self._state >> 16) % (1 << min(bits, 40)) or 1

    def of(self, kind: str) -> Any:
        if kind in _LIMITS:
            return self.integer(_LIMITS[kind])
        if kind == "bool":
            return True
        if kind == "float64":
            return self.integer(20) / 8
        if kind == "uuid":
            return self.integer(40).to_bytes(16, "big")
        if kind == "string":
            return f"Ω{self.integer(12)}"
        return self.integer(24).to_bytes(3, "big")


def full(cls: type[_S], version: int) -> _S:
    """Every field that the version has is set; lists of structs have two elements at the top and one below."""
    return _build(cls, version, _Values(), elements=2)


def _build(cls: type[_S], version: int, values: _Values, elements: int) -> _S:
    struct = cls()
    for name, field in cls.FIELDS.items():
        if parse_versions(field.versions).includes(version):
            setattr(struct, name, _value(field, version, values, elements))
    return struct


def _value(field: Field, version: int, values: _Values, elements: int) -> Any:
    kind = field.type
    if isinstance(kind, str):
        return [values.of(kind), values.of(kind)] if field.is_array else values.of(kind)
    if field.is_array:
        return [_build(kind, version, values, elements=1) for _ in range(elements)]
    return _build(kind, version, values, elements=1)


def bare(cls: type[Message], version: int) -> Message:
    """Every field is as small as it can be: null, empty, default."""
    message = cls()
    for name, field in cls.FIELDS.items():
        nullable = parse_versions(field.nullable).includes(version)
        if parse_versions(field.versions).includes(version) and nullable:
            setattr(message, name, None)
    return message


def as_json(struct: Struct, version: int) -> dict[str, Any]:
    """With Kafka's names, and only what the version has."""
    return {
        _camel_case(name): _json_value(getattr(struct, name), field, version)
        for name, field in struct.FIELDS.items()
        if parse_versions(field.versions).includes(version)
    }


def _camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _json_value(value: Any, field: Field, version: int) -> Any:
    if isinstance(value, list):
        return [_json_value(element, field, version) for element in value]
    if isinstance(value, Struct):
        return as_json(value, version)
    if field.type == "uuid":
        return format_topic_id(value)
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


_TEXTS = ("", "a", "topic", "日本語", "x" * 200, "\x00")


def random_message(cls: type[_S], version: int, random: Random) -> _S:
    """Any message that the version can express: all integers, empty and null where allowed, tagged fields or none."""
    struct = cls()
    for name, field in cls.FIELDS.items():
        if parse_versions(field.versions).includes(version) and not (field.tag is not None and random.random() < 0.4):
            setattr(struct, name, _random_value(field, version, random))
    return struct


def _random_value(field: Field, version: int, random: Random) -> Any:
    kind = field.type
    if parse_versions(field.nullable).includes(version) and random.random() < 0.3:
        return None
    if field.is_array:
        count = random.choice((0, 1, 1, 2, 3))
        return [_random_element(kind, version, random) for _ in range(count)]
    return _random_element(kind, version, random)


def _random_element(kind: str | type[Struct], version: int, random: Random) -> Any:
    if not isinstance(kind, str):
        return random_message(kind, version, random)
    if kind in _LIMITS:
        bits = _LIMITS[kind]
        lowest = 0 if kind == "uint16" else -(1 << bits)
        return random.choice((0, lowest, (1 << bits) - 1, random.randrange(lowest, 1 << bits)))
    if kind == "bool":
        return random.random() < 0.5
    if kind == "float64":
        return random.choice((0.0, -1.5, 1e300, random.random()))
    if kind == "uuid":
        return random.randbytes(16)
    if kind == "string":
        return random.choice(_TEXTS)
    return random.randbytes(random.choice((0, 1, 127, 128, 300)))
