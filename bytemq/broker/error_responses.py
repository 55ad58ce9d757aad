"""An error answer to any request, from the schemas of request and response alone.

Owns the convention: where the response has an error code of its own, that is set and all lists stay empty; else the
response's lists that can say a code mirror the request's (same topics, same partitions), with the code in each
innermost element. Handlers whose API wants something else export `error_response` (broker/dispatch.py).
"""

from typing import Any, TypeVar

from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.schema import Message, Struct, parse_versions

_M = TypeVar("_M", bound=Message)

_ALIASES = (
    frozenset({"name", "topic", "topic_name"}),
    frozenset({"partition", "partition_index"}),
    frozenset({"group_id", "key", "groups_names"}),
)
"""Kafka's requests and responses sometimes name one thing differently."""


def error_response(
    response_class: type[_M], request: Struct, version: int, code: ErrorCode, message: str | None = None
) -> _M:
    """A response that says `code` to everything that `request` asks; `message` None: Kafka's text."""
    response = response_class()
    _fill(response, request, version, code, message or code.message)
    return response


def _fill(target: Struct, source: object, version: int, code: ErrorCode, message: str) -> None:
    fields = {name: field for name, field in target.FIELDS.items() if parse_versions(field.versions).includes(version)}
    for name, field in fields.items():
        if name == "error_code":
            target.error_code = int(code)  # type: ignore[attr-defined]
        elif name == "error_message":
            target.error_message = message  # type: ignore[attr-defined]
        elif not field.is_array and isinstance(field.type, str):
            value = _named(source, name)
            if value is not None:
                setattr(target, name, value)
        elif (
            field.is_array and not isinstance(field.type, str) and "error_code" not in fields and _says_code(field.type)
        ):
            setattr(target, name, [_mirror(field.type, item, version, code, message) for item in _list(source, name)])


def _says_code(of: type[Struct]) -> bool:
    """Whether it or what is in it has an error code: brokers and endpoints have none, and are nobody's mirror."""
    nested = (field.type for field in of.FIELDS.values() if field.is_array and not isinstance(field.type, str))
    return "error_code" in of.FIELDS or any(map(_says_code, nested))


def _mirror(of: type[Struct], item: object, version: int, code: ErrorCode, message: str) -> Struct:
    element = of()
    if isinstance(item, Struct):
        _fill(element, item, version, code, message)
        return element
    # A bare name or number in the request: it is what the response's element is called by.
    _fill(element, None, version, code, message)
    for name, field in of.FIELDS.items():
        default = getattr(element, name)
        if name != "error_code" and not field.is_array and type(default) is type(item):
            setattr(element, name, item)
            break
    return element


def _named(source: object, name: str) -> Any:
    if source is None:
        return None
    value = getattr(source, name, None)
    if value is not None:
        return value
    for aliases in _ALIASES:
        if name in aliases:
            for alias in aliases:
                value = getattr(source, alias, None)
                if value is not None and not isinstance(value, list):
                    return value
    return None


def _list(source: object, name: str) -> list[Any]:
    """The request's list of the same name, else its first that is not empty."""
    if not isinstance(source, Struct):
        return []
    value = getattr(source, name, None)
    if isinstance(value, list):
        return value
    for other in source.FIELDS:
        value = getattr(source, other)
        if isinstance(value, list) and value:
            return value
    return []
