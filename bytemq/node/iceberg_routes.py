"""A read-only Iceberg REST catalog: pyiceberg, Spark, DuckDB and others find every topic by the URL of the node alone.

Owns: the paths and the JSON of the catalog (Apache Iceberg's REST catalog specification, the part that reads). Must
not: change anything.

    GET /iceberg/v1/config
    GET /iceberg/v1/namespaces                            one: bytemq
    GET /iceberg/v1/namespaces/bytemq/tables              every topic
    GET /iceberg/v1/namespaces/bytemq/tables/TOPIC        the table as it is now
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from bytemq.broker.http import Answer, Request
from bytemq.errors import BytemqError, Invalid, NotFound
from bytemq.node.tables import Tables
from bytemq.protocol.error_codes import KafkaError
from bytemq.storage.tables.table_file import PUBLIC

NAMESPACE = "bytemq"
JSON = "application/json"
ENDPOINTS = [
    "GET /v1/{prefix}/namespaces",
    "GET /v1/{prefix}/namespaces/{namespace}",
    "HEAD /v1/{prefix}/namespaces/{namespace}",
    "GET /v1/{prefix}/namespaces/{namespace}/tables",
    "GET /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "HEAD /v1/{prefix}/namespaces/{namespace}/tables/{table}",
]


class IcebergRoutes:
    def __init__(self, tables: Tables, credentials: Mapping[str, str]) -> None:
        """`credentials`: for whoever asks, where the operator wants it so; never our own."""
        self._tables = tables
        self._credentials = credentials

    async def iceberg(self, request: Request) -> Answer:
        """/iceberg"""
        path = [unquote(part) for part in request.path.strip("/").split("/")][1:]
        if path[:1] != ["v1"]:
            return _error(404, "NotFoundException", "not found; the catalog is at /iceberg/v1")
        if request.method == "POST" and path[-1:] == ["metrics"]:
            return Answer(204, b"")
        if request.method not in ("GET", "HEAD"):
            return _error(
                405, "UnsupportedOperationException", "the catalog is read-only: topics are changed as topics"
            )
        try:
            return await self._answer(path[1:], request)
        except (KafkaError, Invalid, NotFound) as error:  # there is none, it is internal, or it went meanwhile
            return _error(404, "NoSuchTableException", str(error))
        except BytemqError as error:
            return _error(503, "ServiceUnavailableException", str(error))

    async def _answer(self, path: list[str], request: Request) -> Answer:
        match path:
            case ["config"]:
                return _json({"defaults": {}, "overrides": {}, "endpoints": ENDPOINTS})
            case ["namespaces"]:
                inside = request.query.get("parent")
                return _json({"namespaces": [] if inside else [[NAMESPACE]]})
            case ["namespaces", namespace, *_] if namespace != NAMESPACE:
                return _error(404, "NoSuchNamespaceException", f"the only namespace is {NAMESPACE}")
            case ["namespaces", _]:
                return _json({"namespace": [NAMESPACE], "properties": {}})
            case ["namespaces", _, "tables"]:
                topics = self._tables.topics()
                return _json({"identifiers": [{"namespace": [NAMESPACE], "name": topic} for topic in topics]})
            case ["namespaces", _, "views"]:
                return _json({"identifiers": []})
            case ["namespaces", _, "tables", topic]:
                return await self._table(topic, request.method)
        return _error(404, "NotFoundException", f"there is no /{'/'.join(path)}")

    async def _table(self, topic: str, method: str) -> Answer:
        metadata = await self._tables.iceberg_metadata(topic)
        if method == "HEAD":
            return Answer(204, b"")
        config: dict[str, str] = {}
        credentials = []
        if metadata.location.startswith("s3:"):
            config = _storage_config(os.environ) | {**self._credentials}
            # Of one alone DuckDB takes it that it is for the folder of the rows only.
            folders = PUBLIC if self._credentials else ()
            credentials = [{"prefix": f"{self._tables.url}/{folder}", "config": config} for folder in folders]
        about = json.dumps(
            {"metadata-location": metadata.location, "config": config, "storage-credentials": credentials}
        )
        return Answer(200, f'{about[:-1]}, "metadata": {metadata.text}}}'.encode(), JSON)


def _storage_config(environment: Mapping[str, str]) -> dict[str, str]:
    """Where an S3 server other than AWS is, as clients call it."""
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    found = {"client.region": region, "s3.region": region} if region else {}
    return found | ({"s3.endpoint": endpoint, "s3.path-style-access": "true"} if endpoint else {})


def _json(value: Any) -> Answer:
    return Answer(200, json.dumps(value).encode(), JSON)


def _error(status: int, kind: str, message: str) -> Answer:
    body = {"error": {"message": message, "type": kind, "code": status}}
    return Answer(status, json.dumps(body).encode(), JSON)
