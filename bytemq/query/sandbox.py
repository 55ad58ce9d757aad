"""DuckDB with nothing but SELECT over what it was given.

Owns: the lock-down, and which tables and columns a statement names. Must not: know topics.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb


class Refused(Exception):
    """A statement that is not run. The message is for whoever wrote it."""


class NotNow(Refused):
    """The same statement may be run a moment later."""


class SandboxLimits(NamedTuple):
    memory_bytes: int
    threads: int
    temporary: Path
    """Where large sorts and joins may spill, and nothing else."""
    temporary_bytes: int


class Statement(NamedTuple):
    tables: list[str]
    """Names of tables, and of common table expressions."""
    columns: frozenset[str] | None
    """Whatever may be the name of a column that is read; None: all columns may be."""


def understood(connection: duckdb.DuckDBPyConnection, sql: str) -> Statement:
    """One SELECT, as any connection parses it. Raises Refused for any other statement."""
    [(answer,)] = connection.execute("select json_serialize_sql(?::varchar)", [sql]).fetchall()
    try:
        parsed = json.loads(answer)
    except RecursionError:
        raise Refused("the query is nested too deeply") from None
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
    nodes = list(_nodes(statements[0]))
    tables = [node for node in nodes if node.get("type") == "BASE_TABLE"]
    names = {str(node["table_name"]): None for node in tables if not node.get("schema_name")}
    relations = {
        str(name).casefold()
        for node in nodes
        if "class" not in node  # it is no expression
        for name in (node.get("table_name"), node.get("alias"))
        if name
    }
    reads_all = any(_may_read_all(node, relations) for node in nodes)
    texts = {value for node in nodes for value in _texts(node)}
    return Statement(list(names), None if reads_all else frozenset(texts))


_WHOLE_ROWS = ("STAR", "PIVOT", "SHOW_REF", "POSITIONAL_REFERENCE")
_RUN_SQL = ("query", "query_table")


def _may_read_all(node: dict[str, Any], relations: set[str]) -> bool:
    """Whether it may mean columns that it does not name: `*`, `t` as a row, columns by their places, ..."""
    path = (node.get("qualified_name") or {}).get("path") or ()
    qualifiers = (node.get("catalog"), node.get("schema"), *path[:-1])
    return (
        node.get("type") in _WHOLE_ROWS
        or node.get("ref_type") == "NATURAL"
        or bool(node.get("column_name_alias"))
        or node.get("function_name") in _RUN_SQL
        or any(str(name).casefold() in relations for name in (node.get("column_names") or ())[-1:])
        or ("function_name" in node and any(str(name).casefold() in relations for name in qualifiers if name))
    )


def _texts(node: dict[str, Any]) -> Iterator[str]:
    """A column can be named in many ways, `name.upper()` among them: whatever is text may be a name."""
    for value in node.values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from (one for one in value if isinstance(one, str))


def _nodes(root: Any) -> Iterator[dict[str, Any]]:
    pending = [root]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            yield node
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)


def limit(connection: duckdb.DuckDBPyConnection, limits: SandboxLimits) -> None:
    """Not locked yet: see `lock`."""
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


def lock(connection: duckdb.DuckDBPyConnection, files: Sequence[str]) -> None:
    """From here on these files can be read, and nothing else of the machine; no setting can be changed."""
    paths = ", ".join(map(_literal, files))
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
