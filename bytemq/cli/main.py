"""The `bytemq` program: picks the command, turns failures into one sentence and an exit code.

Exit codes: 0 done, 1 failed (a sentence on standard error says why and what to do), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from bytemq import __version__
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
    *("start", "topic", "produce", "consume", "group", "table", "sql"),
    *("cluster", "metadata", "copy", "doctor", "dev", "dump", "verify", "log-level"),
)
"""In the order of the help. Each is a module of this package."""


def build_parser(commands: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser of these commands. A command's namespace has `run`: what to call with it."""
    parser = Parser(
        prog="bytemq",
        description="A Kafka-compatible message broker that keeps no data of its own, and tools for any Kafka.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"bytemq {__version__}")
    added = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    for command in commands:
        import_module(f"bytemq.cli.{command.replace('-', '_')}").add_parser(added)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    _open_closed_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    is_named = bool(arguments) and arguments[0] in COMMANDS
    options = build_parser(arguments[:1] if is_named else COMMANDS).parse_args(arguments)
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
        _write_nothing_more()
        return 0
    except OSError as error:
        print(f"bytemq: {error.filename or 'the output'}: {error.strerror or error}", file=sys.stderr)
        _write_nothing_more()
        return 1


def _open_closed_streams() -> None:
    """Those that whoever started us has closed (`>&-`) lead nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - until the process ends


def _write_nothing_more() -> None:
    """What is still in memory is written when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
