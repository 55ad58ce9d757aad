"""`bytemq metadata`: a cluster's metadata to a file and back. Owns these commands."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bytemq.cli.cluster import add_metadata_option, with_store
from bytemq.cli.options import Commands, Failed
from bytemq.cli.output import counted

if TYPE_CHECKING:
    from bytemq.metadata.store import MetadataStore

_EXAMPLES = """\
examples:
  bytemq metadata export --metadata etcd://127.0.0.1:2379/my-cluster > my-cluster.jsonl
  bytemq metadata restore --metadata etcd://127.0.0.1:2379/my-cluster my-cluster.jsonl

Restore with every broker stopped. What was acknowledged after the export is in storage; a broker that finds the storage
ahead of the metadata refuses to start and says so.
"""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "metadata", help="export a cluster's metadata, restore them", description="Metadata.", epilog=_EXAMPLES
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    export = actions.add_parser("export", help="write all metadata to a file", description="Write all metadata.")
    export.add_argument("file", metavar="FILE", nargs="?", help="where to (default: standard output)")
    restore = actions.add_parser("restore", help="put an export back", description="Put an export back.")
    restore.add_argument("file", metavar="FILE", help="what `bytemq metadata export` wrote")
    for action, run in ((export, run_export), (restore, run_restore)):
        add_metadata_option(action)
        action.set_defaults(run=run)


def run_export(options: argparse.Namespace) -> int | None:
    from bytemq.metadata import backup

    async def work(store: MetadataStore) -> None:
        lines = [f"{line}\n" for line in await backup.export(store)]
        if options.file is None:
            sys.stdout.writelines(lines)
            return
        _write(Path(options.file), lines)
        print(f"Exported {counted(len(lines) - 1, 'key')} to {options.file}.")

    return with_store(options, work)


def _write(path: Path, lines: list[str]) -> None:
    """Whole, or not at all: an export that was cut short must not take the place of a good one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise Failed(f"cannot write {path}: {error.strerror}") from error


def run_restore(options: argparse.Namespace) -> int | None:
    from bytemq.metadata import backup

    try:
        saved = backup.parse(Path(options.file).read_text().splitlines())
    except OSError as error:
        raise Failed(f"cannot read {options.file}: {error.strerror}") from error

    async def work(store: MetadataStore) -> None:
        await backup.restore(store, saved)
        print(f"Restored {counted(len(saved.entries), 'key')} of cluster {saved.cluster_id}. Start the brokers.")

    return with_store(options, work)
