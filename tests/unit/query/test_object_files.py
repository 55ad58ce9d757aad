"""Parquet files behind URLs, read by DuckDB in the sandbox: only what is needed, and only those."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bytemq.query import object_files
from bytemq.query.object_files import ObjectFiles, ObjectPlace, path_of
from bytemq.query.sandbox import SandboxLimits, limit, lock

ROWS = 40_000


class Server:
    """Objects by range. `fault` gives the status to answer with in place of the object, 0 for none."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.faults: list[int] = []
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                name, _, signature = self.path.strip("/").partition("?")
                outer.asked.append(name)
                status = outer.faults.pop() if outer.faults else 0
                if signature != "signed":
                    status = 403
                first, last = self.headers["Range"].removeprefix("bytes=").split("-")
                data = b"" if status else outer.objects[name][int(first) : int(last) + 1]
                self.send_response(status or 206)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def places(self, signature: str = "signed") -> dict[str, ObjectPlace]:
        address = f"http://127.0.0.1:{self._server.server_address[1]}"
        return {name: ObjectPlace(f"{address}/{name}?{signature}", len(data)) for name, data in self.objects.items()}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    objects = {}
    for number in range(3):
        first = number * ROWS
        table = pa.table({"offset": range(first, first + ROWS), "value": [f"{n:0100d}" for n in range(ROWS)]})
        pq.write_table(
            table, tmp_path / "t.parquet", row_group_size=ROWS // 4, compression="none", use_dictionary=False
        )
        objects[f"{number}.parquet"] = (tmp_path / "t.parquet").read_bytes()
    made = Server(objects)
    yield made
    made.close()


def locked(files: ObjectFiles, names: list[str], scratch: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    limit(connection, SandboxLimits(500_000_000, 2, scratch / "scratch", 1_000_000))
    connection.register_filesystem(files)
    lock(connection, list(map(path_of, names)))
    return connection


def listing(names: list[str]) -> str:
    return f"read_parquet({list(map(path_of, names))}, union_by_name = true)"


def test_files__are_read_as_far_as_a_query_needs_them(server: Server, tmp_path: Path) -> None:
    files, names = ObjectFiles(server.places()), list(server.objects)
    connection = locked(files, names, tmp_path)
    assert connection.execute(f"select count(*) from {listing(names)}").fetchall() == [(3 * ROWS,)]
    assert len(server.asked) == 3, "the ends, once"
    found = connection.execute(f'select value from {listing(names)} where "offset" = {ROWS + 7}').fetchall()
    assert found == [(f"{7:0100d}",)]
    assert files.read_bytes < sum(map(len, server.objects.values())) / 4
    whole = connection.execute(f'select count(*), sum("offset"), max(value) from {listing(names)}').fetchall()
    assert whole == [(3 * ROWS, sum(range(3 * ROWS)), f"{ROWS - 1:0100d}")]


def test_files__others_cannot_be_read(server: Server, tmp_path: Path) -> None:
    names = list(server.objects)
    connection = locked(ObjectFiles(server.places()), names[:1], tmp_path)
    for other in (path_of(names[1]), path_of("nothing"), str(tmp_path / "t.parquet")):
        with pytest.raises(duckdb.PermissionException):
            connection.execute(f"select count(*) from read_parquet('{other}')")


def test_files__a_store_that_is_busy_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.faults = [503, 500]
    files, names = ObjectFiles(server.places()), list(server.objects)
    server.faults = [429]
    connection = locked(files, names, tmp_path)
    assert connection.execute(f"select sum(length(value)) from {listing(names)}").fetchall() == [(300 * ROWS,)]
    assert not server.faults


def test_files__large_ranges_come_in_parts(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_files, "PART_BYTES", 1000)
    files = ObjectFiles(server.places())
    whole = server.objects["1.parquet"]
    with files.open(path_of("1.parquet")) as opened:
        opened.seek(123)
        assert opened.read(12_345) == whole[123 : 123 + 12_345]
        assert opened.tell() == 123 + 12_345
        opened.seek(-10, 2)
        assert opened.read() == whole[-10:]
        assert opened.read() == b""


def test_files__say_what_is_wrong_and_no_url(server: Server, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="status 403") as refused:
        ObjectFiles(server.places("forged"))
    assert "http" not in str(refused.value)
    files = ObjectFiles(server.places())
    server.faults = [404]
    connection = locked(files, ["0.parquet"], tmp_path)
    with pytest.raises(duckdb.Error, match="is gone") as gone:
        connection.execute(f"select sum(length(value)) from {listing(['0.parquet'])}").fetchall()
    assert "http" not in str(gone.value)
    assert str(files.failure) == "0.parquet is gone: the query took longer than replaced files stay"
