"""Prints every row of a topic's table as DuckDB reads it, as `shaped_topic` says.

A program for an environment of its own: extensions are published for some versions of DuckDB only.

Arguments: the URL of the catalog, the topic, a glob of its files, and options of `create secret` where DuckDB is to use
its own credentials for S3, and not what the catalog tells.
"""

from __future__ import annotations

import base64
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import duckdb

EXTENSIONS = ("avro", "httpfs", "iceberg")


def main(catalog: str, topic: str, pattern: str, secret: str = "") -> None:
    connection = duckdb.connect()
    for name in EXTENSIONS:
        package = importlib.import_module(f"duckdb_extension_{name}")
        file = Path(str(package.__path__[0])) / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
        connection.execute(f"load '{file}'")
    connection.execute("set TimeZone = 'UTC'")
    options = f"type iceberg, endpoint '{catalog}', authorization_type 'none'"
    if secret:
        connection.execute(f"create secret (type s3, {secret})")
        options += ", access_delegation_mode 'none'"
    connection.execute(f"attach 'bytemq' as node ({options})")
    show("iceberg", connection, f'node.bytemq."{topic}"')
    if pattern != "-":
        show("parquet", connection, f"read_parquet('{pattern}', union_by_name = true)")


def show(reader: str, connection: duckdb.DuckDBPyConnection, table: str) -> None:
    sums = connection.execute(f'select count(*), sum("offset"), sum(timestamp_ms) from {table}').fetchone()
    print("sums", reader, *map(int, sums or ()), sep="\t")
    found = connection.execute(f"select * exclude (timestamp) from {table}")
    names = [column[0] for column in found.description]
    for row in found.fetchall():
        print("row", reader, json.dumps(plain(dict(zip(names, row, strict=True)))), sep="\t")


def plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items() if one is not None}
    return [plain(one) for one in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main(*sys.argv[1:])
