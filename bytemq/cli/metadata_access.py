"""A cluster's metadata as commands reach them: the option that names them, and what is done with the store.

Owns opening and closing the store around a command. Must not: know what the commands do there.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

from bytemq.cli.options import Commands, Failed

if TYPE_CHECKING:
    from bytemq.metadata.image import ClusterImage
    from bytemq.metadata.store import MetadataStore
    from bytemq.scheduler.cluster_view import ClusterView

METADATA_VARIABLE = "BYTEMQ_METADATA"
TIMEOUT_S = 3.0
"""How long the metadata are waited for: whoever typed a command waits as well."""


def add_action(actions: Commands, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    """One command of several, on a cluster's metadata."""
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text.capitalize() + ".")
    add_metadata_option(parser)
    parser.set_defaults(run=run)
    return parser


def add_metadata_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metadata",
        metavar="URL",
        default=os.environ.get(METADATA_VARIABLE),
        help="metadata of the cluster, etcd://HOST:PORT/PREFIX, or unix:///DATA/metadata.sock of brokers that were "
        f"started with --brokers (default: {METADATA_VARIABLE})",
    )


def with_store(options: argparse.Namespace, work: Callable[[MetadataStore], Awaitable[int | None]]) -> int | None:
    """Runs `work` on the metadata store of the options. Raises Failed and BytemqError."""
    import asyncio

    from bytemq.metadata.opening import open_metadata

    if not options.metadata:
        raise Failed(
            "name the cluster's metadata: --metadata etcd://HOST:PORT/PREFIX, or unix:///DATA/metadata.sock of brokers "
            f"that were started with --brokers, or {METADATA_VARIABLE}"
        )

    async def run() -> int | None:
        store = await open_metadata(options.metadata, os.environ, timeout_s=TIMEOUT_S)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


async def image_of(store: MetadataStore) -> ClusterImage:
    from bytemq.metadata import keys
    from bytemq.metadata.image import ClusterImage

    entries, revision = await store.range(keys.CLUSTER)
    image = ClusterImage()
    image.apply(image.events_from_listing(entries, revision), revision)
    if not image.cluster_id:
        raise Failed("there is no cluster at this address of the metadata; is the prefix right?")
    return image


async def view_of(store: MetadataStore) -> ClusterView:
    from bytemq.scheduler.cluster_view import ClusterView
    from bytemq.scheduler.reports import last_moves, load_reports

    image = await image_of(store)
    return ClusterView(image, await load_reports(store), (await last_moves(store)).moves)


@contextlib.contextmanager
def goes_on_when_interrupted(what: str, undo: str) -> Iterator[None]:
    """Ctrl-C ends the waiting only, and says so."""
    import asyncio

    try:
        yield
    except asyncio.CancelledError:
        print(f"{what} is drained all the same; `bytemq cluster {undo}` takes that back.", file=sys.stderr)
        raise
