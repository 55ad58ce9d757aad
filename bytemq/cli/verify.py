"""`bytemq verify`: is everything in a data folder, or on a shared storage, as it was written?"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bytemq.cli.metadata_access import METADATA_VARIABLE
from bytemq.cli.options import Commands, Failed, whole_number
from bytemq.cli.output import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AsyncExitStack

    from bytemq.metadata.store import MetadataStore
    from bytemq.storage.checks.verify import Finding

_DESCRIPTION = """\
Check every checksum, the continuity of offsets, and the index against the log: in the data folder of a node, which
should not be running, or on the storage of a cluster, whose brokers may. Prints what is wrong, a line for each folder
in which a crash left something to be removed, which is not wrong, and the verdict; exit code 0 if nothing is wrong, 1
otherwise.
"""
_EXAMPLES = """\
examples:
  bytemq verify data
  bytemq verify s3://bucket/prefix --metadata etcd://127.0.0.1:2379/prefix
  bytemq verify s3://bucket/prefix --data data
  bytemq verify s3://bucket/prefix --metadata etcd://127.0.0.1:2379/prefix --outlast 700
"""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("verify", help="check all data", description=_DESCRIPTION, epilog=_EXAMPLES)
    parser.add_argument("data", metavar="DATA|URL", help="the node's folder, or the storage as in `bytemq start`")
    parser.add_argument(
        "--metadata",
        metavar="URL",
        help=f"the metadata of a storage, as in `bytemq start` (default: {METADATA_VARIABLE}, without --data)",
    )
    parser.add_argument(
        "--data", dest="folder", metavar="DIR", type=Path, help="folder of a stopped node that has the metadata"
    )
    parser.add_argument(
        "--outlast",
        metavar="SECONDS",
        type=whole_number(1, 86_400),
        help="look again, once or twice and each time so much later, at objects of running brokers that nothing refers "
        "to; none may stay for more than storage.garbage.grace.ms (600 s) (default: they are left out)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="print a line for everything that was left")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each finding")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if "://" in options.data:
        import asyncio

        return asyncio.run(_run_shared(options))
    from bytemq.metadata.data_lock import DataLock
    from bytemq.storage.checks.verify import verify

    folder = Path(options.data)
    if not folder.is_dir():
        raise Failed(f"there is no folder {folder}")
    if DataLock.is_held(folder):
        print(f"a node is running on {folder}: what it writes meanwhile may look wrong", file=sys.stderr)
    report = _Report(options)
    for finding in verify(folder):
        report.add(finding)
    return report.conclude()


async def _run_shared(options: argparse.Namespace) -> int:
    import asyncio
    from contextlib import AsyncExitStack
    from functools import partial
    from random import SystemRandom

    from bytemq.metadata import keys
    from bytemq.runtime.clock import SystemClock
    from bytemq.storage.checks.audit import audit
    from bytemq.storage.objects.shared_store import require_storage_of
    from bytemq.storage.pools.opening import open_all_stores

    report = _Report(options)
    async with AsyncExitStack() as parts:
        metadata = await _open_metadata(options, parts)
        identity = await metadata.get(keys.IDENTITY)
        if identity is None:
            raise Failed("there is no cluster at this address of the metadata; is the prefix right?")
        store = await open_all_stores(options.data, metadata, SystemClock(), SystemRandom())
        parts.push_async_callback(store.close)
        await require_storage_of(store, options.data, identity.value.decode())
        outlast = None if options.outlast is None else partial(asyncio.sleep, options.outlast)
        async for finding in audit(store, metadata, outlast):
            report.add(finding)
    return report.conclude()


async def _open_metadata(options: argparse.Namespace, parts: AsyncExitStack) -> MetadataStore:
    url = options.metadata or (None if options.folder else os.environ.get(METADATA_VARIABLE))
    if url:
        from bytemq.metadata.opening import open_metadata

        metadata = await open_metadata(url, os.environ)
        parts.push_async_callback(metadata.close)
        return metadata
    if options.folder is None or not options.folder.is_dir():
        raise Failed("name the metadata of this storage: --metadata URL, or --data DIR of a stopped node")
    from bytemq.metadata.data_lock import DataLock
    from bytemq.metadata.embedded import EmbeddedStore

    lock = DataLock.acquire(options.folder)
    parts.callback(lock.release)
    embedded = EmbeddedStore.open(lock, "fsync")
    parts.push_async_callback(embedded.close)
    return embedded


class _Report:
    """Problems are printed as they are found, and then what was left, and the verdict."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._as_json: bool = options.json
        self._prints_all: bool = options.json or options.verbose
        self._problems = 0
        self._left: dict[str, list[Finding]] = {}
        """By folder."""

    def add(self, finding: Finding) -> None:
        if finding.is_leftover:
            self._left.setdefault(finding.name.partition("/")[0], []).append(finding)
        else:
            self._problems += 1
        if self._prints_all or not finding.is_leftover:
            print(json.dumps(finding._asdict()) if self._as_json else finding)

    def conclude(self) -> int:
        """The exit code."""
        if not self._as_json:
            self._print_conclusion()
        return 1 if self._problems else 0

    def _print_conclusion(self) -> None:
        for folder, found in () if self._prints_all else self._left.items():
            example = found[0]
            print(f"{folder}/: {_told(found)} left, such as {example}")
        left = [one for found in self._left.values() for one in found]
        verdict = f"problems found: {self._problems}" if self._problems else "everything is as it was written"
        print(f"{verdict}; left to be removed, which is not wrong: {_told(left)}" if left else verdict)


def _told(found: Sequence[Finding]) -> str:
    return f"{counted(len(found), 'object')}, {sum(one.size_bytes for one in found) / 1e6:.1f} MB"
