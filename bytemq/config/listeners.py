"""Listener addresses: Kafka's `listeners` and `advertised.listeners`, and the shorter form of our flags.

Owns the syntax NAME://HOST:PORT with its checks; it opens no socket and resolves no name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from bytemq.config.values import InvalidConfig

DEFAULT_LISTENER = "PLAINTEXT"
_ENDPOINT = re.compile(
    r"(?:(?P<name>[A-Za-z0-9_.-]+)://)?(?:\[(?P<six>[0-9A-Fa-f:.%]+)\]|(?P<host>[^\[\]:/]*)):(?P<port>-?[0-9]+)"
)
_ANY_ADDRESSES = ("", "0.0.0.0", "::")


class Endpoint(NamedTuple):
    listener: str
    """Upper case, as Kafka normalises it."""
    host: str
    """Empty or 0.0.0.0: every interface."""
    port: int
    """0 lets the system choose."""

    @property
    def is_any_address(self) -> bool:
        return self.host in _ANY_ADDRESSES

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.listener}://{host}:{self.port}"


def parse_endpoint(text: str, *, setting: str = "listeners") -> Endpoint:
    """One address, the listener name optional. Raises InvalidConfig."""
    match = _ENDPOINT.fullmatch(text.strip())
    if match is None:
        raise InvalidConfig(
            f"Invalid value {text} for configuration {setting}: an address is written HOST:PORT or NAME://HOST:PORT"
        )
    port = int(match["port"]) if len(match["port"]) < 8 else -1
    if not 0 <= port <= 65535:
        raise InvalidConfig(f"Invalid value {text} for configuration {setting}: the port must be between 0 and 65535")
    return Endpoint((match["name"] or DEFAULT_LISTENER).upper(), match["six"] or match["host"] or "", port)


def parse_listeners(texts: Iterable[str], *, setting: str = "listeners") -> tuple[Endpoint, ...]:
    """Addresses of different names and, where they bind, of different ports. Raises InvalidConfig with Kafka's
    message.
    """
    endpoints = tuple(parse_endpoint(text, setting=setting) for text in texts)
    shown = ",".join(map(str, endpoints))
    if len({endpoint.listener for endpoint in endpoints}) != len(endpoints):
        raise InvalidConfig(f"Each listener must have a different name, {setting}: {shown}")
    bound = [(endpoint.host, endpoint.port) for endpoint in endpoints if endpoint.port]
    if setting == "listeners" and len(set(bound)) != len(bound):
        raise InvalidConfig(f"Each listener must have a different port, {setting}: {shown}")
    if setting == "advertised.listeners":
        for endpoint in endpoints:
            if endpoint.host in ("0.0.0.0", "::"):
                raise InvalidConfig(
                    f"{setting} cannot use the nonroutable meta-address {endpoint.host}. Use a routable IP address."
                )
    return endpoints
