"""`bytemq metadata`: a cluster's metadata to a file and back. Owns these commands."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bytemq.cli.metadata_access import add_metadata_option, with_store
from bytemq.cli.options import Commands, Failed
from bytemq.cli.output import counted

if TYPE_CHECKING:
    from bytemq.metadata.backup import Backup
    from bytemq.metadata.store import MetadataStore

SESSIONS_END_S = 20.0
"""Leases in a snapshot of etcd begin anew when it is put back."""

_EXAMPLES = """\
examples:
  bytemq metadata export --metadata etcd://127.0.0.1:2379/my-cluster > my-cluster.jsonl
  bytemq metadata restore --metadata etcd://127.0.0.1:2379/my-cluster --storage s3://bucket/prefix
  bytemq metadata restore --metadata etcd://127.0.0.1:2379/my-cluster my-cluster.jsonl

Restore with every broker stopped. With --storage the newest export in the storage is taken (the controller makes one
every few minutes), or FILE, and what was acknowledged since is found in the write-ahead logs; nothing that is found
comes to have an id that was used since. Metadata of nodes that share no storage are those of FILE.
"""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "metadata", help="export a cluster's metadata, restore them", description="Metadata.", epilog=_EXAMPLES
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    export = actions.add_parser("export", help="write all metadata to a file", description="Write all metadata.")
    export.add_argument("file", metavar="FILE", nargs="?", help="where to (default: standard output)")
    restore = actions.add_parser("restore", help="put an export back", description="Put an export back.")
    restore.add_argument("file", metavar="FILE", nargs="?", help="what `bytemq metadata export` wrote")
    restore.add_argument(
        "--storage", metavar="URL", help="the cluster's storage, which tells what came after the export"
    )
    restore.add_argument("--replace", action="store_true", help="in place of the metadata that are there")
    restore.add_argument(
        "--accept-loss", action="store_true", help="although some of what came after the export is not found"
    )
    for action, run in ((export, run_export), (restore, run_restore)):
        add_metadata_option(action)
        action.set_defaults(run=run)


def run_export(options: argparse.Namespace) -> int | None:
    from bytemq.metadata import backup

    async def work(store: MetadataStore) -> None:
        lines = [f"{line}\n" for line in backup.lines_of(await store.range(""))]
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

    if options.file is None and options.storage is None:
        raise Failed("name what is restored: FILE, or --storage URL for the newest export in the storage")

    async def work(store: MetadataStore) -> None:
        saved = None if options.file is None else backup.parse(_read(Path(options.file)))
        if options.storage is not None:
            saved = await _rolled_forward(saved, options)
        assert saved is not None
        if options.storage is None and has_logs(saved):
            raise Failed(
                "name the cluster's storage by --storage URL: it tells what was acknowledged since this export, and "
                "which session ids must not come again"
            )
        await backup.restore(store, saved, replace=options.replace, patience_s=SESSIONS_END_S)
        print(f"Restored {counted(len(saved.entries), 'key')} of cluster {saved.cluster_id}. Start the brokers.")

    return with_store(options, work)


def has_logs(saved: Backup) -> bool:
    """Whether the records of that cluster are in a storage that brokers share."""
    from bytemq.metadata import keys

    return any(key.startswith(keys.SESSION_LOGS) for key, _ in saved.entries)


def _read(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError as error:
        raise Failed(f"cannot read {path}: {error.strerror}") from error


async def _rolled_forward(saved: Backup | None, options: argparse.Namespace) -> Backup:
    """The export, or the newest one in the storage, with what the storage holds beyond it. Raises Failed."""
    from random import SystemRandom

    from bytemq.runtime.clock import SystemClock
    from bytemq.storage.objects.metadata_exports import newest_export
    from bytemq.storage.objects.roll_forward import roll_forward
    from bytemq.storage.objects.shared_store import require_storage_of
    from bytemq.storage.pools.opening import pool_values_of, with_pools
    from bytemq.storage.stores.by_url import open_store

    clock, random = SystemClock(), SystemRandom()
    storage = await open_store(options.storage, clock, random)
    try:
        if saved is None:
            saved = await newest_export(storage)
        await require_storage_of(storage, options.storage, saved.cluster_id)
        pools = pool_values_of(saved.entries)
        found = await roll_forward(with_pools(storage, pools, saved.cluster_id, clock, random), saved)
    finally:
        await storage.close()
    for problem in found.problems:
        print(f"bytemq: {problem}", file=sys.stderr)
    if found.problems and not options.accept_loss:
        raise Failed(
            "what came after the export is not all in the storage. Give a newer export, or take what there is with "
            "--accept-loss; nothing was changed"
        )
    print(f"The export is of revision {saved.revision}. Flushes found behind it: {found.flushes}.")
    return found.backup
