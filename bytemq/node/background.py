"""What a node does by itself, beside answering requests: each a task that is started again when it crashes.

Owns: the list of these tasks. Must not: do their work.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from bytemq.broker.adoption import adopt
from bytemq.broker.context import Broker
from bytemq.broker.load_reporter import LoadReporter
from bytemq.broker.neighbours import Neighbours
from bytemq.broker.orphans import Orphans
from bytemq.broker.ownership import Ownership
from bytemq.broker.whole_topics import WholeTopics
from bytemq.compaction import cleaner_metrics, table_metrics
from bytemq.compaction.cleaner import Cleaner
from bytemq.compaction.table_builds import Asker, TableBuilds
from bytemq.compaction.worker import Worker
from bytemq.metadata.doubts import Doubts
from bytemq.node import settings
from bytemq.node.foundation import Foundation
from bytemq.node.tables import Tables, refused_build
from bytemq.scheduler import cluster_metrics
from bytemq.scheduler.cluster_metrics import HasMembers, MemberWatch
from bytemq.scheduler.controller import Controller
from bytemq.storage.logs import Logs
from bytemq.storage.pools.opening import pool_urls
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.tables.published_columns import ColumnStore

SCRATCH = "scratch/background"


def start_session(base: Foundation) -> None:
    """What keeps the session that the node has joined under: at once, for the rest of a start may take its time."""
    base.supervisor.start_essential("session", base.membership.run())


def start_membership(base: Foundation, controller: Controller) -> None:
    """What keeps the node in its cluster, and the cluster in order."""
    tasks = base.supervisor
    tasks.start_essential("metadata follower", base.follower.run())
    tasks.keep_running("controller", controller.run)
    tasks.keep_running("balance", controller.run_looks)
    cluster_metrics.register(base.metrics, lambda: base.image, base.membership, controller)
    if isinstance(base.store, HasMembers):
        members = MemberWatch(base.store.members, base.clock)
        members.register(base.metrics)
        tasks.keep_running("metadata members", members.run)


def start_housekeeping(base: Foundation, broker: Broker, ownership: Ownership) -> None:
    """What keeps the broker's own partitions in order."""
    tasks, membership, partitions = base.supervisor, base.membership, broker.partitions
    reporter = LoadReporter(broker, membership.session_id, membership.lease)
    tasks.keep_running("load report", reporter.run)
    tasks.keep_running("ownership", ownership.run)
    tasks.keep_running("retention", partial(_retain, base, broker))
    if broker.followers is not None:
        tasks.keep_running("followers", broker.followers.run)
    tasks.keep_running("adoption", lambda: adopt(partitions, base.clock))
    neighbours = Neighbours(
        broker_id=base.broker_id,
        listener=settings.inter_broker_listener(base.config.now),
        follower=base.follower,
        look_ahead=partitions.services.storage.look_ahead,
        doubt=Doubts(base.store, base.clock, base.broker_id, membership.lease).end_unless_it_objects,
        clock=base.clock,
        supervisor=tasks,
    )
    tasks.keep_running("neighbours", neighbours.run)
    orphans = Orphans(base.store, base.follower, partitions, base.broker_id, membership.session_id, base.clock)
    tasks.keep_running("orphans", orphans.run)


def start_cleaner(parts: AsyncExitStack, base: Foundation, broker: Broker, logs: Logs, data: Path) -> None:
    """`data`: the node's own folder."""
    config = base.config
    memory_bytes = settings.worker_memory_bytes(config.now)
    worker = Worker(
        "background",
        settings.store_url(config.now),
        memory_bytes=memory_bytes,
        pools=lambda: pool_urls(base.image.pools),
        scratch=data / SCRATCH,
    )
    parts.push_async_callback(worker.close)
    cleaner = Cleaner(
        broker.partitions,
        logs,
        worker,
        base.clock,
        lambda: settings.cleaner_settings(config.now),
        ColumnStore(base.store),
    )
    cleaner_metrics.register(base.metrics, cleaner, worker)
    base.supervisor.keep_running("cleaner", cleaner.run)


def start_restructuring(base: Foundation, broker: Broker, logs: Logs, tables: Tables) -> None:
    assert broker.followers is not None
    image_at = base.follower.wait_for
    whole = WholeTopics(broker.partitions, broker.followers, base.store, lambda: base.image, image_at, base.broker_id)
    membership = base.membership
    restructuring = tables.attach(broker, whole, base.config.of_topic, logs, membership.session_id, membership.lease)
    base.follower.subscribe(tables.on_image_change)
    table_metrics.register(base.metrics, restructuring)
    base.supervisor.keep_running("tables", restructuring.run)
    base.supervisor.keep_running("untouched tables", tables.run_untouched)
    base.supervisor.keep_running("builds for others", tables.run_builds)


def start_refusing_builds(base: Foundation) -> None:
    """Without the extra `tables`: whoever wants a table of what is ours built is told so."""
    me = Asker(base.broker_id, base.membership.session_id, base.membership.lease)
    builds = TableBuilds(base.store, lambda: base.image, refused_build, me, base.clock, base.supervisor)
    base.supervisor.keep_running("builds for others", builds.run)


def start_exports(base: Foundation, shared: ObjectStore) -> None:
    """What makes the storage of a cluster tell its metadata."""
    from bytemq.storage.objects.metadata_exports import MetadataExports

    grace_s = base.config.now.storage_garbage_grace_ms / 1000
    exports = MetadataExports(shared, base.store, base.follower, base.broker_id, grace_s, base.clock, base.random)
    base.metrics.gauge("bytemq_metadata_export_age_seconds", "On the controller", lambda: exports.age_s)
    base.supervisor.keep_running("metadata exports", exports.run)


async def _retain(base: Foundation, broker: Broker) -> None:
    while True:
        await base.clock.sleep(base.config.now.log_retention_check_interval_ms / 1000)
        await broker.partitions.apply_retention()
