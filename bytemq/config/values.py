"""Config values: text to typed value and back, and the rules that a value must meet.

Owns what Java's ConfigDef does, message for message: parsing by type, validators, writing a value as text. It knows
no config by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from bytemq.errors import Invalid

Value = bool | int | float | str | tuple[str, ...] | None
"""A parsed value; None where Kafka has null."""


class ConfigType(IntEnum):
    """Type of a config, numbered as DescribeConfigs v3 and later send it."""

    UNKNOWN = 0
    BOOLEAN = 1
    STRING = 2
    INT = 3
    SHORT = 4
    LONG = 5
    DOUBLE = 6
    LIST = 7
    CLASS = 8
    PASSWORD = 9


class InvalidConfig(Invalid):
    """A value that a config does not take. The text is Kafka's."""


def invalid_value(name: str, value: object, why: str) -> InvalidConfig:
    """Kafka's ConfigException of three arguments."""
    return InvalidConfig(f"Invalid value {value} for configuration {name}: {why}")


_JAVA_WHITESPACE = "".join(map(chr, range(0x21)))
"""What String.trim() takes away."""
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(r"[+-]?(?:NaN|Infinity|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fFdD]?)")
_LIST_SEPARATOR = re.compile(r"[ \t\n\x0b\f\r]*,[ \t\n\x0b\f\r]*")
_BITS = {ConfigType.SHORT: 16, ConfigType.INT: 32, ConfigType.LONG: 64}


def parse_type(name: str, text: str, config_type: ConfigType) -> Value:
    """The value that `text` stands for. Raises InvalidConfig. Public for tests against Kafka's own parser."""
    trimmed = text.strip(_JAVA_WHITESPACE)
    if config_type is ConfigType.BOOLEAN:
        lowered = trimmed.lower()
        if lowered not in ("true", "false"):
            raise invalid_value(name, text, "Expected value to be either true or false")
        return lowered == "true"
    if config_type in _BITS:
        limit = 1 << (_BITS[config_type] - 1)
        # The pattern bounds what int() is given: 20 digits hold every 64-bit number, leading zeros apart.
        if _WHOLE_NUMBER.fullmatch(trimmed) is None or len(trimmed) > 64 or not -limit <= int(trimmed) < limit:
            raise invalid_value(name, text, f"Not a number of type {config_type.name}")
        return int(trimmed)
    if config_type is ConfigType.DOUBLE:
        if _DECIMAL.fullmatch(trimmed) is None:
            raise invalid_value(name, text, "Not a number of type DOUBLE")
        return float(trimmed.rstrip("fFdD") if trimmed[-1:] in "fFdD" else trimmed)
    if config_type is ConfigType.LIST:
        return tuple(_LIST_SEPARATOR.split(trimmed)) if trimmed else ()
    return trimmed


def parse(name: str, text: str, config_type: ConfigType, validator: Mapping[str, Any] | None) -> Value:
    """Parse and validate. Raises InvalidConfig with Kafka's message."""
    value = parse_type(name, text, config_type)
    if validator is not None:
        if validator["kind"] == "list" and isinstance(value, tuple):
            value = tuple(dict.fromkeys(value))  # KIP-1161: duplicates are dropped
        validate(name, value, validator)
    return value


def to_text(value: Value) -> str | None:
    """The value as Kafka's ConfigDef writes it: lists with commas, doubles as Java prints them."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return java_double(value)
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value)


def java_double(value: float) -> str:
    """Java's Double.toString."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(value)
    mantissa, exponent = _shortest(value)
    return f"{mantissa}E{exponent}"


def _shortest(value: float) -> tuple[str, int]:
    """Mantissa with one digit before the point, and the exponent, of the shortest text that reads back as `value`."""
    digits, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = digits.partition(".")
    leading_zeros = len(whole + fraction) - len((whole + fraction).lstrip("0"))
    significant = (whole + fraction).strip("0")
    sign = "-" if value < 0 else ""
    return f"{sign}{significant[0]}.{significant[1:] or '0'}", int(exponent or 0) + len(whole) - 1 - leading_zeros


