"""`bytemq copy`: a single node's data to the storage and the metadata of a cluster. Owns this command."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bytemq.cli.metadata_access import METADATA_VARIABLE, add_metadata_option
from bytemq.cli.options import Commands, Failed
from bytemq.cli.output import counted

if TYPE_CHECKING:
    from bytemq.node.copying import Progress

_DESCRIPTION = """\
Take the data of a single node to a cluster: topics, records, configs, the offsets of groups, transactions. The node is
stopped; the storage and the metadata are empty. Interrupted, the same command goes on where it was. The node's folder
stays, but must not be started again once the cluster is used.
"""
_EXAMPLES = """\
examples:
  bytemq copy ./data s3://bucket/prefix --metadata etcd://127.0.0.1:2379/my-cluster
  bytemq start --id 1 --storage s3://bucket/prefix --metadata etcd://127.0.0.1:2379/my-cluster --scratch ./scratch
"""
TELL_EVERY_S = 1.0


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "copy", help="take a single node's data to a cluster", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument("data", metavar="DATA", type=Path, help="the folder of the stopped node")
    parser.add_argument("storage", metavar="URL", help="the storage of the cluster, as in `bytemq start`")
    add_metadata_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    import asyncio

    from bytemq.node.copying import copy_node

    if not options.metadata:
        raise Failed(f"name the metadata of the cluster: --metadata etcd://HOST:PORT/PREFIX, or {METADATA_VARIABLE}")
    told_at = time.monotonic()

    def tell(progress: Progress) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= TELL_EVERY_S:
            told_at = time.monotonic()
            print(_sentence(progress), file=sys.stderr, flush=True)

    done = asyncio.run(copy_node(options.data, options.storage, options.metadata, os.environ, tell))
    print(
        f"Copied {counted(done.logs, 'log')}, {_megabytes(done.copied_bytes)}"
        f"{_found(done)}. Start the brokers; {options.data} must not be started again."
    )
    return 0


def _sentence(progress: Progress) -> str:
    return (
        f"{progress.logs:,} of {counted(progress.of_logs, 'log')}, {_megabytes(progress.copied_bytes)} "
        f"of {_megabytes(progress.of_bytes)}{_found(progress)}"
    )


def _found(progress: Progress) -> str:
    return f", {_megabytes(progress.found_bytes)} of it there already" if progress.found_bytes else ""


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"
