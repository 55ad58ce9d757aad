"""A node: the one place where the parts are built and joined.

Owns: the order of starting and stopping, and the wiring. Must not: hold logic of its own.

Starting goes from what everything rests on (the lock on the data folder, the metadata) to what clients see (the
listeners). Stopping goes the other way. A node that is killed instead leaves nothing to tidy up: the next start ends
its session and recovers its log.
"""

from __future__ import annotations

import asyncio
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from random import SystemRandom

from bytemq import __version__, node_settings, node_tables
from bytemq.broker import broker_metrics
from bytemq.broker.adoption import adopt
from bytemq.broker.context import Broker, Traffic
from bytemq.broker.coordinator.group_coordinators import GroupCoordinators
from bytemq.broker.coordinator.marker_sender import MarkerSender
from bytemq.broker.coordinator.marker_writer import MarkerWriter
from bytemq.broker.coordinator.remote_transactions import RemoteTransactions
from bytemq.broker.coordinator.transaction.transaction import TopicPartition
from bytemq.broker.coordinator.transaction_coordinators import TransactionCoordinators
from bytemq.broker.fetch_sessions import FetchSessions
from bytemq.broker.http import HttpServer, Route
from bytemq.broker.load_reporter import LoadReporter
from bytemq.broker.log.partitions import PartitionTable
from bytemq.broker.log.services import LogServices
from bytemq.broker.orphans import Orphans
from bytemq.broker.ownership import Ownership
from bytemq.broker.peers import Peers
from bytemq.broker.server import BoundListener, Server, bind
from bytemq.broker.topic_admin import TopicAdmin
from bytemq.broker.transaction_admission import TransactionAdmission
from bytemq.compaction import cleaner_metrics, table_metrics
from bytemq.compaction.cleaner import Cleaner
from bytemq.compaction.worker import Worker
from bytemq.config import BrokerConfig, InvalidConfig, TopicConfig
from bytemq.errors import BytemqError, Corrupt, Fenced, Invalid
from bytemq.metadata import keys
from bytemq.metadata.data_lock import DataLock
from bytemq.metadata.embedded import EmbeddedStore
from bytemq.metadata.follower import ImageFollower
from bytemq.metadata.identity import ensure_identity
from bytemq.metadata.image import ClusterImage, ImageChange, TopicImage
from bytemq.metadata.opening import open_metadata
from bytemq.metadata.producer_ids import ProducerIds
from bytemq.metadata.store import MetadataStore
from bytemq.metadata.topic_names import OFFSETS_TOPIC, TRANSACTION_TOPIC
from bytemq.metadata.values import BrokerValue
from bytemq.node_iceberg import IcebergRoutes
from bytemq.node_tables import Tables
from bytemq.node_tables_http import TableRoutes
from bytemq.runtime.budget import MemoryBudget
from bytemq.runtime.clock import Clock, SystemClock
from bytemq.runtime.deadlines import Deadlines
from bytemq.runtime.logging import get_logger
from bytemq.runtime.metrics import Metrics
from bytemq.runtime.tasks import Supervisor
from bytemq.scheduler import cluster_metrics
from bytemq.scheduler.cluster_metrics import HasMembers, MemberWatch
from bytemq.scheduler.controller import Controller
from bytemq.scheduler.membership import Membership, SessionLost, check_clock
from bytemq.storage.log_storage import LogStorage
from bytemq.storage.logs import Logs
from bytemq.storage.settings import Durability
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.stores.local import LocalStore
from bytemq.storage.wal.wal_index import newest_session

log = get_logger("node")

RECORD_THREADS = 2
FETCH_SESSION_MIN_EVICTION_MS = 120_000
"""Kafka's constant (KIP-227)."""


