"""`bytemq dump`: what is in a file of the log, readable."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bytemq.cli.options import Commands, Failed

_DESCRIPTION = """\
Print what is in files of the write-ahead log and their indexes, in segments and in snapshots, for support. Reads only.
"""
_EXAMPLES = """\
examples:
  bytemq dump data/wal/*
  bytemq dump data/topics/*/0/*
"""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "dump",
        help="show what is in segment and log files",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
    )
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path, help="file of a node's data folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from bytemq.storage.checks.dump import dump
    from bytemq.storage.checks.verify import require_readable

    checked: set[Path] = set()
    for path in options.files:
        if not path.is_file():
            raise Failed(f"there is no file {path}")
        if path.parent not in checked:
            require_readable(path)
            checked.add(path.parent)
        if len(options.files) > 1 and not options.json:
            print(f"== {path}")
        for line in dump(path):
            print(json.dumps({"path": str(path), **line.facts}) if options.json else line.text)
    return 0
