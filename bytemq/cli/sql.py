"""`bytemq sql`: a SELECT over topics, from their first record to the one that was acknowledged just now."""

from __future__ import annotations

import argparse
import os
import sys

from bytemq.cli.http_options import add_http_option, connection
from bytemq.cli.options import Commands

_DESCRIPTION = """\
Run a SELECT (DuckDB's dialect) over topics. A topic is a table of its name with the columns "offset",
partition, timestamp, timestamp_ms, timestamp_type, key, value, headers, producer_id, producer_epoch,
sequence, transactional, leader_epoch. One query sees all that was committed when it began, each record once.
"""
_EXAMPLES = """\
examples:
  bytemq sql "select count(*) from flights"
  bytemq sql --format csv "select decode(key), decode(value) from flights where \\"offset\\" < 10"
  bytemq sql --explain "select max(timestamp) from flights where timestamp > now() - interval 1 hour"
"""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("sql", help="SQL over topics", description=_DESCRIPTION, epilog=_EXAMPLES)
    parser.add_argument("query", metavar="SELECT", help="- reads it from standard input")
    parser.add_argument("--format", choices=("table", "csv", "json", "arrow"), default="table", help="default: table")
    parser.add_argument("--explain", action="store_true", help="show what is read from where, not the rows")
    add_http_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    query = sys.stdin.read() if options.query == "-" else options.query
    result = connection(options).sql(query)
    sys.stdout.flush()
    for chunk in result.chunks(options.format, explain=options.explain):
        os.write(sys.stdout.fileno(), chunk)
