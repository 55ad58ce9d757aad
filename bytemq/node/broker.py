"""The parts of a broker, joined: coordinators, markers, admission, ownership, and what handlers see of them.

Owns: which part is given which other. Must not: open, start or stop anything.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

from bytemq.broker import broker_metrics
from bytemq.broker.context import Broker, Traffic
from bytemq.broker.coordinator.group_coordinators import GroupCoordinators
from bytemq.broker.coordinator.marker_sender import MarkerSender
from bytemq.broker.coordinator.marker_writer import MarkerWriter
from bytemq.broker.coordinator.remote_transactions import RemoteTransactions
from bytemq.broker.coordinator.transaction.transaction import TopicPartition
from bytemq.broker.coordinator.transaction_coordinators import TransactionCoordinators
from bytemq.broker.fetch_sessions import FetchSessions
from bytemq.broker.followers import Followers
from bytemq.broker.log.partitions import PartitionTable
from bytemq.broker.log.services import LogServices
from bytemq.broker.ownership import Ownership
from bytemq.broker.peers import Peers
from bytemq.broker.topic_admin import TopicAdmin
from bytemq.broker.transaction_admission import TransactionAdmission
from bytemq.metadata.image import ImageChange
from bytemq.metadata.producer_ids import ProducerIds
from bytemq.metadata.topic_names import OFFSETS_TOPIC, TRANSACTION_TOPIC
from bytemq.node.foundation import Foundation
from bytemq.runtime.budget import MemoryBudget
from bytemq.runtime.deadlines import Deadlines
from bytemq.scheduler.membership import SessionLost
from bytemq.storage.logs import Logs

RECORD_THREADS = 2
FETCH_SESSION_MIN_EVICTION_MS = 120_000
"""Kafka's constant (KIP-227)."""


def partition_table(parts: AsyncExitStack, base: Foundation, logs: Logs) -> PartitionTable:
    executor = ThreadPoolExecutor(RECORD_THREADS, "bytemq-records")
    parts.callback(executor.shutdown, wait=False)
    config = base.config.now
    services = LogServices(
        logs,
        base.clock,
        executor,
        config.bytemq_decompression_memory_bytes,
        producer_id_expiration_ms=config.producer_id_expiration_ms,
    )
    return PartitionTable(services, base.membership.standing)


def join_broker(
    base: Foundation, partitions: PartitionTable, of_transactions: Peers, of_tools: Peers
) -> tuple[Broker, Ownership]:
    """A broker that follows the metadata from now on."""
    config = base.config
    groups = GroupCoordinators(
        broker_id=base.broker_id,
        config=lambda: config.now,
        image=lambda: base.image,
        clock=base.clock,
        random=base.random,
        supervisor=base.supervisor,
        standing=base.membership.standing,
    )

    def on_marker(partition: TopicPartition, producer_id: int) -> None:
        admission.marker_comes(partition, producer_id)

    markers = MarkerWriter(partitions, groups, base.clock, on_marker)
    producer_ids = ProducerIds(base.store)
    remote = RemoteTransactions(of_transactions, lambda: base.image, base.broker_id, base.supervisor)
    transactions = _transaction_coordinators(base, producer_ids, markers, remote)
    admission = TransactionAdmission(transactions, remote, lambda: config.now, base.clock, base.supervisor)
    partitions.services.guard = admission
    ownership = Ownership(
        broker_id=base.broker_id,
        session_id=base.membership.session_id,
        lease=base.membership.lease,
        store=base.store,
        follower=base.follower,
        partitions=partitions,
        coordinators={OFFSETS_TOPIC: groups, TRANSACTION_TOPIC: transactions},
        topic_config=config.of_topic,
        clock=base.clock,
    )
    broker = Broker(
        node_id=base.broker_id,
        config=config.now,
        image=base.image,
        metadata=base.store,
        topics=TopicAdmin(
            store=base.store,
            follower=base.follower,
            ownership=ownership,
            config=lambda: config.now,
            random_bytes=os.urandom,
        ),
        partitions=partitions,
        groups=groups,
        transactions=transactions,
        admission=admission,
        markers=markers,
        peers=of_tools,
        producer_ids=producer_ids,
        fetch_sessions=FetchSessions(
            config.now.max_incremental_fetch_session_cache_slots, FETCH_SESSION_MIN_EVICTION_MS, base.random
        ),
        response_memory=MemoryBudget(config.now.bytemq_response_memory_bytes),
        clock=base.clock,
        random=base.random,
        metrics=base.metrics,
        supervisor=base.supervisor,
        deadlines=Deadlines(base.clock),
        traffic=Traffic(base.metrics),
        standing=base.membership.standing,
        endpoints=base.image.brokers[base.broker_id].endpoints if base.broker_id in base.image.brokers else {},
        followers=Followers(
            partitions.services.storage.followed,
            lambda: base.image,
            base.broker_id,
            base.membership.standing,
            base.clock,
            base.supervisor,
        ),
    )
    broker_metrics.register(broker)
    _follow_image(base, broker, ownership)
    return broker, ownership


def _transaction_coordinators(
    base: Foundation, producer_ids: ProducerIds, markers: MarkerWriter, remote: RemoteTransactions
) -> TransactionCoordinators:
    return TransactionCoordinators(
        broker_id=base.broker_id,
        config=lambda: base.config.now,
        image=lambda: base.image,
        producer_ids=producer_ids,
        markers=lambda made: MarkerSender(
            made, markers, lambda: base.image, base.clock, broker_id=base.broker_id, remote=remote
        ),
        clock=base.clock,
        supervisor=base.supervisor,
        standing=base.membership.standing,
    )


def _follow_image(base: Foundation, broker: Broker, ownership: Ownership) -> None:
    mine = {("broker", ""), ("broker", str(base.broker_id))}

    def image_changed(change: ImageChange) -> None:
        if change.brokers:
            try:
                base.membership.check(base.image)
            except SessionLost as error:
                base.fail("session", error)
        broker.groups.on_image_change(change)
        broker.transactions.on_image_change(change)
        broker.traffic.forget(change.deleted)
        if broker.followers is not None:
            broker.followers.on_image_change(change)
        if mine & change.configs:
            base.config.take(base.image)
            broker.config = base.config.now
            broker.partitions.services.producer_id_expiration_ms = base.config.now.producer_id_expiration_ms
            ownership.reconfigure_all()

    base.follower.subscribe(image_changed)
