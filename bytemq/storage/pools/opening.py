"""Pools as stores: opened by what the metadata say of them, and known to be this cluster's own.

Owns: the mark in a pool, and the sentences that say what is wrong. Must not: decide which pools there are.

The mark is the object that also a primary store has: the cluster's id, in a pool followed by its name. So two clusters
on one prefix, two pools on one prefix, or a pool whose bucket was exchanged are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from random import Random

from bytemq.errors import Corrupt, Invalid, NotFound
from bytemq.metadata import keys
from bytemq.metadata.pools import PoolUse, PoolValue, decode_pool
from bytemq.metadata.store import MetadataStore
from bytemq.runtime.clock import Clock
from bytemq.storage.pools.names import pool_shown_as
from bytemq.storage.pools.pooled_store import Opener, PooledStore
from bytemq.storage.stores.by_url import open_store
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.stores.self_test import SelfTest, self_test

CLUSTER_ID = "cluster/id"
"""The object that says whose store it is."""
PATIENCE_S = 2.0
"""With a pool that does not answer: it is asked again later."""

PoolUrls = Sequence[tuple[str, str]]
"""Names and URLs of pools, for another process of this program."""


def drained(values: Mapping[str, PoolValue]) -> dict[str, bool]:
    """The pools that are looked after, by the names that objects have them by, and whether each is drained."""
    return {
        pool_shown_as(name): value.use is PoolUse.DRAINED
        for name, value in values.items()
        if value.use is not PoolUse.REMOVED
    }


def pool_urls(values: Mapping[str, PoolValue]) -> PoolUrls:
    """Of all that something may be in."""
    return tuple(sorted((name, value.url) for name, value in values.items() if value.url))


async def open_stores(url: str, pools: PoolUrls, clock: Clock, random: Random) -> ObjectStore:
    """The store of a cluster, for a process that was told of its pools by a broker. Raises as `open_store`."""
    urls = dict(pools)

    async def open_pool(name: str) -> ObjectStore:
        if name not in urls:
            raise Corrupt(f"an object in pool {name} is referred to, and this process was told of no such pool")
        return await open_store(urls[name], clock, random, patience_s=PATIENCE_S)

    return PooledStore(await open_store(url, clock, random), clock, open_pool)


def with_pools(
    primary: ObjectStore, values: Mapping[str, PoolValue], cluster_id: str, clock: Clock, random: Random
) -> PooledStore:
    """The store of a cluster with the pools that it has. Each is opened when something in it is asked for."""

    async def open_pool(name: str) -> ObjectStore:
        if name not in values:
            raise Corrupt(f"an object in pool {name} is referred to, and the metadata know no pool of this name")
        return await open_pool_at(values[name].url, name, cluster_id, clock, random)

    store = PooledStore(primary, clock, open_pool)
    store.set_pools(drained(values))
    return store


async def open_all_stores(url: str, metadata: MetadataStore, clock: Clock, random: Random) -> PooledStore:
    """The store of a cluster with the pools that the metadata name. Raises as `open_store`."""
    identity = await metadata.get(keys.IDENTITY)
    cluster_id = "" if identity is None else identity.value.decode()
    values = await pool_values(metadata)
    return with_pools(await open_store(url, clock, random), values, cluster_id, clock, random)


async def pool_values(metadata: MetadataStore) -> dict[str, PoolValue]:
    """By name, as the metadata say now. Raises Corrupt, Unavailable."""
    return pool_values_of((entry.key, entry.value) for entry in (await metadata.range(keys.POOLS)).entries)


def pool_values_of(entries: Iterable[tuple[str, bytes]]) -> dict[str, PoolValue]:
    """Of keys of metadata and their values, also others. Raises Corrupt."""
    of_pools = ((key.removeprefix(keys.POOLS), value) for key, value in entries if key.startswith(keys.POOLS))
    return {name: decode_pool(value) for name, value in of_pools}


def opener_by(metadata: MetadataStore, cluster_id: str, clock: Clock, random: Random) -> Opener:
    """Asks the metadata each time: a pool's key is older than whatever names an object in it."""

    async def open_pool(name: str) -> ObjectStore:
        entry = await metadata.get(keys.pool(name))
        if entry is None:
            raise Corrupt(f"an object in pool {name} is referred to, and the metadata know no pool of this name")
        return await open_pool_at(decode_pool(entry.value).url, name, cluster_id, clock, random)

    return open_pool


async def open_pool_at(url: str, name: str, cluster_id: str, clock: Clock, random: Random) -> ObjectStore:
    """Raises Invalid for a store that is not this pool, Unavailable."""
    store = await open_store(url, clock, random, patience_s=PATIENCE_S)
    try:
        await _require_mark(store, url, _mark_of(cluster_id, name))
    except BaseException:
        await store.close()
        raise
    return store


async def claim_pool(
    store: ObjectStore, url: str, name: str, cluster_id: str, clock: Clock, random: Random
) -> SelfTest:
    """Tries the store out and makes it this pool of the cluster. Raises Invalid with a sentence, Unavailable."""
    measured = await self_test(store, clock, f"{random.getrandbits(64):016x}")
    mark = _mark_of(cluster_id, name)
    try:
        await store.create(CLUSTER_ID, [mark])
    except Invalid:
        await _require_mark(store, url, mark)
    return measured


async def _require_mark(store: ObjectStore, url: str, mark: bytes) -> None:
    try:
        found = await store.read(CLUSTER_ID)
    except NotFound as error:
        raise Invalid(f"{url} is not the pool that it was: there is no {CLUSTER_ID} in it") from error
    if found != mark:
        raise Invalid(
            f"{url} is in use as {found.decode('ascii', 'replace')} (cluster id, or cluster id and pool), not as "
            f"{mark.decode()}. Choose another bucket or prefix."
        )


def _mark_of(cluster_id: str, name: str) -> bytes:
    return f"{cluster_id}/{name}".encode()
