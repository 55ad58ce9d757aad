"""What a broker tells of itself at each scrape: partitions, groups and their lag, storage, tasks, fetch sessions.

Owns the reading of what the parts count, under names documented in docs/metrics.md. Nothing here runs between scrapes.
"""

from collections.abc import Iterator

from bytemq.broker.context import Broker
from bytemq.broker.log.partition import Partition
from bytemq.runtime.metrics import Sample

MAX_LAG_SERIES = 20_000
"""(group, partition) pairs in one scrape; a bound, for group ids come from clients."""


def register(broker: Broker) -> None:
    """Once per broker."""
    metrics, partitions, groups = broker.metrics, broker.partitions, broker.groups
    storage = partitions.services.storage
    metrics.gauge("bytemq_partitions_owned", "Partitions owned", lambda: sum(1 for _ in partitions.entries()))
    metrics.gauge(
        "bytemq_partitions_open", "Partitions opened since", lambda: sum(1 for _ in partitions.open_partitions())
    )
    followers = broker.followers
    metrics.gauge(
        "bytemq_partitions_followed",
        "Partitions of other brokers that are served to readers here",
        lambda: 0 if followers is None else len(followers),
    )
    opening = partitions.services.opener.memory
    metrics.gauge("bytemq_decompression_memory_bytes", "Batches being opened", lambda: opening.used_bytes)
    metrics.gauges(
        "bytemq_groups",
        "Consumer groups coordinated here, by state",
        ("state",),
        lambda: [((state,), count) for state, count in groups.group_counts().items()],
    )
    metrics.gauges(
        "bytemq_group_lag_records",
        "Committed records that a group has not committed yet, by partition owned here",
        ("group", "topic", "partition"),
        lambda: _lags(broker),
    )
    metrics.gauge("bytemq_group_offsets", "Committed offsets held in memory", lambda: groups.offset_count)
    metrics.gauge("bytemq_group_membership_bytes", "Memory of groups' members", lambda: groups.membership_bytes)
    metrics.gauge(
        "bytemq_group_damaged_records", "Records left out when groups were loaded", lambda: groups.damaged_records
    )
    metrics.gauge("bytemq_coordinators_loading", "Group coordinators being loaded", lambda: groups.loading_count)
    transactions = broker.transactions
    metrics.gauge(
        "bytemq_coordinators_damaged",
        "Coordinators that refuse their groups or transactional ids because their log is damaged",
        lambda: groups.damaged_count + transactions.damaged_count,
    )
    metrics.gauges(
        "bytemq_transactional_ids",
        "Transactional ids coordinated here, by state",
        ("state",),
        lambda: [((state.label,), count) for state, count in transactions.state_counts().items()],
    )
    metrics.gauge(
        "bytemq_transaction_timeouts_total",
        "Transactions aborted for their time was over",
        lambda: transactions.timeouts,
    )
    metrics.gauge(
        "bytemq_transaction_markers_pending", "Markers decided and not written yet", lambda: transactions.unmarked_count
    )
    metrics.gauge(
        "bytemq_transaction_damaged_records",
        "Records left out when transactions were loaded",
        lambda: transactions.damaged_records,
    )
    metrics.gauge("bytemq_wal_bytes", "Bytes of WAL files in use", lambda: storage.wal_bytes)
    metrics.gauge("bytemq_wal_pending_bytes", "Bytes appended and not yet durable", lambda: storage.pending_bytes)
    metrics.gauge("bytemq_storage_healthy", "1 unless storage refuses appends", lambda: storage.healthy is None)
    sessions = broker.fetch_sessions
    metrics.gauge("bytemq_fetch_sessions", "Incremental fetch sessions", lambda: len(sessions))
    metrics.gauge("bytemq_fetch_session_evictions_total", "Fetch sessions evicted so far", lambda: sessions.evictions)
    metrics.gauges(
        "bytemq_task_crashes_total",
        "Crashes of background tasks so far, by task",
        ("task",),
        lambda: [((name,), count) for name, count in broker.supervisor.crashes.items()],
    )


def _lags(broker: Broker) -> Iterator[Sample]:
    for count, offset in enumerate(broker.groups.committed_offsets()):
        if count >= MAX_LAG_SERIES:
            return
        partition = broker.partitions.get(offset.topic, offset.partition)
        if isinstance(partition, Partition):
            lag = max(0, partition.high_watermark - offset.offset)
            yield (offset.group_id, offset.topic, str(offset.partition)), lag
