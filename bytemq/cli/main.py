"""The `bytemq` program: picks the command, turns failures into one sentence and an exit code.

Exit codes: 0 done, 1 failed (a sentence on standard error says why and what to do), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from bytemq import __version__
from bytemq.cli import (
    cluster,
    consume,
    copy,
    dev,
    doctor,
    dump,
    group,
    log_level,
    metadata,
    produce,
    sql,
    start,
    table,
    topic,
    verify,
)
from bytemq.cli.options import Failed, Parser
from bytemq.errors import BytemqError

_EXAMPLES = """\
examples:
  bytemq start                              a node on 127.0.0.1:9092 with its data in ./data
  bytemq topic create clicks --partitions 3
  echo 'hello' | bytemq produce clicks
  bytemq consume clicks --from-beginning --max-messages 1
  bytemq group describe my-group            offsets and lag of a group

Each command explains itself: bytemq COMMAND --help
"""


COMMANDS = (
    *(start, topic, produce, consume, group, table, sql),
    *(cluster, metadata, copy, doctor, dev, dump, verify, log_level),
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands. A command's namespace has `run`: what to call with it."""
    parser = Parser(
        prog="bytemq",
        description="A Kafka-compatible message broker that keeps no data of its own, and tools for any Kafka.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"bytemq {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = build_parser().parse_args(arguments)
    try:
        code: int | None = options.run(options)
        sys.stdout.flush()
        return code or 0
    except (Failed, BytemqError) as error:
        print(f"bytemq: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output is gone (`bytemq ... | head`): nothing is wrong, and nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
