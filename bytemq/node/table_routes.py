"""Tables and SQL over HTTP: what `bytemq table`, `bytemq sql` and `bytemq.connect` ask for.

Owns: the routes. Must not: do anything itself.

    GET  /tables                     names of the topics that may be tables, one object each
    GET  /tables/TOPIC               partitions, files, rows
    GET  /tables/TOPIC/files         the Parquet files of this moment
    POST /tables/TOPIC/build         converts all that is decided now, and returns when it is published
    POST /sql?format=F[&explain=1]   the body is one SELECT; F is csv, json, arrow or table
    GET  /sql/NAME                   why the answer with the header `bytemq-query: NAME` was cut off on its way
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import unquote

from bytemq.broker.http import Answer, Request, StreamedAnswer
from bytemq.errors import BytemqError, Invalid, NotFound
from bytemq.node.tables import Tables
from bytemq.protocol.error_codes import KafkaError
from bytemq.query.client import QUERY_HEADER
from bytemq.query.queries import Queries, Query
from bytemq.storage.manifests.manifest import FileKind
from bytemq.storage.tables.table_file import table_file

FORMATS = ("csv", "json", "arrow", "table")
JSON = "application/json"


class TableRoutes:
    def __init__(self, tables: Tables, queries: Queries) -> None:
        self._tables = tables
        self._queries = queries

    async def tables(self, request: Request) -> Answer:
        """/tables"""
        _, *path = request.path.strip("/").split("/")
        topic, action = (*map(unquote, path), "", "")[:2]
        try:
            if not topic and request.method == "GET":
                return _json([{"topic": name} for name in self._tables.topics()])
            if request.method == "POST" and action == "build":
                return _json((await self._tables.build(topic))._asdict())
            if request.method == "GET" and action in ("", "files"):
                described = await self._described(topic)
                return _json(described["files"] if action else described)
        except KafkaError as error:
            return Answer(404, f"{error.message}\n".encode())
        except BytemqError as error:
            return _refused(error)
        return Answer(404, b"not found; there are /tables /tables/TOPIC /tables/TOPIC/files /tables/TOPIC/build\n")

    async def sql(self, request: Request) -> Answer | StreamedAnswer:
        """/sql"""
        _, _, broken_off = request.path.strip("/").partition("/")
        if broken_off and request.method == "GET":
            error = self._queries.why_broken_off(broken_off)
            return Answer(404, b"not known to have been cut off\n") if error is None else _refused(error)
        form = request.query.get("format", "json")
        if request.method != "POST" or form not in FORMATS:
            return Answer(400, f"POST a SELECT to /sql?format=F, F one of {', '.join(FORMATS)}\n".encode())
        try:
            sql = request.body.decode()
        except UnicodeDecodeError:
            return Answer(400, b"the query is not UTF-8\n")
        name = secrets.token_hex(8)
        parts = self._result(Query(sql, form, "explain" in request.query, name))
        try:
            content_type = (await anext(parts)).decode()
            first = await anext(parts, b"")  # most queries that fail do so before
        except BytemqError as error:
            return _refused(error)
        except BaseException:
            await parts.aclose()
            raise
        return StreamedAnswer(content_type, _with_first(first, parts), [(QUERY_HEADER, name)])

    async def _result(self, query: Query) -> AsyncGenerator[bytes, None]:
        """The content type, then the bytes."""
        async with self._queries.run(query) as result:
            yield result.content_type.encode()
            async for part in result.parts:
                yield part

    async def _described(self, topic: str) -> dict[str, Any]:
        partitions: list[dict[str, Any]] = []
        files: list[dict[str, Any]] = []
        for partition in await self._tables.partitions_of(topic):
            log = partition.files
            tables = [info for info in log.manifest.segments if info.kind is FileKind.PARQUET]
            converted = [table_file(info) for info in tables]
            partitions.append(
                {
                    "partition": log.partition.index,
                    "log_start_offset": log.log_start_offset,
                    "stable_offset": partition.stable_offset,
                    "table_end_offset": tables[-1].last_offset + 1 if tables else log.log_start_offset,
                    "files": len(tables),
                    "rows": sum(table.records for table in converted),
                    "bytes": sum(table.parquet_bytes for table in converted),
                    "batches_kept_raw": sum(table.kept_raw for table in converted),
                    "invalid_records": sum(table.invalid for table in converted),
                    "left_out_values": sum(table.left_out for table in converted),
                    "retyped_values": sum(table.retyped for table in converted),
                }
            )
            files.extend(
                {
                    "partition": log.partition.index,
                    "file": info.name,
                    "first_offset": info.base_offset,
                    "last_offset": info.last_offset,
                    "rows": table.records,
                    "bytes": table.parquet_bytes,
                }
                for info, table in zip(tables, converted, strict=True)
            )
        return {"topic": topic, "partitions": partitions, "files": files}


async def _with_first(first: bytes, parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    try:
        yield first
        async for part in parts:
            yield part
    finally:
        await parts.aclose()


def _json(value: object) -> Answer:
    return Answer(200, json.dumps(value).encode() + b"\n", JSON)


def _refused(error: BytemqError) -> Answer:
    status = 404 if isinstance(error, NotFound) else 400 if isinstance(error, Invalid) else 503
    return Answer(status, f"{error}\n".encode())
