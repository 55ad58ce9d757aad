"""The process of one query: `python -m bytemq.query.process FD`, started by `queries`.

Owns: the query from its text to its rows, and its own end: when the socket at file descriptor FD ends, it does. Must
not: outlive the broker, or be trusted by it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import resource
import shutil
import socket
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from bytemq.query.cuts import CutFile, Overtaken, PartitionCut
from bytemq.query.formats import CONTENT_TYPES, encoded
from bytemq.query.messages import LENGTHS, Message, decode, encode
from bytemq.query.object_files import ObjectFiles, ObjectPlace, path_of
from bytemq.query.relations import LogPart, Relations, TopicRelation
from bytemq.query.sandbox import NotNow, Refused, SandboxLimits, Statement, limit, lock, understood
from bytemq.runtime.child_process import parent
from bytemq.storage.tables.table_columns import Formats, Seen, TableColumns, columns_from_json

NICENESS = 5
BATCH_ROWS = 8192
URLS_AT_ONCE = 500
CUTS = 5
"""That are taken, one after the other, where what they name expires before it is read."""
THREAD_STACK_BYTES = 1024 * 1024
"""By default a thread promises itself 8 MiB of the limit below."""
OVERHEAD_BYTES = 512 * 1024 * 1024
"""Of the process beyond DuckDB's own limit: libraries, the tail in memory, the batch being encoded."""
NO_MEMORY = "the query needs more memory or scratch space than it may use (bytemq.sql.memory.bytes, .scratch.bytes)"
_OUT_OF_MEMORY = "Out of Memory Error"
_NO_TABLE = re.compile("Table with name (.+) does not exist")


