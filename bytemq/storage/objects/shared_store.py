"""Opening the store of a cluster: by its URL, tried out, and known to be this cluster's own.

Owns: the checks of a start, and the sentences that say what is wrong. Must not: go on with a store that failed one.

Storage and metadata name each other: the storage holds the cluster's id, and a mark of its own, drawn once, that the
metadata know. So neither two clusters on one storage nor brokers of one cluster on two storages get beyond their start.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

from bytemq.errors import Invalid, NotFound, Unavailable
from bytemq.metadata import keys
from bytemq.metadata.store import Compare, MetadataStore, Put
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.storage.objects.agreement import check_agreement
from bytemq.storage.pools.opening import CLUSTER_ID, drained, opener_by, pool_values
from bytemq.storage.pools.pooled_store import LATE_MS, PooledStore
from bytemq.storage.stores.by_url import open_store
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.stores.self_test import self_test

log = get_logger("storage")

MARK = "cluster/mark"


async def open_shared_store(
    url: str,
    identify: Callable[[], Awaitable[str]],
    metadata: MetadataStore,
    clock: Clock,
    random: Random,
    *,
    late_ms: int = LATE_MS,
) -> PooledStore:
    """With the pools that the metadata name; one that does not answer is opened later. `identify`: gives the id of the
    cluster, and metadata of none are given one now.

    Raises Invalid, Corrupt or Unavailable, each with a sentence for the user; nothing is left open then.
    """
    try:
        store = await open_store(url, clock, random)
        try:
            await _require_free_for_new_metadata(metadata, store, url)
            await _require_named_by(metadata, store, url)
            measured = await self_test(store, clock, f"{random.getrandbits(64):016x}")
            log.info("storage tried out", url=url, **{name: round(ms, 1) for name, ms in measured._asdict().items()})
            cluster_id = await identify()
            await _claim(store, url, cluster_id)
            await _name(metadata, store, url, random)
        except BaseException:
            await store.close()
            raise
        pooled = PooledStore(store, clock, opener_by(metadata, cluster_id, clock, random), late_ms=late_ms)
        try:
            pooled.set_pools(drained(await pool_values(metadata)))
            await check_agreement(pooled, url, metadata)
        except BaseException:
            await pooled.close()
            raise
    except Unavailable as error:
        raise Unavailable(f"the storage {url} cannot be used now: {error}") from error
    return pooled


async def require_storage_of(store: ObjectStore, url: str, cluster_id: str) -> None:
    """Raises Invalid when it is not that cluster's."""
    holder = await _read(store, CLUSTER_ID)
    if holder is None:
        raise Invalid(
            f"{url} was never used by a cluster: there is no {CLUSTER_ID} in it. Give the storage that the brokers are "
            "started with, bucket and prefix."
        )
    _require_same_cluster(holder, url, cluster_id)


async def _require_free_for_new_metadata(metadata: MetadataStore, store: ObjectStore, url: str) -> None:
    """Raises Invalid when the storage is a cluster's and the metadata are nobody's yet: they stay so, and do not become
    a cluster of their own that can never start.
    """
    holder = await _read(store, CLUSTER_ID)  # first: another broker may make this cluster in between
    if holder is not None and await metadata.get(keys.IDENTITY) is None:
        raise _not_of_one_cluster(holder, url, "these metadata are of no cluster yet")


async def _require_named_by(metadata: MetadataStore, store: ObjectStore, url: str) -> None:
    """Raises Invalid when the metadata name another storage: brokers of one cluster on two would not find each other's
    records. Metadata of before storages had marks have logs in theirs.
    """
    named = await metadata.get(keys.STORAGE)
    if named is None and not (await metadata.range(keys.MANIFESTS)).entries:
        return
    if await _read(store, CLUSTER_ID) is None:
        raise Invalid(
            f"{url} was never used by a cluster, but these metadata belong to a cluster that has a storage. Give the "
            "storage that belongs to them, or metadata of their own: another prefix."
        )
    mark = await _read(store, MARK)
    if named is not None and mark is not None and named.value.decode() != mark:
        raise Invalid(
            f"{url} is not the storage that these metadata name. Give the one that the other brokers of this cluster "
            "use, or metadata of their own: another prefix."
        )


async def _claim(store: ObjectStore, url: str, cluster_id: str) -> None:
    """Two clusters on one prefix would take each other's data for garbage."""
    _require_same_cluster(await _created(store, CLUSTER_ID, cluster_id), url, cluster_id)


async def _name(metadata: MetadataStore, store: ObjectStore, url: str, random: Random) -> None:
    """Of brokers that start on two storages at the same time, one is first."""
    mark = await _created(store, MARK, f"{random.getrandbits(128):032x}")
    await metadata.txn([Compare(keys.STORAGE, 0)], [Put(keys.STORAGE, mark.encode())])
    await _require_named_by(metadata, store, url)


async def _created(store: ObjectStore, name: str, content: str) -> str:
    """What the object holds, which is `content` if it was not there."""
    try:
        await store.create(name, [content.encode()])
    except Invalid:
        return (await store.read(name)).decode("ascii", "replace")
    return content


async def _read(store: ObjectStore, name: str) -> str | None:
    try:
        return (await store.read(name)).decode("ascii", "replace")
    except NotFound:
        return None


def _require_same_cluster(holder: str, url: str, cluster_id: str) -> None:
    if holder != cluster_id:
        raise _not_of_one_cluster(holder, url, f"these are the metadata of cluster {cluster_id}")


def _not_of_one_cluster(holder: str, url: str, metadata: str) -> Invalid:
    return Invalid(
        f"{url} is the storage of cluster {holder}, and {metadata}. Choose another bucket or prefix, or the metadata "
        "that belong to this storage; if they were lost, stop every broker and run `bytemq metadata restore --storage "
        f"{url}`."
    )
