"""Messages as data: what a field is on the wire, and in which versions.

Owns the vocabulary in which the modules of `bytemq.protocol.messages` are written, that of Kafka's message definitions
(https://github.com/apache/kafka/blob/trunk/clients/src/main/resources/common/message/README.md):

    @wire.struct
    class MetadataResponseBroker(wire.Struct):
        node_id: int = wire.int32("0+")
        rack: str | None = wire.string("1+", nullable="1+", default=None, ignorable=True)

The result is a dataclass with slots whose every field has a default. Nothing here reads or writes bytes: see `codec`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar, NamedTuple, TypeVar, dataclass_transform

from bytemq.protocol.primitives import Buffer as Buffer
from bytemq.types import ZERO_TOPIC_ID


class Versions(NamedTuple):
    """An inclusive range of versions; empty when `highest` is below `lowest`."""

    lowest: int
    highest: int

    def includes(self, version: int) -> bool:
        return self.lowest <= version <= self.highest


@cache
def parse_versions(text: str) -> Versions:
    """The range that "3", "1-3", "3+" or "none" stands for."""
    if text == "none":
        return Versions(0, -1)
    if text.endswith("+"):
        return Versions(int(text[:-1]), 0x7FFF)
    lowest, _, highest = text.partition("-")
    return Versions(int(lowest), int(highest or lowest))


class Field(NamedTuple):
    """One field of a struct. The ranges are kept as text until a codec needs them: most versions are never spoken."""

    type: str | type[Struct]
    """A primitive type by Kafka's name, or the class of a nested struct."""
    versions: str
    default: Any
    """The default itself; of a list, always the empty one or None."""
    is_array: bool = False
    nullable: str = "none"
    tag: int | None = None
    """Of a tagged field (KIP-482). In Kafka 4.4 each such field is tagged in all versions that have it."""
    ignorable: bool = False
    """Whether a value that the version has no room for is dropped in silence."""
    flexible: str = "0+"
    """Where the field follows the message's flexible versions; else it keeps the old form (client id)."""

    def make_default(self) -> Any:
        """The value that the field has when nobody sets it, or when the version lacks it."""
        if self.default is not None and self.is_array:
            return []
        if self.default is not None and not isinstance(self.type, str):
            return self.type()
        return self.default


class Struct:
    """What all structs have: fields, equality by value, and a readable form."""

    __slots__ = ()
    FIELDS: ClassVar[Mapping[str, Field]] = {}

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.FIELDS)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.FIELDS)})"


class Message(Struct):
    """A request, a response, or the key or value of a record of an internal topic."""

    __slots__ = ()
    API_KEY: ClassVar[int | None] = None
    """The API of a request or response."""
    RECORD_TYPE: ClassVar[int | None] = None
    """Of a record's key: the number in front of it that tells the kinds of records of an internal topic apart."""
    VERSIONS: ClassVar[Versions] = Versions(0, -1)
    FLEXIBLE: ClassVar[Versions] = Versions(0, -1)


_S = TypeVar("_S", bound=Struct)
_M = TypeVar("_M", bound=Message)


@dataclass_transform()
def struct(cls: type[_S]) -> type[_S]:
    """Makes a dataclass with slots of a class whose attributes are fields as declared below."""
    fields: dict[str, Field] = {name: vars(cls)[name] for name in cls.__annotations__}
    for name, field in fields.items():
        mutable = field.default is not None and (field.is_array or not isinstance(field.type, str))
        setattr(cls, name, dataclasses.field(default_factory=field.make_default) if mutable else field.default)
    cls.FIELDS = fields
    return dataclasses.dataclass(slots=True, eq=False, repr=False)(cls)


@dataclass_transform()
def message(
    *, versions: str, flexible: str, api_key: int | None = None, record_type: int | None = None
) -> Callable[[type[_M]], type[_M]]:
    """As `struct`, for the outermost struct of a message, which alone knows the valid and the flexible versions."""

    def decorate(cls: type[_M]) -> type[_M]:
        cls.API_KEY = api_key
        cls.RECORD_TYPE = record_type
        cls.VERSIONS = parse_versions(versions)
        cls.FLEXIBLE = parse_versions(flexible)
        return struct(cls)

    return decorate


# The functions below declare a field. They return Any so that an annotation can give the type of the attribute.


def int8(versions: str, *, default: int = 0, **options: Any) -> Any:
    return Field("int8", versions, default, **options)


def int16(versions: str, *, default: int = 0, **options: Any) -> Any:
    return Field("int16", versions, default, **options)


def int32(versions: str, *, default: int = 0, **options: Any) -> Any:
    return Field("int32", versions, default, **options)


def int64(versions: str, *, default: int = 0, **options: Any) -> Any:
    return Field("int64", versions, default, **options)


def uint16(versions: str, *, default: int = 0, **options: Any) -> Any:
    return Field("uint16", versions, default, **options)


def float64(versions: str, *, default: float = 0.0, **options: Any) -> Any:
    return Field("float64", versions, default, **options)


def boolean(versions: str, *, default: bool = False, **options: Any) -> Any:
    return Field("bool", versions, default, **options)


def uuid(versions: str, *, default: bytes = ZERO_TOPIC_ID, **options: Any) -> Any:
    return Field("uuid", versions, default, **options)


def string(versions: str, *, default: str | None = "", **options: Any) -> Any:
    return Field("string", versions, default, **options)


def binary(versions: str, *, default: bytes | None = b"", **options: Any) -> Any:
    """A field of Kafka's type bytes or records."""
    return Field("bytes", versions, default, **options)


def array(element: str | type[Struct], versions: str, *, default: tuple[()] | None = (), **options: Any) -> Any:
    """A list of a primitive type, given by its name, or of structs."""
    return Field(element, versions, default, is_array=True, **options)


def nested(element: type[Struct], versions: str, *, default: tuple[()] | None = (), **options: Any) -> Any:
    """A struct within the struct, never null unless the default is None."""
    return Field(element, versions, default, **options)
