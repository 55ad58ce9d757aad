"""Showing results: tables on a terminal, aligned text in a pipe, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

Row = Mapping[str, object]
_WIDEST = 10_000


def show(rows: Sequence[Row], columns: Sequence[str], *, as_json: bool, title: str | None = None) -> None:
    """Print rows; `columns` are their keys in order. As JSON it is a list of objects with exactly these keys."""
    if as_json:
        show_json([{column: row.get(column) for column in columns} for row in rows])
    elif sys.stdout.isatty():
        _show_table(rows, columns, title)
    else:
        _show_text(rows, columns)


def counted(count: int, what: str) -> str:
    """`1 record`, `2 records`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def show_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _show_table(rows: Sequence[Row], columns: Sequence[str], title: str | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        numeric = bool(rows) and all(isinstance(row.get(column), (int, float)) for row in rows)
        table.add_column(_heading(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row.get(column))) for column in columns))
    console = Console()
    if console.measure(table, options=console.options.update(max_width=_WIDEST)).maximum > console.width:
        _show_text(rows, columns)  # long lines wrap as the terminal likes; a table would break words in every column
    else:
        console.print(table)


def _show_text(rows: Sequence[Row], columns: Sequence[str]) -> None:
    lines = [[_heading(column) for column in columns]]
    lines += [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _heading(column: str) -> str:
    return column.replace("_", "-").upper()


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value)
