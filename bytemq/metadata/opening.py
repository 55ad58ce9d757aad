"""Opening the metadata store that an address names.

Owns: which implementation stands behind which scheme. Must not: know the embedded store of one node, which has no
address: it is in the node's data folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bytemq.errors import Invalid
from bytemq.metadata.etcd.address import is_etcd
from bytemq.metadata.served.client import SCHEME, ServedStore
from bytemq.metadata.store import MetadataStore

START_TIMEOUT_S = 10.0
"""A whole cluster may be starting, etcd included."""


async def open_metadata(
    url: str, environment: Mapping[str, str], *, timeout_s: float = START_TIMEOUT_S
) -> MetadataStore:
    """Raises Invalid with a sentence for the user, Unavailable when nobody answers in time."""
    if url.startswith(SCHEME):
        return await ServedStore.open(Path(url.removeprefix(SCHEME)))
    if not is_etcd(url):
        raise Invalid(f"{url} is no address of metadata; one is etcd://HOST:PORT/PREFIX")
    try:
        from bytemq.metadata.etcd.store import EtcdStore
    except ImportError as error:
        raise Invalid(f"metadata in etcd need more packages ({error}): pip install 'bytemq[etcd]'") from error
    return await EtcdStore.open(url, environment, timeout_s=timeout_s)
