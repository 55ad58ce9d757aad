"""DuckDB with nothing but SELECT over what it was given.

Owns: the lock-down, and which tables a statement names. Must not: know topics.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb


class Refused(Exception):
    """A statement that is not run. The message is for whoever wrote it."""


class SandboxLimits(NamedTuple):
    memory_bytes: int
    threads: int
    temporary: Path
    """Where large sorts and joins may spill, and nothing else."""
    temporary_bytes: int


def tables_named(sql: str) -> list[str]:
    """The names of tables (and common table expressions) in one SELECT. Raises Refused for any other statement."""
    connection = duckdb.connect()
    try:
        (answer,) = connection.execute("select json_serialize_sql(?::varchar)", [sql]).fetchone() or ("{}",)
    finally:
        connection.close()
    parsed = json.loads(answer)
    if parsed.get("error"):
        problem = str(parsed.get("error_message", "not understood"))
        if parsed.get("error_type") == "not implemented":
            problem = "only SELECT is allowed"
        elif re.search(r"(?i)(?<![\w\"])offset(?![\w\"])", sql):
            problem += '; offset is a reserved word: write "offset"'
        raise Refused(problem)
    statements = parsed.get("statements", [])
    if len(statements) != 1:
        raise Refused(f"one SELECT is allowed, not {len(statements)} statements")
    found: dict[str, None] = {}
    _collect(statements[0], found)
    return list(found)


def _collect(node: Any, found: dict[str, None]) -> None:
    pending = [node]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            if node.get("type") == "BASE_TABLE" and not node.get("schema_name"):
                found[str(node["table_name"])] = None
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)


def connect(limits: SandboxLimits) -> duckdb.DuckDBPyConnection:
    """Not locked yet: see `lock`."""
    connection = duckdb.connect()
    for name, value in (
        ("memory_limit", f"{limits.memory_bytes // 1_000_000}MB"),
        ("threads", limits.threads),
        ("temp_directory", str(limits.temporary)),
        ("max_temp_directory_size", f"{limits.temporary_bytes // 1_000_000}MB"),
        ("preserve_insertion_order", False),
        ("python_enable_replacements", False),
        ("autoinstall_known_extensions", False),
        ("autoload_known_extensions", False),
        ("allow_community_extensions", False),
        ("TimeZone", "UTC"),
    ):
        connection.execute(f"set {name} = {_literal(value)}")
    return connection


def lock(connection: duckdb.DuckDBPyConnection, files: Sequence[Path]) -> None:
    """From here on these files can be read, and nothing else of the machine; no setting can be changed."""
    paths = ", ".join(_literal(str(path)) for path in files)
    connection.execute(f"set allowed_paths = [{paths}]")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"


literal = _literal
