"""Opening the store of a cluster: by its URL, tried out, and known to be this cluster's own.

Owns: the checks of a start, and the sentences that say what is wrong. Must not: go on with a store that failed one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

from bytemq.errors import Corrupt, Invalid, NotFound, Unavailable
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.storage.objects.session_log import FOLDER, session_of
from bytemq.storage.stores.by_url import open_store
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.stores.self_test import self_test

log = get_logger("storage")

MARK = "cluster/id"


async def open_shared_store(
    url: str,
    cluster_id: str,
    metadata_revision: Callable[[], Awaitable[int]],
    clock: Clock,
    random: Random,
    *,
    holds_logs: bool = False,
) -> ObjectStore:
    """`metadata_revision` asks for that of the moment. `holds_logs`: the metadata name logs, so that this cannot be a
    store that nobody has used.

    Raises Invalid, Corrupt or Unavailable, each with a sentence for the user; nothing is left open then.
    """
    try:
        store = await open_store(url, clock, random)
    except Unavailable as error:
        raise Unavailable(f"the storage {url} cannot be used now: {error}") from error
    try:
        if holds_logs:
            await _require_used(store, url)
        await _check(store, url, cluster_id, metadata_revision, clock, random)
    except BaseException:
        await store.close()
        raise
    return store


async def _require_used(store: ObjectStore, url: str) -> None:
    """Raises Invalid. Brokers of one cluster on two storages would not find each other's records."""
    try:
        await store.read(MARK)
    except NotFound as error:
        raise Invalid(
            f"{url} was never used by a cluster, but these metadata name logs that are in a storage. Give the storage "
            "that belongs to them, or metadata of their own: another prefix."
        ) from error


async def _check(
    store: ObjectStore,
    url: str,
    cluster_id: str,
    metadata_revision: Callable[[], Awaitable[int]],
    clock: Clock,
    random: Random,
) -> None:
    try:
        measured = await self_test(store, clock, f"{random.getrandbits(64):016x}")
        log.info("storage tried out", url=url, **{name: round(ms, 1) for name, ms in measured._asdict().items()})
        await _claim(store, url, cluster_id)
        newest = max((session_of(info.name) or 0 for info in await store.list(FOLDER)), default=0)
    except Unavailable as error:
        raise Unavailable(f"the storage {url} cannot be used now: {error}") from error
    if newest > await metadata_revision():  # asked behind the listing: other brokers join meanwhile
        raise Corrupt(
            f"{url} holds the write-ahead log of session {newest}, but the metadata end before it: they were lost, or "
            "are an older copy. Put the right ones back; nothing was changed."
        )


async def _claim(store: ObjectStore, url: str, cluster_id: str) -> None:
    """Two clusters on one prefix would take each other's data for garbage."""
    try:
        await store.create(MARK, [cluster_id.encode()])
        return
    except Invalid:
        holder = (await store.read(MARK)).decode("ascii", "replace")
    if holder != cluster_id:
        raise Invalid(
            f"{url} is the storage of cluster {holder}, and these are the metadata of cluster {cluster_id}. Choose "
            "another bucket or prefix, or the metadata that belong to this storage."
        )
