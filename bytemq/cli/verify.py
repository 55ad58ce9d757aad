"""`bytemq verify`: is everything in a data folder as it was written?"""

from __future__ import annotations

import argparse
from pathlib import Path

from bytemq.cli.options import Commands, Failed

_DESCRIPTION = """\
Check every checksum, the continuity of offsets, and the index against the log in a node's data folder.
The node should not be running. Prints what is wrong, and what a crash left for the next
start to remove, which is not wrong; exit code 0 if nothing is wrong, 1 otherwise.
"""
_EXAMPLES = """\
examples:
  bytemq verify data
"""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "verify", help="check all data of a stopped node", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument("data", metavar="DATA", type=Path, help="the node's folder (--data of `bytemq start`)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from bytemq.storage.verify import verify

    if not options.data.is_dir():
        raise Failed(f"there is no folder {options.data}")
    found = 0
    for finding in verify(options.data):
        print(finding)
        found += not finding.is_leftover
    print(f"problems found: {found}" if found else "everything is as it was written")
    return 1 if found else 0
