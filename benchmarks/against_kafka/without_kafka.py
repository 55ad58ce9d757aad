"""What Kafka has no counterpart of, compared with something else: an object store with the store alone, several brokers
on one machine with one. Each starts all that it needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks import several_brokers
from benchmarks.against_kafka.measures import Figures, Pace
from benchmarks.object_store import SETTLE_S, at_a_rate, broker_on, flat_out, of_the_store, one_connection
from benchmarks.object_store import preferred_store as store
from tests.support.node_process import NodeProcess

RATE_MB_S = 50.0
BROKERS = 2

Comparison = Callable[[Pace], tuple[Figures, Figures]]
"""One run of either."""


def store_flat_out(pace: Pace) -> tuple[Figures, Figures]:
    with broker_on(store()) as (node, s3):
        alone_mb_s = of_the_store(s3, pace.seconds)
        return flat_out(node, pace.seconds), {"MB/s": alone_mb_s}


def store_at_a_rate(pace: Pace) -> tuple[Figures, Figures]:
    """What is asked of the store for each GB, until all of it lies in segments; nothing to compare it with."""
    with broker_on(store()) as (node, _):
        time.sleep(SETTLE_S)  # a start looks for what others have left
        during, whole = at_a_rate(node, pace.seconds, RATE_MB_S)
    return {**during, **whole, "LIST/GB meanwhile": during["LIST/GB"]}, {}


def store_one_connection(pace: Pace) -> tuple[Figures, Figures]:
    with broker_on(store()) as (node, s3):
        return one_connection(node, s3, pace.seconds)


def two_brokers(pace: Pace) -> tuple[Figures, Figures]:
    with several_brokers.one_and_several(BROKERS, ["--durability", "page-cache"]) as nodes:
        one, several = (_of_brokers(nodes[count], count, pace) for count in (1, BROKERS))
    return several, one


def _of_brokers(node: NodeProcess, brokers: int, pace: Pace) -> Figures:
    rate_mb_s, p99_ms, cpu_s_per_gb = several_brokers.run(node, brokers, several_brokers.WORKLOADS[0], pace.seconds)
    return {"MB/s": rate_mb_s, "p99 ms": p99_ms, "CPU s/GB": cpu_s_per_gb}
