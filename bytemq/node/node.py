"""A node: the one place where the parts are built and joined.

Owns: the order of starting and stopping. Must not: hold logic of its own.

Starting goes from what everything rests on (the lock on the data folder, the metadata) to what clients see (the
listeners). Stopping goes the other way. A node that is killed instead leaves nothing to tidy up: the next start ends
its session and recovers its log.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack
from random import SystemRandom

from bytemq import __version__
from bytemq.broker.context import Broker
from bytemq.broker.peers import Peers
from bytemq.broker.server import BoundListener, Server, bind
from bytemq.config import BrokerConfig
from bytemq.errors import BytemqError, Fenced
from bytemq.metadata import keys
from bytemq.metadata.data_lock import DataLock
from bytemq.metadata.embedded import EmbeddedStore
from bytemq.metadata.features import SUPPORTED, require_supported
from bytemq.metadata.follower import ImageFollower
from bytemq.metadata.opening import open_metadata
from bytemq.metadata.store import MetadataStore
from bytemq.metadata.values import BrokerValue
from bytemq.node import settings, tables
from bytemq.node.background import (
    start_cleaner,
    start_exports,
    start_housekeeping,
    start_membership,
    start_refusing_builds,
    start_restructuring,
    start_session,
)
from bytemq.node.broker import join_broker, partition_table
from bytemq.node.foundation import Foundation
from bytemq.node.http import start_http
from bytemq.node.live_config import LiveConfig
from bytemq.node.storage import check_age, open_logs, open_shared_store
from bytemq.node.tables import Tables
from bytemq.runtime import garbage_collection
from bytemq.runtime.clock import Clock, SystemClock
from bytemq.runtime.logging import get_logger
from bytemq.runtime.metrics import Metrics
from bytemq.runtime.tasks import Supervisor
from bytemq.scheduler.controller import Controller
from bytemq.scheduler.membership import Membership, SessionLost, check_clock
from bytemq.storage.pools.opening import pool_urls
from bytemq.storage.stores.remote import RemoteStore
from bytemq.types import Role

log = get_logger("node")


class Node:
    """A running node. `Node.start`, then `wait` and `stop`."""

    def __init__(self, config: BrokerConfig, clock: Clock) -> None:
        self.addresses: dict[str, tuple[str, int]] = {}
        """Where it listens, by listener name."""
        self.http_address: tuple[str, int] | None = None
        """Where metrics and health are told; None: nowhere."""
        self.tables: Tables | None = None
        """None without the extra `tables`: nothing is converted, and what was is not read."""
        self._config = LiveConfig(config)
        self._ready = False
        self._session_may_end = False
        """It has joined a cluster in which sessions end with their leases."""
        self._clock = clock
        self._random = SystemRandom()
        self._metrics = Metrics()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._supervisor = Supervisor(clock, self._fail)
        self._parts = AsyncExitStack()
        self._broker: Broker | None = None

    @classmethod
    async def start(cls, config: BrokerConfig, clock: Clock | None = None) -> Node:
        """A node that serves clients. Raises BytemqError with a sentence for the user; nothing is left open then.

        `SessionLost`: the machine was so slow, or the process stood still, that its session ended meanwhile.
        """
        async with AsyncExitStack() as parts:
            node = cls(config, clock or SystemClock())
            try:
                await node._start(parts)
            except Fenced as error:
                if node._session_may_end:
                    raise SessionLost(f"{error}, while the node started") from error
                raise
            node._parts = parts.pop_all()
        return node

    @property
    def config(self) -> BrokerConfig:
        """With the dynamic configs of the moment."""
        return self._config.now

    @property
    def broker(self) -> Broker:
        assert self._broker is not None, "the node has been started"
        return self._broker

    async def wait(self) -> None:
        """Returns when the node was stopped. Raises what the node cannot live on after, e.g. Fenced; then stop it."""
        await asyncio.shield(self._ended)

    async def stop(self) -> None:
        """Answers what is in work, writes what recovery would have to read, and gives up everything it owns."""
        self._ready = False
        await self._parts.aclose()
        if not self._ended.done():
            self._ended.set_result(None)
        log.info("stopped")

    async def _start(self, parts: AsyncExitStack) -> None:
        data = settings.node_folder(self.config)
        lock = DataLock.acquire(data)
        parts.callback(lock.release)
        store = await self._open_metadata(lock)
        parts.push_async_callback(store.close)
        await check_age(data, store)
        require_supported(await store.get(keys.FEATURE_LEVEL), SUPPORTED)  # before anything is written anywhere
        shared = await open_shared_store(parts, self.config, store, self._clock, self._random)
        await self._config.read(store)

        sockets = bind(settings.listeners(self.config))
        for _, opened in sockets:
            parts.callback(opened.close)
        base = await self._join_cluster(parts, store, sockets)
        self._session_may_end = store.leases_time_out
        parts.push_async_callback(self._supervisor.close)  # if the start goes no further than this
        start_session(base)
        if tables.are_available():
            primary = shared.primary if shared is not None else None
            signer = primary if isinstance(primary, RemoteStore) else None
            url = settings.store_url(self.config)
            self.tables = Tables(data, url, signer, lambda: pool_urls(base.image.pools))
            parts.push_async_callback(self.tables.close)
        logs = await open_logs(parts, base, shared, None if self.tables is None else self.tables.restorer)
        partitions = partition_table(parts, base, logs)
        await base.follower.load()
        self._config.take(base.image)  # of the broker id that was claimed
        listener = settings.inter_broker_listener(self.config)
        # Two connections to each: answers come in order, and markers are not to wait for what tools ask.
        of_transactions, of_tools = (
            Peers(lambda: base.image, base.broker_id, listener, self._supervisor) for _ in range(2)
        )
        self._broker, ownership = join_broker(base, partitions, of_transactions, of_tools)
        server = Server(self.broker, settings.server_limits(self.config))
        start_cleaner(parts, base, self.broker, logs, data)
        parts.push_async_callback(ownership.close_all)
        parts.callback(self.broker.groups.close)
        parts.callback(self.broker.transactions.close)
        parts.push_async_callback(self._supervisor.close)
        parts.callback(of_transactions.close)
        parts.callback(of_tools.close)
        parts.push_async_callback(server.stop)

        may_control = Role.CONTROL in settings.roles(self.config)
        controller = Controller(store, base.follower, base.membership, self._clock, may_control=may_control)
        start_membership(base, controller)
        start_housekeeping(base, self.broker, ownership)
        if shared is not None:
            start_exports(base, shared)
        if self.tables is not None:
            start_restructuring(base, self.broker, logs, self.tables)
        else:
            start_refusing_builds(base)
        await controller.stand()
        self.http_address = await start_http(parts, base, self.tables, self._why_not_ready)
        garbage_collection.settle()  # now, for coordinators begin to load
        await ownership.settle()
        self.addresses = await server.serve(sockets)
        self._ready = True
        self._supervisor.start("warm up", server.warm_up())

    async def _open_metadata(self, lock: DataLock) -> MetadataStore:
        if not self.config.bytemq_metadata:
            # Also with page-cache durability: files are used again on the strength of what was published before.
            return EmbeddedStore.open(lock, "fsync")
        return await open_metadata(self.config.bytemq_metadata, os.environ)

    async def _join_cluster(
        self, parts: AsyncExitStack, store: MetadataStore, sockets: list[BoundListener]
    ) -> Foundation:
        bound = {listener.name: opened.getsockname()[:2] for listener, opened in sockets}
        ttl_s = self.config.broker_session_timeout_ms / 1000
        value = BrokerValue(
            self.config.broker_rack,
            settings.advertised(self.config, bound, socket.gethostname()),
            __version__,
            os.urandom(8).hex(),
            self.config.bytemq_capacity / 100,
            settings.roles(self.config),
            SUPPORTED,
            ttl_s,
        )
        await check_clock(store, self._clock)
        is_auto = self.config.bytemq_node_id_auto
        wanted = None if is_auto and "node.id" not in self.config.static else self.config.node_id
        membership = await Membership.join(store, self._clock, wanted, value, ttl_s, or_any=is_auto)
        parts.push_async_callback(membership.leave)
        self._config.claim(membership.broker_id)
        return Foundation(
            config=self._config,
            store=store,
            follower=ImageFollower(store, self._clock),
            membership=membership,
            clock=self._clock,
            random=self._random,
            metrics=self._metrics,
            supervisor=self._supervisor,
            fail=self._fail,
        )

    def _why_not_ready(self) -> str | None:
        return None if self._ready else "the node is starting"

    def _fail(self, name: str, error: BaseException) -> None:
        if not self._ended.done():
            reason = error if isinstance(error, BytemqError) else Fenced(f"{name} failed: {error!r}")
            self._ended.set_exception(reason)
