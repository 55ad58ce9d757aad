"""Where a node's records are: its data folder, or a storage that it shares with others.

Owns: opening either, and that what was opened is closed after everything that uses it. Must not: read a record.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from bytemq.config import BrokerConfig
from bytemq.errors import Corrupt, Fenced, Invalid
from bytemq.metadata import keys
from bytemq.metadata.identity import ensure_identity
from bytemq.metadata.store import MetadataStore
from bytemq.node import settings
from bytemq.node.foundation import Foundation
from bytemq.runtime.clock import Clock
from bytemq.runtime.tasks import Supervisor
from bytemq.scheduler.membership import SessionLost
from bytemq.storage.log_storage import LogStorage
from bytemq.storage.logs import Logs
from bytemq.storage.stores.local import LocalStore
from bytemq.storage.tables.restored import Restorer
from bytemq.storage.wal.format import FIRST_SEQUENCE_BITS
from bytemq.storage.wal.wal_index import newest_session

if TYPE_CHECKING:
    from bytemq.storage.pools.pooled_store import PooledStore


async def open_shared_store(
    parts: AsyncExitStack, config: BrokerConfig, store: MetadataStore, clock: Clock, random: Random
) -> PooledStore | None:
    """None: this node keeps its records in its data folder. Raises Invalid for a store that cannot be relied on, and
    where the metadata say that the records are in another place; metadata that are of no cluster stay so then.
    """
    identify = partial(ensure_identity, store, os.urandom)
    if not config.bytemq_storage:
        if await store.get(keys.STORAGE) is not None:
            raise Invalid(
                "these metadata belong to brokers that share a storage: their records are there, and not in the data "
                "folder alone. Start it as before, with --brokers N or with --storage and --metadata."
            )
        await identify()
        return None
    from bytemq.storage.objects.shared_store import open_shared_store

    shared = await open_shared_store(
        config.bytemq_storage, identify, store, clock, random, late_ms=config.storage_pool_late_ms
    )
    parts.push_async_callback(shared.close)
    return shared


async def open_logs(
    parts: AsyncExitStack, base: Foundation, shared: PooledStore | None, restorer: Restorer | None
) -> Logs:
    """The logs in `shared`, or in the node's data folder. `restorer`: who reads Parquet back; None: nobody."""
    supervisor = Supervisor(base.clock, partial(_storage_failed, base.fail))
    if shared is None:
        return await _open_local(parts, base, supervisor, restorer)
    return await _open_shared(parts, base, supervisor, restorer, shared)


async def _open_local(
    parts: AsyncExitStack, base: Foundation, supervisor: Supervisor, restorer: Restorer | None
) -> Logs:
    config = base.config.now
    files = LocalStore(settings.node_folder(config))
    parts.push_async_callback(files.close)
    # Its tasks are needed until the storage is closed, which is after all others have ended.
    parts.push_async_callback(supervisor.close)
    logs = await LogStorage.open(
        files,
        base.store,
        session_id=base.membership.session_id,
        config=settings.storage_config(config),
        clock=base.clock,
        supervisor=supervisor,
        durability=settings.durability(config),
        restorer=restorer,
        first_sequence=1 + base.random.getrandbits(FIRST_SEQUENCE_BITS),
    )
    parts.push_async_callback(logs.close)
    return logs


async def _open_shared(
    parts: AsyncExitStack,
    base: Foundation,
    supervisor: Supervisor,
    restorer: Restorer | None,
    shared: PooledStore,
) -> Logs:
    from bytemq.storage import storage_metrics
    from bytemq.storage.cache.scratch import ScratchBlocks
    from bytemq.storage.cluster_storage import ClusterStorage, Session
    from bytemq.storage.pools.keeper import PoolKeeper

    config = settings.storage_config(base.config.now)
    parts.push_async_callback(supervisor.close)
    scratch = ScratchBlocks(settings.scratch_folder(base.config.now) / "cache", config.storage_scratch_bytes)
    parts.push_async_callback(scratch.close)
    logs = await ClusterStorage.open(
        shared,
        base.store,
        session=Session(base.broker_id, base.membership.session_id),
        config=config,
        clock=base.clock,
        random=base.random,
        supervisor=supervisor,
        scratch=scratch,
        restorer=restorer,
    )
    parts.push_async_callback(logs.close)
    keeper = PoolKeeper(
        shared, lambda: base.image.pools, base.membership.session_id, base.clock, base.random, supervisor
    )
    supervisor.keep_running("storage-pools", keeper.run)
    storage_metrics.register(base.metrics, logs, shared)
    return logs


def _storage_failed(fail: Callable[[str, BaseException], None], name: str, error: BaseException) -> None:
    """Storage may be the first to notice that the session has ended."""
    fail(name, SessionLost(str(error)) if isinstance(error, Fenced) else error)


async def check_age(data: Path, store: MetadataStore) -> None:
    """Refuses metadata that are older than the data, before anything is written: what they do not know of would be
    taken for garbage.
    """
    folder = data / "wal"
    newest = newest_session(os.listdir(folder) if folder.is_dir() else ())
    _, revision = await store.range(keys.CONFIGS)
    if newest > revision:
        raise Corrupt(
            f"{folder} holds files of session {newest}, but the metadata end before it: meta.db or meta.db-wal "
            "is lost, damaged or an older copy. Put the right ones back; nothing was changed."
        )
