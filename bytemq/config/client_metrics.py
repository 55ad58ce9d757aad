"""The configs of a client metrics subscription (KIP-714) and the rules that they meet. Owns Kafka's
ClientMetricsConfigs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from bytemq.config.definitions import client_metrics_definitions
from bytemq.config.values import InvalidConfig, Value

LEAST_INTERVAL_MS = 100
MOST_INTERVAL_MS = 3_600_000
MATCHING_KEYS = frozenset(
    {
        "client_instance_id",
        "client_id",
        "client_software_name",
        "client_software_version",
        "client_source_address",
        "client_source_port",
    }
)
_MOST_PATTERN_CHARS = 1024


class UnknownClientMetricsConfig(InvalidConfig):
    """A name or interval for which Kafka answers INVALID_REQUEST, not INVALID_CONFIG."""


def check_client_metrics(configs: Mapping[str, str]) -> dict[str, Value]:
    """The typed values. Raises InvalidConfig with Kafka's message."""
    definitions = client_metrics_definitions()
    values: dict[str, Value] = {}
    for name, text in configs.items():
        if name not in definitions:
            raise UnknownClientMetricsConfig(f"Unknown client metrics configuration: {name}")
        values[name] = definitions[name].parse(text)
    interval_ms = values.get("interval.ms")
    if isinstance(interval_ms, int) and not LEAST_INTERVAL_MS <= interval_ms <= MOST_INTERVAL_MS:
        raise UnknownClientMetricsConfig(
            f"Invalid value {interval_ms} for interval.ms, interval must be between 100 and 3600000 (1 hour)"
        )
    patterns = values.get("match")
    for pattern in patterns if isinstance(patterns, tuple) else ():
        _check_pattern(pattern)
    return values


def _check_pattern(text: str) -> None:
    key, equals, pattern = text.partition("=")
    try:
        if not equals or key.strip() not in MATCHING_KEYS or len(pattern) > _MOST_PATTERN_CHARS:
            raise ValueError
        re.compile(pattern.strip())
    except (ValueError, re.error, OverflowError, RecursionError):
        raise InvalidConfig(f"Illegal client matching pattern: {text}") from None
