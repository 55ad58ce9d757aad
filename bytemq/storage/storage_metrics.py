"""What a storage on shared stores tells at each scrape: requests, bytes, memory and cache.

Owns the reading of what the parts count, under names documented in docs/metrics.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from bytemq.runtime.metrics import Metrics, Sample
from bytemq.storage.cluster_storage import ClusterStorage
from bytemq.storage.pools.names import shown
from bytemq.storage.pools.pooled_store import Pool, PooledStore
from bytemq.storage.stores.remote import RemoteStore, Traffic


def register(metrics: Metrics, storage: ClusterStorage, store: PooledStore) -> None:
    """Once per node. A store of files counts no requests."""
    cache = storage.cache
    metrics.gauge("bytemq_wal_flushes", "Objects of the write-ahead log in use", lambda: storage.wal_flushes)
    metrics.gauge("bytemq_wal_flushes_total", "Those that were started", lambda: storage.wal_flushes_started)
    metrics.gauge("bytemq_wal_memory_bytes", "Newest part of the WAL in memory", lambda: storage.tail_memory_bytes)
    followed = storage.followed
    metrics.gauge(
        "bytemq_followed_memory_bytes", "Newest part of other brokers' WAL in memory", lambda: followed.memory_bytes
    )
    metrics.gauge("bytemq_cache_bytes", "Blocks of objects in memory", lambda: cache.size_bytes)
    metrics.gauge("bytemq_cache_hits_total", "Blocks found in memory", lambda: cache.hits)
    metrics.gauge("bytemq_cache_misses_total", "Blocks read from the store", lambda: cache.misses)
    metrics.gauges(
        "bytemq_store_requests_total",
        "Requests to the stores",
        ("operation",),
        lambda: _by_name(traffic.requests for traffic in _traffic(store)),
    )
    metrics.gauges(
        "bytemq_store_failures_total",
        "Those that failed",
        ("operation",),
        lambda: _by_name(traffic.failures for traffic in _traffic(store)),
    )
    metrics.gauge("bytemq_store_written_bytes_total", "Bytes sent", lambda: _sum(store, lambda of: of.written_bytes))
    metrics.gauge("bytemq_store_read_bytes_total", "Bytes received", lambda: _sum(store, lambda of: of.read_bytes))
    _register_pools(metrics, store)


def _register_pools(metrics: Metrics, store: PooledStore) -> None:
    """Of each of several stores: where there is one, the metrics above say it all."""

    def each(value: Callable[[Pool], float]) -> Callable[[], Iterable[Sample]]:
        def samples() -> Iterator[Sample]:
            for pool in () if store.is_alone else store.pools.values():
                yield (shown(pool.name),), value(pool)

        return samples

    of = ("pool",)
    rank, drained = each(lambda pool: pool.health.rank), each(lambda pool: pool.is_drained)
    metrics.gauges("bytemq_pool_rank", "0 well, 1 slow, 2 failing, 3 not reached", of, rank)
    metrics.gauges("bytemq_pool_drained", "Whether nothing new goes there", of, drained)
    write_s, falls = each(lambda pool: pool.health.write_s), each(lambda pool: pool.health.falls)
    metrics.gauges("bytemq_pool_write_seconds", "What a write takes, about", of, write_s)
    metrics.gauges("bytemq_pool_falls_total", "How often it was taken for sick", of, falls)
    requests = each(lambda pool: sum(_of(pool).requests.values()))
    failures = each(lambda pool: sum(_of(pool).failures.values()))
    metrics.gauges("bytemq_pool_requests_total", "Requests", of, requests)
    metrics.gauges("bytemq_pool_failures_total", "Those that failed", of, failures)
    written_bytes, read_bytes = each(lambda pool: _of(pool).written_bytes), each(lambda pool: _of(pool).read_bytes)
    metrics.gauges("bytemq_pool_written_bytes_total", "Bytes sent", of, written_bytes)
    metrics.gauges("bytemq_pool_read_bytes_total", "Bytes received", of, read_bytes)


def _traffic(store: PooledStore) -> Iterator[Traffic]:
    return map(_of, store.pools.values())


def _of(pool: Pool) -> Traffic:
    return pool.store.traffic if isinstance(pool.store, RemoteStore) else Traffic()


def _sum(store: PooledStore, value: Callable[[Traffic], int]) -> int:
    return sum(map(value, _traffic(store)))


def _by_name(counts: Iterable[Mapping[str, int]]) -> Iterator[Sample]:
    together: Counter[str] = Counter()
    for of_one in counts:
        together.update(of_one)
    for name, count in together.items():
        yield (name,), count
