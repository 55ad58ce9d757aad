"""What tables answer over HTTP where there is nothing to be had."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from bytemq.broker.http import Answer, Request
from bytemq.errors import BytemqError, Invalid, NotFound, Unavailable
from bytemq.node.iceberg_routes import IcebergRoutes
from bytemq.node.table_routes import TableRoutes
from bytemq.node.tables import Tables


class Refusing:
    def __init__(self, error: BytemqError) -> None:
        self._error = error

    def topics(self) -> list[str]:
        return ["t"]

    async def iceberg_metadata(self, topic: str) -> Any:
        raise self._error


@pytest.mark.parametrize("path", ["/tables", "/tables/", "//tables", "tables"])
async def test_tables__are_listed_whatever_slashes_there_are(path: str) -> None:
    queries: Any = None
    routes = TableRoutes(cast(Tables, Refusing(Unavailable("now"))), queries)
    answer = await routes.tables(Request("GET", path, {}, b""))
    assert (answer.status, json.loads(answer.body)) == (200, [{"topic": "t"}])


@pytest.mark.parametrize(
    ("error", "status"),
    [(Invalid("it is internal"), 404), (NotFound("it was deleted"), 404), (Unavailable("now"), 503)],
)
async def test_iceberg__table_that_is_none_is_asked_for_once(error: BytemqError, status: int) -> None:
    """A client tries again after 503."""
    routes = IcebergRoutes(cast(Tables, Refusing(error)), {})
    answer = await routes.iceberg(Request("GET", "/iceberg/v1/namespaces/bytemq/tables/__consumer_offsets", {}, b""))
    assert isinstance(answer, Answer) and answer.status == status
