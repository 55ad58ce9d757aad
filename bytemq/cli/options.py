"""What the commands share: the look of their help, the options of all that talk to a server, and how they fail."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

DEFAULT_BOOTSTRAP_SERVER = "127.0.0.1:9092"
BOOTSTRAP_VARIABLE = "BYTEMQ_BOOTSTRAP_SERVER"

Commands = Any
"""argparse's private class of `add_subparsers`."""


class Failed(Exception):
    """The command cannot do what was asked; the text tells the user why and what to do."""


class Parser(argparse.ArgumentParser):
    """Keeps descriptions and examples as they are written."""

    def __init__(self, **arguments: Any) -> None:
        arguments.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        arguments.setdefault("allow_abbrev", False)
        super().__init__(**arguments)


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """--bootstrap-server and --command-config, as Kafka's tools have them."""
    default = os.environ.get(BOOTSTRAP_VARIABLE, DEFAULT_BOOTSTRAP_SERVER)
    parser.add_argument(
        "--bootstrap-server",
        metavar="HOST:PORT",
        default=default,
        help=f"server to connect to (default: {BOOTSTRAP_VARIABLE}, else {DEFAULT_BOOTSTRAP_SERVER})",
    )
    parser.add_argument(
        "--command-config", metavar="FILE", help="properties of the client, in librdkafka's names (security and so on)"
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Type of an option that takes a whole number from `least` to `most`; anything else is wrong usage."""
    wanted = f"a whole number, {least} or more" if most is None else f"a whole number from {least} to {most}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return parse


def seconds(text: str) -> float:
    """Type of an option that takes a span of time; anything else is wrong usage."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")
    return value


def assignments(texts: list[str]) -> dict[str, str]:
    """NAME=VALUE texts as a dictionary. Raises Failed."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise Failed(f"{text!r} is not of the form NAME=VALUE")
        found[name.strip()] = value
    return found
