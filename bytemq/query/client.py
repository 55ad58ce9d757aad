"""SQL over topics from Python: `bytemq.connect(...).sql(...)`.

Owns: talking to a node's HTTP address, and the results in the forms that Python programs use. Must not: import what
is heavy before it is asked for, or anything of the broker.

    import bytemq

    node = bytemq.connect()                     # http://127.0.0.1:9464
    node.sql("select count(*) from flights").to_polars()
"""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from bytemq.errors import BytemqError, Invalid, NotFound, Unavailable

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

DEFAULT_ADDRESS = "http://127.0.0.1:9464"
CHUNK_BYTES = 1 << 16
CONNECT_TIMEOUT_S = 5.0
QUERY_HEADER = "bytemq-query"
"""Names a query, whose rows come before anybody knows whether all of them will."""


class Connection:
    """The HTTP address of a node. Nothing is kept open: each question has a connection of its own."""

    def __init__(self, address: str) -> None:
        """`address`: http://HOST:PORT, or HOST:PORT. Raises Invalid."""
        try:
            parts = urlsplit(address if "//" in address else f"//{address}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or not port or parts.scheme not in ("", "http"):
            raise Invalid(f"{address!r} is no address of a node's HTTP; one is {DEFAULT_ADDRESS}")
        self._host, self._port = host, port

    def sql(self, query: str) -> Result:
        """A query, which runs anew each time that its result is asked for."""
        return Result(self, query)

    def get(self, path: str) -> Any:
        """What the node says at a path, decoded from JSON. Raises BytemqError."""
        with self.answer("GET", path) as response:
            return json.loads(response.read())

    def post(self, path: str) -> Any:
        """As `get`, after the node has done it."""
        with self.answer("POST", path) as response:
            return json.loads(response.read())

    @contextlib.contextmanager
    def answer(self, method: str, path: str, body: bytes = b"") -> Iterator[http.client.HTTPResponse]:
        """Raises Invalid with the node's own sentence, NotFound, Unavailable."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_TIMEOUT_S)
        query: str | None = None
        answers = False
        try:
            connection.connect()
            connection.sock.settimeout(None)  # a query takes as long as the node lets it
            connection.request(method, path, body)
            response = connection.getresponse()
            answers = True
            if response.status != http.client.OK:
                raise _error(response.status, response.read().decode("utf-8", "replace").strip())
            query = response.getheader(QUERY_HEADER)
            yield response
        except (http.client.HTTPException, OSError) as error:
            if query is not None:
                self._explain(query)
            if answers and isinstance(error, http.client.HTTPException):
                raise Unavailable(f"the node broke off its answer: {error!r}") from error
            where = f"{self._host}:{self._port}"
            raise Unavailable(f"no answer from {where}: {error}; is a node's bytemq.http.listen there?") from error
        finally:
            connection.close()

    def _explain(self, query: str) -> None:
        """Raises BytemqError with the node's own sentence about a query that broke off, if it has one."""
        with contextlib.suppress(NotFound):
            self.get(f"/sql/{query}")


class Result:
    """Of a query. Each method runs it."""

    def __init__(self, connection: Connection, query: str) -> None:
        self._connection = connection
        self._query = query

    def chunks(self, form: str, *, explain: bool = False) -> Iterator[bytes]:
        """The bytes of a form (csv, json, arrow, table) as they come. Raises BytemqError."""
        parameters = {"format": form, **({"explain": "1"} if explain else {})}
        path = f"/sql?{urlencode(parameters)}"
        with self._connection.answer("POST", path, self._query.encode()) as response:
            while chunk := response.read1(CHUNK_BYTES):
                yield chunk

    def explain(self) -> str:
        """What would be read from where, and what was."""
        return b"".join(self.chunks("table", explain=True)).decode()

    def rows(self) -> list[dict[str, Any]]:
        """As objects of Python, the way JSON has them; needs no other package."""
        return [json.loads(line) for line in b"".join(self.chunks("json")).splitlines()]

    def arrow(self) -> pyarrow.Table:
        import pyarrow

        return pyarrow.ipc.open_stream(b"".join(self.chunks("arrow"))).read_all()

    def to_pandas(self) -> pandas.DataFrame:
        return self.arrow().to_pandas()

    def to_polars(self) -> polars.DataFrame:
        import polars

        frame = polars.from_arrow(self.arrow())
        assert isinstance(frame, polars.DataFrame)
        return frame


def connect(address: str = DEFAULT_ADDRESS) -> Connection:
    """The node whose bytemq.http.listen is `address`."""
    return Connection(address)


def _error(status: int, sentence: str) -> BytemqError:
    if status == http.client.NOT_FOUND:
        return NotFound(sentence)
    return Invalid(sentence) if status < http.client.INTERNAL_SERVER_ERROR else Unavailable(sentence)