class Node:
    """A running node. `Node.start`, then `wait` and `stop`."""

    def __init__(self, config: BrokerConfig, clock: Clock) -> None:
        self.config = config
        """With the dynamic configs of the moment."""
        self.addresses: dict[str, tuple[str, int]] = {}
        """Where it listens, by listener name."""
        self.http_address: tuple[str, int] | None = None
        """Where metrics and health are told; None: nowhere."""
        self._ready = False
        self._clock = clock
        self._random = SystemRandom()
        self._metrics = Metrics()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._supervisor = Supervisor(clock, self._fail)
        self._parts = AsyncExitStack()
        self._broker: Broker | None = None
        self.tables: Tables | None = None
        """None without the extra `tables`: nothing is converted, and what was is not read."""

    @classmethod
    async def start(cls, config: BrokerConfig, clock: Clock | None = None) -> Node:
        """A node that serves clients. Raises BytemqError with a sentence for the user; nothing is left open then."""
        async with AsyncExitStack() as parts:
            node = cls(config, clock or SystemClock())
            await node._start(parts)
            node._parts = parts.pop_all()
        return node

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
        data = node_settings.node_folder(self.config)
        lock = DataLock.acquire(data)
        parts.callback(lock.release)
        store = await self._open_metadata(lock)
        parts.push_async_callback(store.close)
        await _check_age(data, store)
        cluster_id = await ensure_identity(store, os.urandom)
        shared = await self._open_shared_store(parts, store, cluster_id)
        await self._read_dynamic_configs(store)

        sockets = bind(node_settings.listeners(self.config))
        for _, opened in sockets:
            parts.callback(opened.close)
        membership = await self._join(store, sockets)
        parts.push_async_callback(membership.leave)
        if node_tables.are_available():
            self.tables = Tables(data, self.config.bytemq_storage or data.resolve().as_uri())
            parts.push_async_callback(self.tables.close)
        logs = await self._open_logs(parts, data, shared, store, membership)
        partitions = self._partition_table(parts, logs, membership)
        follower = ImageFollower(store, self._clock)
        await follower.load()
        self._take_dynamic_configs(follower.image)  # of the broker id that was claimed
        listener = node_settings.inter_broker_listener(self.config)
        peers = Peers(lambda: follower.image, membership.broker_id, listener, self._supervisor)
        ownership = self._build_broker(store, follower, membership, partitions, peers)
        cleaner = self._build_cleaner(parts, partitions, logs)
        server = Server(self.broker, node_settings.server_limits(self.config))
        parts.push_async_callback(ownership.close_all)
        parts.callback(self.broker.groups.close)
        parts.callback(self.broker.transactions.close)
        parts.push_async_callback(self._supervisor.close)
        parts.callback(peers.close)
        parts.push_async_callback(server.stop)

        controller = Controller(store, follower, membership, self._clock)
        self._start_tasks(store, follower, membership, controller, ownership)
        self._supervisor.keep_running("cleaner", cleaner.run)
        await controller.stand()
        await self._start_http(parts)
        await ownership.settle()
        self.addresses = await server.serve(sockets)
        self._ready = True
        self._supervisor.start("warm up", server.warm_up())

    async def _start_http(self, parts: AsyncExitStack) -> None:
        address = node_settings.http_address(self.config)
        if address is None:
            return
        http = HttpServer(
            self._metrics,
            lambda: None if self._ready else "the node is starting",
            self._clock,
            self._http_routes(parts),
        )
        parts.push_async_callback(http.stop)
        try:
            self.http_address = await http.start(*address)
        except OSError as error:
            problem = (
                f"cannot listen on {address[0]}:{address[1]} for metrics and health: {error.strerror}. "
                "Choose another address with --set bytemq.http.listen=HOST:PORT, or none with an empty one."
            )
            if "bytemq.http.listen" in self.config.static:
                raise Invalid(problem) from error
            # Nobody asked for the default address: a second node on this machine is no reason not to start.
            log.warning("no metrics and no health over HTTP", reason=problem)

    def _http_routes(self, parts: AsyncExitStack) -> dict[str, Route]:
        if self.tables is None:
            return {}
        queries = self.tables.queries(node_settings.sql_limits(self.config))
        parts.push_async_callback(queries.close)
        routes = TableRoutes(self.tables, queries)
        iceberg = IcebergRoutes(self.tables)
        return {"/tables": routes.tables, "/sql": routes.sql, "/iceberg": iceberg.iceberg}

    async def _open_metadata(self, lock: DataLock) -> MetadataStore:
        if not self.config.bytemq_metadata:
            # Also with page-cache durability: files are used again on the strength of what was published before.
            return EmbeddedStore.open(lock, "fsync")
        return await open_metadata(self.config.bytemq_metadata, os.environ)

    def _durability(self) -> Durability:
        return "page-cache" if self.config.bytemq_durability == "page-cache" else "fsync"

    async def _join(self, store: MetadataStore, sockets: list[BoundListener]) -> Membership:
        bound = {listener.name: opened.getsockname()[:2] for listener, opened in sockets}
        addresses = node_settings.advertised(self.config, bound, socket.gethostname())
        value = BrokerValue(
            self.config.broker_rack,
            addresses,
            __version__,
            os.urandom(8).hex(),
            self.config.bytemq_capacity / 100,
        )
        await check_clock(store, self._clock)
        ttl_s = self.config.broker_session_timeout_ms / 1000
        wanted = None if self.config.bytemq_node_id_auto else self.config.node_id
        membership = await Membership.join(store, self._clock, wanted, value, ttl_s)
        self.config = self.config.with_node_id(membership.broker_id)
        return membership

    async def _open_shared_store(
        self, parts: AsyncExitStack, store: MetadataStore, cluster_id: str
    ) -> ObjectStore | None:
        """None: this node keeps its records in its data folder."""
        if not self.config.bytemq_storage:
            return None
        from bytemq.storage.objects.shared_store import open_shared_store

        manifests, revision = await store.range(keys.MANIFESTS)
        shared = await open_shared_store(
            self.config.bytemq_storage,
            cluster_id,
            revision,
            self._clock,
            self._random,
            holds_logs=bool(manifests),
        )
        parts.push_async_callback(shared.close)
        return shared

    async def _open_logs(
        self,
        parts: AsyncExitStack,
        data: Path,
        shared: ObjectStore | None,
        store: MetadataStore,
        membership: Membership,
    ) -> Logs:
        # Of its own: its tasks are needed until it is closed, which is after all others have ended.
        supervisor = Supervisor(self._clock, self._storage_failed)
        if shared is not None:
            parts.push_async_callback(supervisor.close)
            return await self._open_shared_logs(parts, shared, store, membership, supervisor)
        files = LocalStore(data)
        parts.push_async_callback(files.close)
        parts.push_async_callback(supervisor.close)
        logs = await LogStorage.open(
            files,
            store,
            session_id=membership.session_id,
            config=node_settings.storage_config(self.config),
            clock=self._clock,
            supervisor=supervisor,
            durability=self._durability(),
            restorer=None if self.tables is None else self.tables.restorer,
        )
        parts.push_async_callback(logs.close)
        return logs

    async def _open_shared_logs(
        self,
        parts: AsyncExitStack,
        shared: ObjectStore,
        store: MetadataStore,
        membership: Membership,
        supervisor: Supervisor,
    ) -> Logs:
        from bytemq.storage import storage_metrics
        from bytemq.storage.cache.scratch import ScratchBlocks
        from bytemq.storage.cluster_storage import ClusterStorage, Session

        config = node_settings.storage_config(self.config)
        scratch = ScratchBlocks(node_settings.scratch_folder(self.config) / "cache", config.storage_scratch_bytes)
        parts.push_async_callback(scratch.close)
        logs = await ClusterStorage.open(
            shared,
            store,
            session=Session(membership.broker_id, membership.session_id),
            config=config,
            clock=self._clock,
            random=self._random,
            supervisor=supervisor,
            scratch=scratch,
            restorer=None if self.tables is None else self.tables.restorer,
        )
        parts.push_async_callback(logs.close)
        storage_metrics.register(self._metrics, logs, shared)
        return logs

    def _partition_table(self, parts: AsyncExitStack, logs: Logs, membership: Membership) -> PartitionTable:
        executor = ThreadPoolExecutor(RECORD_THREADS, "bytemq-records")
        parts.callback(executor.shutdown, wait=False)
        expiration_ms = self.config.producer_id_expiration_ms
        return PartitionTable(
            LogServices(logs, self._clock, executor, producer_id_expiration_ms=expiration_ms), membership.standing
        )

    def _build_cleaner(self, parts: AsyncExitStack, partitions: PartitionTable, logs: Logs) -> Cleaner:
        memory_bytes = node_settings.worker_memory_bytes(self.config)
        worker = Worker("background", node_settings.store_url(self.config), memory_bytes=memory_bytes)
        parts.push_async_callback(worker.close)
        cleaner = Cleaner(partitions, logs, worker, self._clock, lambda: node_settings.cleaner_settings(self.config))
        cleaner_metrics.register(self._metrics, cleaner, worker)
        return cleaner

    def _storage_failed(self, name: str, error: BaseException) -> None:
        """Storage may be the first to notice that the session has ended."""
        self._fail(name, SessionLost(str(error)) if isinstance(error, Fenced) else error)

    def _build_broker(
        self,
        store: MetadataStore,
        follower: ImageFollower,
        membership: Membership,
        partitions: PartitionTable,
        peers: Peers,
    ) -> Ownership:
        groups = GroupCoordinators(
            config=lambda: self.config,
            image=lambda: follower.image,
            clock=self._clock,
            random=self._random,
            supervisor=self._supervisor,
            standing=membership.standing,
        )

        def on_marker(partition: TopicPartition, producer_id: int) -> None:
            admission.marker_comes(partition, producer_id)

        markers = MarkerWriter(partitions, groups, self._clock, on_marker)
        producer_ids = ProducerIds(store)
        remote = RemoteTransactions(peers, lambda: follower.image, membership.broker_id, self._supervisor)
        transactions = self._transaction_coordinators(follower, membership, producer_ids, markers, remote)
        admission = TransactionAdmission(transactions, remote, lambda: self.config, self._clock, self._supervisor)
        partitions.services.guard = admission
        ownership = Ownership(
            broker_id=membership.broker_id,
            session_id=membership.session_id,
            store=store,
            follower=follower,
            partitions=partitions,
            coordinators={OFFSETS_TOPIC: groups, TRANSACTION_TOPIC: transactions},
            topic_config=self._topic_config,
            clock=self._clock,
        )
        topics = TopicAdmin(
            store=store,
            follower=follower,
            ownership=ownership,
            config=lambda: self.config,
            random_bytes=os.urandom,
        )
        self._broker = Broker(
            node_id=membership.broker_id,
            config=self.config,
            image=follower.image,
            metadata=store,
            topics=topics,
            partitions=partitions,
            groups=groups,
            transactions=transactions,
            admission=admission,
            markers=markers,
            producer_ids=producer_ids,
            fetch_sessions=FetchSessions(
                self.config.max_incremental_fetch_session_cache_slots, FETCH_SESSION_MIN_EVICTION_MS, self._random
            ),
            response_memory=MemoryBudget(self.config.bytemq_response_memory_bytes),
            clock=self._clock,
            random=self._random,
            metrics=self._metrics,
            supervisor=self._supervisor,
            deadlines=Deadlines(self._clock),
            traffic=Traffic(self._metrics),
            standing=membership.standing,
        )

        broker_metrics.register(self._broker)

        def image_changed(change: ImageChange) -> None:
            if change.brokers:
                self._check_session(membership, follower.image)
            groups.on_image_change(change)
            if {("broker", ""), ("broker", str(membership.broker_id))} & change.configs:
                self._take_dynamic_configs(follower.image)
                ownership.reconfigure_all()

        follower.subscribe(image_changed)
        return ownership

    def _transaction_coordinators(
        self,
        follower: ImageFollower,
        membership: Membership,
        producer_ids: ProducerIds,
        markers: MarkerWriter,
        remote: RemoteTransactions,
    ) -> TransactionCoordinators:
        def image() -> ClusterImage:
            return follower.image

        broker_id = membership.broker_id
        return TransactionCoordinators(
            config=lambda: self.config,
            image=image,
            producer_ids=producer_ids,
            markers=lambda made: MarkerSender(made, markers, image, self._clock, broker_id=broker_id, remote=remote),
            clock=self._clock,
            supervisor=self._supervisor,
            standing=membership.standing,
        )

    def _start_tasks(
        self,
        store: MetadataStore,
        follower: ImageFollower,
        membership: Membership,
        controller: Controller,
        ownership: Ownership,
    ) -> None:
        partitions = self.broker.partitions
        self._supervisor.start_essential("metadata follower", follower.run())
        self._supervisor.start_essential("session", membership.run())
        self._supervisor.keep_running("controller", controller.run)
        cluster_metrics.register(self._metrics, lambda: follower.image, membership, controller)
        if isinstance(store, HasMembers):
            members = MemberWatch(store.members, self._clock)
            members.register(self._metrics)
            self._supervisor.keep_running("metadata members", members.run)
        self._supervisor.keep_running("balance", controller.run_looks)
        reporter = LoadReporter(self.broker, membership.session_id, membership.lease)
        self._supervisor.keep_running("load report", reporter.run)
        self._supervisor.keep_running("ownership", ownership.run)
        self._supervisor.keep_running("retention", self._retain)
        self._supervisor.keep_running("adoption", lambda: adopt(partitions, self._clock))
        if self.tables is not None:
            restructuring = self.tables.attach(
                partitions,
                lambda: follower.image,
                partitions.services.storage,
                self._clock,
                membership.session_id,
                self.config.bytemq_table_grace_ms,
            )
            table_metrics.register(self._metrics, restructuring)
            self._supervisor.keep_running("tables", restructuring.run)
        orphans = Orphans(store, follower, partitions, membership.broker_id, membership.session_id, self._clock)
        self._supervisor.keep_running("orphans", orphans.run)

    def _check_session(self, membership: Membership, image: ClusterImage) -> None:
        try:
            membership.check(image)
        except SessionLost as error:
            self._fail("session", error)

    async def _retain(self) -> None:
        while True:
            await self._clock.sleep(self.config.log_retention_check_interval_ms / 1000)
            await self.broker.partitions.apply_retention()

    def _topic_config(self, topic: TopicImage) -> TopicConfig:
        """A topic whose configs this version does not take keeps working, with the broker's defaults."""
        try:
            return self.config.topic_config(topic.configs)
        except InvalidConfig as error:
            log.error("configs of a topic are ignored", topic=topic.name, reason=str(error))
            return self.config.topic_config()

    async def _read_dynamic_configs(self, store: MetadataStore) -> None:
        """Before there is an image: it is made once, when our session is in it."""
        entries, revision = await store.range(keys.CONFIGS)
        image = ClusterImage()
        image.apply(image.events_from_listing(entries, revision))
        self._take_dynamic_configs(image)

    def _take_dynamic_configs(self, image: ClusterImage) -> None:
        dynamic = image.broker_configs(self.config.node_id)
        try:
            self.config = self.config.with_dynamic(image.broker_default_configs, dynamic)
        except InvalidConfig as error:
            log.error("dynamic configs are ignored", reason=str(error))
        if self._broker is not None:
            self._broker.config = self.config
            self._broker.partitions.services.producer_id_expiration_ms = self.config.producer_id_expiration_ms

    def _fail(self, name: str, error: BaseException) -> None:
        if not self._ended.done():
            reason = error if isinstance(error, BytemqError) else Fenced(f"{name} failed: {error!r}")
            self._ended.set_exception(reason)


async def _check_age(data: Path, store: MetadataStore) -> None:
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