class Broker:
    """The other end of the socket. Implements `relations.Source`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received: queue.Queue[Message] = queue.Queue()
        self._root = Path()
        self._is_local = True
        self._objects: ObjectFiles | None = None
        threading.Thread(target=self._receive, daemon=True).start()

    def first(self) -> dict[str, Any]:
        content = self._received.get().content
        self._root = Path(content["root"])
        self._is_local = bool(content["root"])
        return content

    def send(self, content: dict[str, Any], payload: bytes = b"") -> None:
        for part in encode(Message(content, payload)):
            self._connection.sendall(part)

    def cuts(self, topics: Sequence[str]) -> dict[str, list[PartitionCut]]:
        answer = self._ask({"ask": "cut", "topics": list(topics)}).content["cuts"]
        return {topic: [PartitionCut.from_json(cut) for cut in cuts] for topic, cuts in answer.items()}

    def columns(self, topic: str, seen: Mapping[str, Seen]) -> tuple[TableColumns, Formats]:
        question = {"ask": "columns", "topic": topic, "seen": {root: what.as_json() for root, what in seen.items()}}
        answer = self._ask(question).content
        return columns_from_json(answer["columns"]), Formats(**answer["formats"])

    def path(self, name: str) -> str:
        return str(self._root / name) if self._objects is None else path_of(name)

    def first_gone(self, cuts: Mapping[str, Sequence[PartitionCut]]) -> str | None:
        """A file of a folder that is there no more."""
        names = (file.name for topic_cuts in cuts.values() for cut in topic_cuts for file in cut.files)
        return next((name for name in names if not (self._root / name).exists()), None)

    def objects(self, files: Sequence[CutFile]) -> ObjectFiles | None:
        """How DuckDB is to read files that are in no folder of the machine; None: they are, or there are none."""
        if self._is_local or not files:
            return None
        urls: list[str] = []
        for start in range(0, len(files), URLS_AT_ONCE):
            names = [file.name for file in files[start : start + URLS_AT_ONCE]]
            urls += self._ask({"ask": "urls", "files": names}).content["urls"]
        places = zip(urls, files, strict=True)
        self._objects = ObjectFiles({file.name: ObjectPlace(url, file.size_bytes) for url, file in places})
        return self._objects

    def read(self, topic: str, partition: int, offset: int, end_offset: int) -> LogPart:
        answer = self._ask({"ask": "read", "topic": topic, "partition": partition, "offset": offset, "end": end_offset})
        return LogPart(memoryview(answer.payload), answer.content["next_offset"])

    def _ask(self, question: dict[str, Any]) -> Message:
        self.send(question)
        answer = self._received.get()
        if answer.content.get("overtaken"):
            raise Overtaken(answer.content["failed"])
        if "failed" in answer.content:
            raise (NotNow if answer.content.get("later") else Refused)(answer.content["failed"])
        return answer

    def _receive(self) -> None:
        """In a thread, so that the end of the broker, or its wish that this ends, is noticed in the middle of a
        query."""
        while True:
            prefix = self._exactly(LENGTHS.size)
            content_bytes, payload_bytes = LENGTHS.unpack(prefix)
            self._received.put(decode(self._exactly(content_bytes), self._exactly(payload_bytes)))

    def _exactly(self, size_bytes: int) -> bytes:
        parts = bytearray()
        while len(parts) < size_bytes:
            try:
                part = self._connection.recv(min(size_bytes - len(parts), 1 << 20))
            except OSError:
                part = b""
            if not part:
                os._exit(0)
            parts += part
        return bytes(parts)


def main() -> None:
    theirs = parent()
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    threading.stack_size(THREAD_STACK_BYTES)
    broker = Broker(theirs)
    connection = duckdb.connect()
    understood(connection, "select 1")
    request = broker.first()  # waits here, with all that takes time done, until there is a query
    scratch = Path(request["scratch"])
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        _limit(request["memory_bytes"])
        answer = _answer(broker, request, scratch, connection)
    except Refused as error:
        answer = {"failed": str(error), "later": isinstance(error, NotNow)}
    except (duckdb.Error, ValueError, OSError) as error:
        answer = {"failed": _sentence(error)}
    except MemoryError:
        answer = {"failed": NO_MEMORY}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    broker.send(answer)


def _limit(memory_bytes: int) -> None:
    most = memory_bytes + OVERHEAD_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _answer(
    broker: Broker, request: dict[str, Any], scratch: Path, connection: duckdb.DuckDBPyConnection
) -> dict[str, Any]:
    sql = request["sql"].strip().rstrip(";")
    statement = understood(connection, sql)
    for _ in range(CUTS):
        try:
            return _answer_from_a_cut(broker, sql, statement, request, scratch, connection)
        except Overtaken as error:  # before any row
            reason = str(error)
            connection = duckdb.connect()
    raise NotNow(reason)


def _answer_from_a_cut(
    broker: Broker,
    sql: str,
    statement: Statement,
    request: dict[str, Any],
    scratch: Path,
    connection: duckdb.DuckDBPyConnection,
) -> dict[str, Any]:
    cuts = broker.cuts(statement.tables)
    objects = broker.objects([file for topic_cuts in cuts.values() for cut in topic_cuts for file in cut.files])
    limits = SandboxLimits(request["memory_bytes"], request["threads"], scratch, request["scratch_bytes"])
    session = _Session(broker, limits, objects)
    answer = _explained if request["explain"] else _rows
    try:
        try:
            session.prepare(connection, cuts, statement.columns)
            return answer(session, sql, request)
        except (duckdb.BinderException, duckdb.CatalogException):  # before any row
            if not any(relation.is_partial for relation in session.relations):
                raise
        session.prepare(duckdb.connect(), cuts, None)  # it may name a field that no record had before
        return answer(session, sql, request)
    except duckdb.Error as error:
        if objects is not None and objects.failure is not None:
            raise Refused(str(objects.failure)) from error  # DuckDB would show a traceback
        if objects is None and (gone := broker.first_gone(cuts)):
            raise Refused(f"{gone} is gone: the query took longer than replaced files stay") from error
        raise


class _Session:
    """DuckDB with the topics of the query, locked."""

    def __init__(self, broker: Broker, limits: SandboxLimits, objects: ObjectFiles | None) -> None:
        self.broker = broker
        self.objects = objects
        self.relations: list[TopicRelation] = []
        self._limits = limits
        self._made = Relations(broker, limits.temporary, limits.temporary_bytes)

    def prepare(
        self,
        connection: duckdb.DuckDBPyConnection,
        cuts: Mapping[str, Sequence[PartitionCut]],
        wanted: Collection[str] | None,
    ) -> None:
        """In a fresh connection: once it is locked nothing can be added."""
        self.connection = connection
        self._made.clear()
        if self.objects is not None:
            connection.register_filesystem(self.objects)
        added = [self._made.add(connection, topic, parts, wanted) for topic, parts in cuts.items()]
        self.relations = [relation for relation, _ in added]
        limit(connection, self._limits._replace(temporary_bytes=self._made.left_bytes))
        lock(connection, [path for relation in self.relations for path in relation.files])
        for _, make_view in added:
            make_view()


def _rows(session: _Session, sql: str, request: dict[str, Any]) -> dict[str, Any]:
    form = request["format"]
    reader: pa.RecordBatchReader = session.connection.sql(sql).to_arrow_reader(BATCH_ROWS)
    session.broker.send({"content_type": CONTENT_TYPES[form]})
    rows = 0
    for count, data in encoded(reader.schema, _at_most(reader, request["max_rows"]), form):
        rows += count
        for start in range(0, len(data), 1 << 20):
            session.broker.send({"rows": count}, data[start : start + (1 << 20)])
    return {"done": {"rows": rows}}


def _batches(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """Raises duckdb.Error: pyarrow, which asks DuckDB for rows, has its errors as its own."""
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except OSError as error:
            kind = duckdb.OutOfMemoryException if str(error).startswith(_OUT_OF_MEMORY) else duckdb.Error
            raise kind(str(error)) from error
        yield batch


def _at_most(reader: pa.RecordBatchReader, rows: int) -> Iterator[pa.RecordBatch]:
    seen = 0
    for batch in _batches(reader):
        seen += batch.num_rows
        if seen > rows:
            raise Refused(f"the result has more than {rows} rows: add a LIMIT, or raise bytemq.sql.max.rows")
        yield batch


def _explained(session: _Session, sql: str, request: dict[str, Any]) -> dict[str, Any]:
    plan = session.connection.execute(f"explain analyze {sql}").fetchall()
    lines = []
    for relation in session.relations:
        lines.append(f"topic {relation.topic}")
        lines.append(
            f"  Parquet: {len(relation.files)} files, {relation.file_records} records, {relation.file_bytes} bytes"
        )
        lines.append(f"  log:     {relation.log_records} records, {relation.log_bytes} bytes of batches")
        if relation.kept_raw:
            lines.append(f"  left out: {relation.kept_raw} batches of the log whose records cannot be decoded")
        lines.extend(map(_described, relation.cuts))
    if session.objects is not None:
        lines.append(
            f"read from the storage: {session.objects.read_bytes} bytes in {session.objects.requests} requests"
        )
    lines.extend(row[-1] for row in plan)
    session.broker.send({"content_type": CONTENT_TYPES["table"]})
    session.broker.send({"rows": 0}, ("\n".join(lines) + "\n").encode())
    return {"done": {"rows": 0}}


def _described(cut: PartitionCut) -> str:
    ranges = ", ".join(f"{first} to {end - 1}" for first, end in cut.ranges) or "none"
    return (
        f"  partition {cut.partition}: offsets {cut.start_offset} to {cut.end_offset - 1}: {len(cut.files)} files, "
        f"log {ranges}"
    )


def _sentence(error: Exception) -> str:
    """What is shown of it: DuckDB's message without its kind, and in the words of topics."""
    if isinstance(error, duckdb.CatalogException) and (missing := _NO_TABLE.search(str(error))):
        return f"there is no topic {missing[1]}; `bytemq topic list` shows what there is"  # not what DuckDB has besides
    if isinstance(error, duckdb.OutOfMemoryException):
        return NO_MEMORY  # DuckDB's advice is for who can change its settings
    if not isinstance(error, duckdb.Error):
        return str(error)
    kind, _, message = str(error).partition(": ")
    return (message or kind).strip()


if __name__ == "__main__":
    main()
