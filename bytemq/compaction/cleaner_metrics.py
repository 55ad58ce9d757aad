"""What the cleaner tells of itself at each scrape. Owns the names, documented in docs/metrics.md."""

from __future__ import annotations

from bytemq.compaction.cleaner import Cleaner
from bytemq.compaction.worker import Worker
from bytemq.runtime.metrics import Metrics


def register(metrics: Metrics, cleaner: Cleaner, worker: Worker) -> None:
    """Once per node."""
    counts = cleaner.counts
    metrics.gauge("bytemq_cleaner_cleanings_total", "Cleanings so far", lambda: counts.cleanings)
    metrics.gauge("bytemq_cleaner_failures_total", "Cleanings that failed so far", lambda: counts.failures)
    metrics.gauge("bytemq_cleaner_read_bytes_total", "Bytes of segments read", lambda: counts.read_bytes)
    metrics.gauge("bytemq_cleaner_written_bytes_total", "Bytes of segments written", lambda: counts.written_bytes)
    metrics.gauge("bytemq_cleaner_removed_records_total", "Records removed", lambda: counts.removed_records)
    metrics.gauge("bytemq_cleaner_raw_batches_total", "Batches kept unread", lambda: counts.raw_batches)
    metrics.gauge("bytemq_cleaner_max_dirty_ratio", "Dirty part of the dirtiest log", lambda: counts.max_dirty_ratio)
    metrics.gauge("bytemq_cleaner_uncleanable_partitions", "Logs that cannot be cleaned", lambda: len(counts.failing))
    metrics.gauge("bytemq_worker_busy", "1 while the worker process does a job", lambda: worker.is_busy)
    metrics.gauge("bytemq_worker_deaths_total", "Jobs that ended with their process", lambda: worker.deaths)
