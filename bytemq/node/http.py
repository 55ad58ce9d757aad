"""A node's HTTP port: metrics, health, tables, SQL and the Iceberg catalog.

Owns: what is answered at which path, and what a port that is taken means. Must not: answer anything itself.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack

from bytemq.broker.http import Answer, HttpServer, Request, Route
from bytemq.errors import Invalid
from bytemq.node import settings
from bytemq.node.foundation import Foundation
from bytemq.node.iceberg_routes import IcebergRoutes
from bytemq.node.table_routes import TableRoutes
from bytemq.node.tables import NOT_INSTALLED, Tables
from bytemq.runtime.logging import get_logger

log = get_logger("node")


async def start_http(
    parts: AsyncExitStack, base: Foundation, tables: Tables | None, not_ready: Callable[[], str | None]
) -> tuple[str, int] | None:
    """Where it listens; None: nowhere. `not_ready`: why health is bad, None when it is not. Raises Invalid."""
    config = base.config.now
    address = settings.http_address(config)
    if address is None:
        return None
    names = settings.http_names(config, socket.gethostname())
    http = HttpServer(base.metrics, not_ready, base.clock, _routes(parts, base, tables), names)
    parts.push_async_callback(http.stop)
    try:
        return await http.start(*address)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror  # asyncio's is long
        problem = (
            f"cannot listen on {address[0]}:{address[1]} for HTTP: {reason}. "
            "Choose another address with --set bytemq.http.listen=HOST:PORT, or none with an empty one."
        )
        if "bytemq.http.listen" in config.static:
            raise Invalid(problem) from error
        # Nobody asked for the default address: a second node on this machine is no reason not to start.
        log.warning("no metrics, no health and no SQL over HTTP", reason=problem)
        return None


def _routes(parts: AsyncExitStack, base: Foundation, tables: Tables | None) -> dict[str, Route]:
    if tables is None:
        return dict.fromkeys(("/tables", "/sql", "/iceberg"), _not_installed)
    queries = tables.queries(settings.sql_limits(base.config.now))
    parts.push_async_callback(queries.close)
    routes = TableRoutes(tables, queries)
    iceberg = IcebergRoutes(tables, settings.catalog_credentials(base.config.now))
    return {"/tables": routes.tables, "/sql": routes.sql, "/iceberg": iceberg.iceberg}


async def _not_installed(request: Request) -> Answer:
    return Answer(501, f"this node cannot: {NOT_INSTALLED}\n".encode())
