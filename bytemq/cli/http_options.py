"""What the commands share that talk to a node over HTTP."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bytemq.query.client import Connection

DEFAULT = "127.0.0.1:9464"
VARIABLE = "BYTEMQ_HTTP_LISTEN"


def add_http_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--http",
        metavar="HOST:PORT",
        default=os.environ.get(VARIABLE, DEFAULT),
        help=f"bytemq.http.listen of the node (default: {VARIABLE}, else {DEFAULT})",
    )


def connection(options: argparse.Namespace) -> Connection:
    """Raises Invalid for what is no address."""
    from bytemq.query.client import connect

    return connect(options.http)
