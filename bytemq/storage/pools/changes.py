"""What becomes of pools: they come, are drained, take part again, and go.

Owns: the rules, and what is compared when the metadata change. Must not: move anything (each broker drains what it
answers for), or forget a pool: its key stays, so that whatever has its name is found.
"""

from __future__ import annotations

from random import Random

from bytemq.errors import Invalid, NotFound, Unavailable
from bytemq.metadata import features, keys, values
from bytemq.metadata.pools import PoolUse, PoolValue, decode_pool, encode_pool
from bytemq.metadata.store import Compare, KeyValue, MetadataStore, Put
from bytemq.runtime.clock import Clock
from bytemq.storage.pools.contents import contents
from bytemq.storage.pools.names import MOST_POOLS, SHOWN_PRIMARY, may_be_called
from bytemq.storage.pools.opening import claim_pool
from bytemq.storage.stores.by_url import open_store
from bytemq.storage.stores.self_test import SelfTest


async def add_pool(metadata: MetadataStore, name: str, url: str, clock: Clock, random: Random) -> SelfTest:
    """Tries the store out, marks it as the cluster's, and tells all brokers of it. One that was removed comes back.

    Raises Invalid with a sentence for the user, Unavailable.
    """
    if not may_be_called(name):
        raise Invalid(f"{name} cannot be a pool's name: up to 32 of a-z, 0-9 and '-', and not {SHOWN_PRIMARY}")
    entries = {entry.key: entry for entry in (await metadata.range(keys.CLUSTER)).entries}
    identity, level = entries.get(keys.IDENTITY), entries.get(keys.FEATURE_LEVEL)
    if identity is None or level is None:
        raise Invalid("there is no cluster at this address of the metadata; is the prefix right?")
    if values.decode_number(level.value) < features.POOLS:
        raise Invalid(
            f"the cluster is at feature level {values.decode_number(level.value)}, and brokers know pools from level "
            f"{features.POOLS} on: when all run this version, `bytemq cluster upgrade`"
        )
    before = entries.get(keys.pool(name))
    _check_addition(name, url, before, [entry for key, entry in entries.items() if key.startswith(keys.POOLS)])
    store = await open_store(url, clock, random)
    try:
        measured = await claim_pool(store, url, name, identity.value.decode(), clock, random)
    finally:
        await store.close()
    compares = [Compare(keys.FEATURE_LEVEL, level.revision), Compare(keys.pool(name), before.revision if before else 0)]
    if not (await metadata.txn(compares, [Put(keys.pool(name), encode_pool(PoolValue(url)))])).succeeded:
        raise Unavailable("somebody else has changed the cluster meanwhile; try again")
    return measured


def _check_addition(name: str, url: str, before: KeyValue | None, others: list[KeyValue]) -> None:
    if len(others) >= MOST_POOLS - 1 and before is None:
        raise Invalid(f"there are {len(others)} pools already, of which a cluster has {MOST_POOLS - 1} at most")
    if before is None:
        return
    known = decode_pool(before.value)
    if known.url != url:
        raise Invalid(f"{name} is the pool at {known.url}, and always will be; choose another name")
    if known.use is not PoolUse.REMOVED:
        raise Invalid(f"there is the pool {name} already")


async def set_use(metadata: MetadataStore, name: str, use: PoolUse) -> None:
    """Drains a pool (or the primary), lets it take part again, or removes it. Raises NotFound, Invalid, Unavailable."""
    entries = {entry.key.removeprefix(keys.POOLS): entry for entry in (await metadata.range(keys.POOLS)).entries}
    pools = {SHOWN_PRIMARY: PoolValue(""), **{known: decode_pool(entry.value) for known, entry in entries.items()}}
    if name not in pools or (pools[name].use is PoolUse.REMOVED and use is not PoolUse.REMOVED):
        raise NotFound(f"there is no pool {name}")
    if use is PoolUse.DRAINED:
        others = [one for one, value in pools.items() if one != name and value.use is PoolUse.IN_USE]
        if not others:
            raise Invalid(f"no other pool would be left for what is new than {name}")
    if use is PoolUse.REMOVED:
        await _check_removal(metadata, name, pools[name])
    compare = Compare(keys.pool(name), entries[name].revision if name in entries else 0)
    value = encode_pool(pools[name]._replace(use=use))
    if not (await metadata.txn([compare], [Put(keys.pool(name), value)])).succeeded:
        raise Unavailable("somebody else has changed this pool meanwhile; try again")


async def _check_removal(metadata: MetadataStore, name: str, value: PoolValue) -> None:
    if name == SHOWN_PRIMARY:
        raise Invalid("the primary store stays: it holds the mark of the cluster, and tables")
    if value.use is PoolUse.IN_USE:
        raise Invalid(f"{name} is in use; `bytemq cluster pool drain {name}` first")
    left = (await contents(metadata)).get(name)
    if left is not None and not left.is_empty:
        raise Invalid(f"{name} is not empty yet: {left}")
