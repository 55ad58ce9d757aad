"""Turns messages into bytes and back, as their schema says.

Owns the rules of versions: which fields are present, which are compact, which are tagged (KIP-482). For each struct and
version a plan, a tuple of functions, is made on first use and kept; there is no further look at the schema after that.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeVar, TypeVarTuple

from bytemq.protocol.primitives import DEFAULT_MAX_ELEMENTS, Buffer, MalformedMessage, Reader, Writer
from bytemq.protocol.schema import Field, Message, Struct, parse_versions

_Read = Callable[[Reader], Any]
_Write = Callable[[Writer, Any], None]
_Plan = TypeVar("_Plan", _Read, _Write)
_Key = TypeVarTuple("_Key")
_M = TypeVar("_M", bound=Message)


class UnsupportedVersion(ValueError):
    """The message says something that the version asked for cannot express. A bug of the caller, not of the peer."""


def decode(cls: type[_M], version: int, view: Buffer, *, max_elements: int = DEFAULT_MAX_ELEMENTS) -> _M:
    """Reads a message. Bytes that follow it are ignored, as Kafka does. Raises MalformedMessage.

    Fields of type bytes and records are views on `view`. `max_elements` bounds the elements of all arrays together.
    """
    message: _M = _message_reader(cls, version)(Reader(memoryview(view), max_elements=max_elements))
    return message


def encode(message: Message, version: int) -> bytearray:
    """Writes a message. Raises UnsupportedVersion when a field is set that the version lacks and may not be dropped."""
    writer = Writer()
    write(writer, message, version)
    return writer.buffer


def encode_in_parts(message: Message, version: int) -> list[Buffer]:
    """As `encode`, but bytes fields that are large stay where they are, and must not change."""
    parts: list[Buffer] = []
    writer = Writer(parts)
    write(writer, message, version)
    return [*parts, writer.buffer]


def write(writer: Writer, message: Message, version: int) -> None:
    """As `encode`, behind what the writer already holds."""
    _message_writer(type(message), version)(writer, message)


def encode_element(element: Struct, version: int, *, flexible: bool) -> bytes:
    """A struct as it stands in an array of a message of that version: for messages that are put together in slices."""
    writer = Writer()
    write_element(writer, element, version, flexible=flexible)
    return bytes(writer.buffer)


def write_element(writer: Writer, element: Struct, version: int, *, flexible: bool) -> None:
    """As `encode_element`, behind what the writer already holds."""
    _struct_writer(type(element), version, flexible)(writer, element)


def _made_once(make: Callable[[*_Key], _Plan]) -> Callable[[*_Key], _Plan]:
    """Keeps the plan of each (class, version, and for a struct whether flexible). There are a few thousand at most."""
    made: dict[tuple[*_Key], _Plan] = {}

    def get(*key: *_Key) -> _Plan:
        plan = made.get(key)
        if plan is None:
            plan = made[key] = make(*key)
        return plan

    return get


@_made_once
def _message_reader(cls: type[Message], version: int) -> _Read:
    return _struct_reader(cls, version, _is_flexible(cls, version))


@_made_once
def _message_writer(cls: type[Message], version: int) -> _Write:
    return _struct_writer(cls, version, _is_flexible(cls, version))


def _is_flexible(cls: type[Message], version: int) -> bool:
    """Raises UnsupportedVersion."""
    if not cls.VERSIONS.includes(version):
        raise UnsupportedVersion(f"{cls.__name__} has no version {version}")
    return cls.FLEXIBLE.includes(version)


# Reading


@_made_once
def _struct_reader(cls: type[Struct], version: int, flexible: bool) -> _Read:
    reads: list[_Read] = []  # one for each field, in the order of the constructor's arguments
    tagged: dict[int, tuple[str, _Read]] = {}
    for name, field in cls.FIELDS.items():
        if not parse_versions(field.versions).includes(version):
            reads.append(_default_reader(field))
        elif field.tag is not None:
            reads.append(_default_reader(field))
            tagged[field.tag] = (name, _field_reader(field, version, flexible))
        else:
            reads.append(_field_reader(field, version, flexible))
    plan = tuple(reads)

    def read(reader: Reader) -> Struct:
        return cls(*[read_field(reader) for read_field in plan])

    def read_flexible(reader: Reader) -> Struct:
        value = cls(*[read_field(reader) for read_field in plan])
        for _ in range(reader.read_tag_count()):
            tag = reader.read_unsigned_varint()
            size_bytes = reader.read_unsigned_varint()
            known = tagged.get(tag)
            if known is None:
                reader.skip(size_bytes)
            else:  # like the Java client we trust the field's own form over its declared size
                setattr(value, known[0], known[1](reader))
        return value

    return read_flexible if flexible else read


def _default_reader(field: Field) -> _Read:
    if field.default is None or (isinstance(field.type, str) and not field.is_array):
        default = field.default
        return lambda reader: default
    return lambda reader: field.make_default()


def _field_reader(field: Field, version: int, flexible: bool) -> _Read:
    nullable = parse_versions(field.nullable).includes(version)
    flexible = flexible and parse_versions(field.flexible).includes(version)
    if field.is_array:
        return _array_reader(_value_reader(field.type, version, flexible), nullable, flexible)
    if nullable and not isinstance(field.type, str):
        return _nullable_struct_reader(_value_reader(field.type, version, flexible), field.tag is not None)
    return _value_reader(field.type, version, flexible, nullable)


def _value_reader(of: str | type[Struct], version: int, flexible: bool, nullable: bool = False) -> _Read:
    if not isinstance(of, str):
        return _struct_reader(of, version, flexible)
    read: _Read = getattr(Reader, "read_" + _form_of(of, flexible, nullable))
    return read


def _form_of(primitive: str, flexible: bool, nullable: bool) -> str:
    if primitive not in ("string", "bytes"):
        return primitive
    return ("compact_" if flexible else "") + ("nullable_" if nullable else "") + primitive


def _array_reader(read_element: _Read, nullable: bool, flexible: bool) -> _Read:
    if nullable:
        read_length = Reader.read_compact_nullable_array_length if flexible else Reader.read_nullable_array_length
    else:
        read_length = Reader.read_compact_array_length if flexible else Reader.read_array_length

    def read(reader: Reader) -> list[Any] | None:
        count = read_length(reader)
        return None if count < 0 else [read_element(reader) for _ in range(count)]

    return read


def _nullable_struct_reader(read_struct: _Read, tagged: bool) -> _Read:
    """Null is a negative int8 in front of the struct; behind a tag, for no good reason, a varint of 0."""

    def read(reader: Reader) -> Any:
        return None if reader.read_int8() < 0 else read_struct(reader)

    def read_tagged(reader: Reader) -> Any:
        return None if reader.read_unsigned_varint() == 0 else read_struct(reader)

    return read_tagged if tagged else read


# Writing


@_made_once
def _struct_writer(cls: type[Struct], version: int, flexible: bool) -> _Write:
    plan: list[tuple[Callable[[Any], Any], _Write]] = []
    tagged: list[tuple[int, str, Any, _Write]] = []
    absent: list[tuple[str, Any]] = []
    for name, field in cls.FIELDS.items():
        if not parse_versions(field.versions).includes(version):
            if not field.ignorable:
                absent.append((name, field.make_default()))
        elif field.tag is not None:
            tagged.append((field.tag, name, field.make_default(), _field_writer(field, version, flexible)))
        else:
            plan.append((attrgetter(name), _field_writer(field, version, flexible)))
    tagged.sort(key=lambda entry: entry[0])

    def write_struct(writer: Writer, value: Any) -> None:
        for name, default in absent:
            if getattr(value, name) != default:
                raise UnsupportedVersion(f"{cls.__name__}.{name} is set, but version {version} lacks it")
        for get, write_field in plan:
            write_field(writer, get(value))
        if tagged:
            _write_tagged(writer, value, tagged)
        elif flexible:
            writer.write_unsigned_varint(0)

    return write_struct


def _write_tagged(writer: Writer, value: Any, tagged: list[tuple[int, str, Any, _Write]]) -> None:
    """Only what differs from its default, in the order of the tags."""
    present = [entry for entry in tagged if getattr(value, entry[1]) != entry[2]]
    writer.write_unsigned_varint(len(present))
    for tag, name, _, write_field in present:
        content = Writer()
        write_field(content, getattr(value, name))
        writer.write_unsigned_varint(tag)
        writer.write_unsigned_varint(len(content.buffer))
        writer.buffer += content.buffer


def _field_writer(field: Field, version: int, flexible: bool) -> _Write:
    nullable = parse_versions(field.nullable).includes(version)
    flexible = flexible and parse_versions(field.flexible).includes(version)
    if field.is_array:
        return _array_writer(_value_writer(field.type, version, flexible), nullable, flexible)
    if nullable and not isinstance(field.type, str):
        return _nullable_struct_writer(_value_writer(field.type, version, flexible), field.tag is not None)
    return _value_writer(field.type, version, flexible, nullable)


def _value_writer(of: str | type[Struct], version: int, flexible: bool, nullable: bool = False) -> _Write:
    if not isinstance(of, str):
        return _struct_writer(of, version, flexible)
    write_value: _Write = getattr(Writer, "write_" + _form_of(of, flexible, nullable))
    return write_value


def _array_writer(write_element: _Write, nullable: bool, flexible: bool) -> _Write:
    write_length = Writer.write_compact_array_length if flexible else Writer.write_array_length

    def write_array(writer: Writer, values: list[Any] | None) -> None:
        if values is None:
            if not nullable:
                raise UnsupportedVersion("null in an array that is not nullable in this version")
            write_length(writer, -1)
            return
        write_length(writer, len(values))
        for value in values:
            write_element(writer, value)

    return write_array


def _nullable_struct_writer(write_struct: _Write, tagged: bool) -> _Write:
    null = 0 if tagged else -1

    def write_nullable(writer: Writer, value: Any) -> None:
        writer.write_int8(null if value is None else 1)
        if value is not None:
            write_struct(writer, value)

    return write_nullable


# Data that carries its own version: keys and values of internal topics, the consumer protocol's blobs


_NUMBER_BYTES = 2


def encode_record(message: Message, version: int = 0) -> bytearray:
    """An int16, which is the record type of a key and the version of anything else, and the body."""
    writer = Writer()
    writer.write_int16(version if message.RECORD_TYPE is None else message.RECORD_TYPE)
    write(writer, message, version)
    return writer.buffer


def record_type(key: Buffer) -> int:
    """What kind of record a key of an internal topic belongs to: the RECORD_TYPE of the class to decode it with."""
    return _number_in_front(key)


def decode_record(cls: type[_M], data: Buffer, *, accept_newer: bool = False) -> _M:
    """The inverse of `encode_record`. Raises MalformedMessage, also for a version or a record type that `cls` is not.

    With `accept_newer` a version above ours is read as our highest: such is the contract of the consumer protocol.
    """
    number = _number_in_front(data)
    version = number if cls.RECORD_TYPE is None else 0
    if accept_newer and version > cls.VERSIONS.highest:
        version = cls.VERSIONS.highest
    if cls.RECORD_TYPE not in (None, number) or not cls.VERSIONS.includes(version):
        raise MalformedMessage(f"{number} in front is no {cls.__name__}")
    return decode(cls, version, memoryview(data)[_NUMBER_BYTES:])


def _number_in_front(data: Buffer) -> int:
    if len(data) < _NUMBER_BYTES:
        raise MalformedMessage(f"{len(data)} bytes are no record")
    return int.from_bytes(data[:_NUMBER_BYTES], "big", signed=True)
