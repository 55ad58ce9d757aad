"""How long a transaction takes on an object store, beside the time of one flush: a librdkafka producer, a broker on S3.

    python -m benchmarks.transactions [--count 50] [--s3 minio|seaweedfs] [--brokers 1]

Alternately, each after a pause: one record that is acknowledged (a flush, and what the protocol costs), and begin,
produce, commit. Then transactions one after the other, where each also waits until the one before is completed, which
is two flushes more. MinIO's program is named by MINIO or found in PATH; SeaweedFS comes with the tests. Metadata are in
etcd.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

from confluent_kafka import Producer

from benchmarks.clusters import cluster_on_s3
from tests.support.s3_server import minio_program

PAUSE_S = 0.3
"""More than an interval of flushes."""
TOPIC = "t"


def timed(action: Callable[[], None]) -> float:
    """In ms."""
    began = time.monotonic()
    action()
    return (time.monotonic() - began) * 1000


def after_a_pause(action: Callable[[], None]) -> float:
    time.sleep(PAUSE_S)
    return timed(action)


def measure(bootstrap: str, count: int) -> None:
    plain = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
    transactional = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "transactional.id": "id"})
    transactional.init_transactions(60)

    def append() -> None:
        plain.produce(TOPIC, b"value")
        assert plain.flush(60) == 0

    def commit() -> None:
        transactional.begin_transaction()
        transactional.produce(TOPIC, b"value")
        transactional.commit_transaction(60)

    for action in (append, commit) * 3:
        action()
    flushes_ms, alone_ms = [], []
    for _ in range(count):
        flushes_ms.append(after_a_pause(append))
        alone_ms.append(after_a_pause(commit))
    in_a_row_ms = [timed(commit) for _ in range(count)]
    flush_ms = statistics.median(flushes_ms)
    print(f"load {os.getloadavg()[0]:.0f}; medians of {count}, with the middle half")
    for what, times_ms in (("a flush", flushes_ms), ("alone", alone_ms), ("in a row", in_a_row_ms)):
        first, median, third = statistics.quantiles(times_ms, n=4)
        print(f"{what}: {median:.0f} ms ({first:.0f} to {third:.0f}), {median / flush_ms:.1f} flushes")
    print(f"three flushes and 100 ms are {3 * flush_ms + 100:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--s3", default="minio" if minio_program() else "seaweedfs")
    parser.add_argument("--brokers", type=int, default=1)
    arguments = parser.parse_args()
    with cluster_on_s3(arguments.s3, arguments.brokers) as (cluster, _):
        cluster.create_topic(TOPIC, 3)
        measure(cluster.nodes[0].bootstrap, arguments.count)


if __name__ == "__main__":
    main()
