"""`bytemq table`: topics as Parquet files: which there are, what they hold, and making them now."""

from __future__ import annotations

import argparse
from urllib.parse import quote

from bytemq.cli.http_options import add_http_option, connection
from bytemq.cli.options import Commands, Parser, add_json_option
from bytemq.cli.output import counted, show, show_json

_DESCRIPTION = """\
Every topic is a table: what is older than bytemq.table.after.ms becomes Parquet under tables/TOPIC/ in the
storage, and is there for consumers as before.
"""
_EXAMPLES = """\
examples:
  bytemq table build flights        all that is committed, now
  bytemq table describe flights
  bytemq table files flights        the exact list of this moment, for other engines
"""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("table", help="topics as Parquet", description=_DESCRIPTION, epilog=_EXAMPLES)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, parser_class=Parser)
    for name, run, text in (
        ("list", _list, "topics that are or may become tables"),
        ("describe", _describe, "how far each partition is converted"),
        ("files", _files, "the Parquet files of this moment"),
        ("build", _build, "convert all that is committed, and return when it is published"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        if name != "list":
            action.add_argument("topic", metavar="TOPIC")
        add_http_option(action)
        add_json_option(action)
        action.set_defaults(run=run)


def _list(options: argparse.Namespace) -> None:
    show(connection(options).get("/tables"), ("topic",), as_json=options.json)


def _describe(options: argparse.Namespace) -> None:
    described = connection(options).get(f"/tables/{quote(options.topic, safe='')}")
    columns: tuple[str, ...] = (
        "partition",
        "log_start_offset",
        "table_end_offset",
        "stable_offset",
        "files",
        "rows",
        "bytes",
    )
    exceptional = ("batches_kept_raw", "invalid_records", "left_out_values", "retyped_values")
    columns += tuple(name for name in exceptional if any(partition[name] for partition in described["partitions"]))
    show(described["partitions"], columns, as_json=options.json)


def _files(options: argparse.Namespace) -> None:
    files = connection(options).get(f"/tables/{quote(options.topic, safe='')}/files")
    show(files, ("partition", "first_offset", "last_offset", "rows", "bytes", "file"), as_json=options.json)


def _build(options: argparse.Namespace) -> None:
    built = connection(options).post(f"/tables/{quote(options.topic, safe='')}/build")
    if options.json:
        show_json(built)
        return
    conversions = counted(built["conversions"], "conversion")
    print(f"{options.topic}: {counted(built['records'], 'record')} in Parquet after {conversions}")
    if built["held_back"]:
        print(f"{counted(built['held_back'], 'offset')} held back by open transactions, or written since")
