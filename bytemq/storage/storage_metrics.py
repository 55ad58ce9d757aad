"""What a storage on a shared store tells at each scrape: requests, bytes, memory and cache.

Owns the reading of what the parts count, under names documented in docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bytemq.runtime.metrics import Metrics, Sample
from bytemq.storage.cluster_storage import ClusterStorage
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.stores.remote import RemoteStore, Traffic


def register(metrics: Metrics, storage: ClusterStorage, store: ObjectStore) -> None:
    """Once per node. A store of files counts no requests."""
    cache = storage.cache
    metrics.gauge("bytemq_wal_flushes", "Objects of the write-ahead log in use", lambda: storage.wal_flushes)
    metrics.gauge("bytemq_wal_memory_bytes", "Newest part of the WAL in memory", lambda: storage.tail_memory_bytes)
    followed = storage.followed
    metrics.gauge(
        "bytemq_followed_memory_bytes", "Newest part of other brokers' WAL in memory", lambda: followed.memory_bytes
    )
    metrics.gauge("bytemq_cache_bytes", "Blocks of objects in memory", lambda: cache.size_bytes)
    metrics.gauge("bytemq_cache_hits_total", "Blocks found in memory", lambda: cache.hits)
    metrics.gauge("bytemq_cache_misses_total", "Blocks read from the store", lambda: cache.misses)
    traffic = store.traffic if isinstance(store, RemoteStore) else Traffic()
    metrics.gauges(
        "bytemq_store_requests_total", "Requests to the store", ("operation",), lambda: _by_name(traffic.requests)
    )
    metrics.gauges(
        "bytemq_store_failures_total", "Those that failed", ("operation",), lambda: _by_name(traffic.failures)
    )
    metrics.gauge("bytemq_store_written_bytes_total", "Bytes sent to the store", lambda: traffic.written_bytes)
    metrics.gauge("bytemq_store_read_bytes_total", "Bytes received from it", lambda: traffic.read_bytes)


def _by_name(counts: Mapping[str, int]) -> Iterator[Sample]:
    for name, count in counts.items():
        yield (name,), count