def validate(name: str, value: Value, validator: Mapping[str, Any]) -> None:
    """Check a parsed value against one validator of definitions.json. Raises InvalidConfig with Kafka's message."""
    kind = validator["kind"]
    if kind == "range":
        _validate_range(name, value, validator["min"], validator["max"])
    elif kind == "one_of":
        if value not in validator["values"]:
            raise invalid_value(name, value, f"String must be one of: {', '.join(validator['values'])}")
    elif kind == "one_of_ignoring_case":
        if str(value).upper() not in validator["values"]:
            message = f"String must be one of (case insensitive): {', '.join(validator['values'])}"
            raise invalid_value(name, value, message)
    elif kind == "list":
        _validate_list(name, value, validator)
    elif kind == "non_empty":
        if value == "":
            raise invalid_value(name, value, "String must be non-empty")
    elif kind == "gzip_level":
        if not isinstance(value, int) or not (value == -1 or 1 <= value <= 9):
            raise invalid_value(name, value, "Value must be between 1 and 9 or equal to -1")
    elif kind == "throttled_replicas":
        _validate_throttled_replicas(name, value)
    elif kind == "share_offset_reset":
        _validate_share_offset_reset(name, value)
    else:
        raise ValueError(f"unknown validator {kind!r}")


def _validate_range(name: str, value: Value, least: float | None, most: float | None) -> None:
    if not isinstance(value, (int, float)):
        return
    shown = to_text(value)
    if least is not None and value < least:
        raise invalid_value(name, shown, f"Value must be at least {to_text(least)}")
    if most is not None and value > most:
        raise invalid_value(name, shown, f"Value must be no more than {to_text(most)}")


def _validate_list(name: str, value: Value, validator: Mapping[str, Any]) -> None:
    allowed = validator["values"]
    if not isinstance(value, tuple):
        return
    if not value and not validator["empty"]:
        valid = f"[{', '.join(allowed)}]" if allowed else "any non-empty value"
        raise InvalidConfig(f"Configuration '{name}' must not be empty. Valid values include: {valid}")
    for item in value:
        if not item:
            raise InvalidConfig(f"Configuration '{name}' values must not be empty.")
        if allowed and item not in allowed:
            raise invalid_value(name, item, f"String must be one of: {', '.join(allowed)}")


_THROTTLED_REPLICA = re.compile(r"[0-9]+:[0-9]+")


def _validate_throttled_replicas(name: str, value: Value) -> None:
    items = value if isinstance(value, tuple) else ()
    if items in ((), ("*",)) or not any(items) or all(_THROTTLED_REPLICA.fullmatch(item) for item in items):
        return
    why = (
        f"{name} must be the literal '*' or a list of replicas in the following format: "
        "[partitionId]:[brokerId],[partitionId]:[brokerId],..."
    )
    raise invalid_value(name, f"[{', '.join(items)}]", why)


_DURATION = re.compile(
    r"([+-])?P(?:([+-]?[0-9]+)D)?(T(?:([+-]?[0-9]+)H)?(?:([+-]?[0-9]+)M)?(?:([+-]?[0-9]+)(?:[.,]([0-9]{0,9}))?S)?)?",
    re.IGNORECASE,
)


def duration_ms(text: str) -> int | None:
    """Milliseconds of an ISO-8601 duration as Java's Duration.parse reads it ("P1DT2H"), None if it is none."""
    match = _DURATION.fullmatch(text)
    if match is None or len(text) > 128 or text[-1:] in "PpTt":
        return None
    sign, days, _, hours, minutes, seconds, fraction = match.groups()
    total = int(days or 0) * 86_400_000 + int(hours or 0) * 3_600_000 + int(minutes or 0) * 60_000
    part = int((fraction or "").ljust(3, "0")[:3])
    total += int(seconds or 0) * 1000 + (-part if (seconds or "").startswith("-") else part)
    return -total if sign == "-" else total


def _validate_share_offset_reset(name: str, value: Value) -> None:
    text = str(value)
    duration = duration_ms(text.removeprefix("by_duration:")) if text.startswith("by_duration:") else None
    if text in ("earliest", "latest") or (duration is not None and duration >= 0):
        return
    why = (
        f"Invalid value `{text}` for configuration {name}. "
        "The value must be either 'earliest', 'latest' or of the format 'by_duration:<PnDTnHnMn.nS>'."
    )
    raise invalid_value(name, text, why)
