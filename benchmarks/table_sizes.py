"""The size of tables to that of the logs that real producers wrote, at their default settings but zstd.

    python -m benchmarks.table_sizes [--producers 1,10] [--per-second 1000] [--seconds 60]

For each kind of event (benchmarks/events.py) and number of producers a topic of one partition gets so many events a
second (Poisson) by as many instances of librdkafka as share it, each of which lingers for 5 ms, as clients do by
default. The log is the batches that the broker got, the table what it built of them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from collections.abc import Sequence
from http.client import HTTPConnection
from itertools import cycle
from pathlib import Path
from random import Random

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks import events
from tests.support.node_process import NodeProcess

PREPARED = 20_000
"""Events of a kind that come again and again. A page of a table has fewer, and so is no smaller for that."""


class Sender:
    """What one topic gets, by some producers."""

    def __init__(self, node: NodeProcess, kind: events.Kind, producers: int) -> None:
        self.topic = f"{kind.name.replace(' ', '-')}-{producers}"
        self.kind = kind
        self.value_bytes = self.records = 0
        world = events.World()
        self._events = cycle([kind.make(world, events.FIRST_MS + number) for number in range(PREPARED)])
        config = {"bootstrap.servers": node.bootstrap, "compression.type": "zstd"}
        self._producers = [Producer(config) for _ in range(producers)]

    def send(self, rng: Random) -> None:
        event, producer = next(self._events), rng.choice(self._producers)
        producer.produce(self.topic, event.value, event.key)
        producer.poll(0)
        self.value_bytes += len(event.value)
        self.records += 1

    def end(self) -> None:
        assert all(producer.flush(60) == 0 for producer in self._producers)


def asked(node: NodeProcess, method: str, path: str) -> str:
    connection = HTTPConnection(node.http_address)
    connection.request(method, path, headers={"Host": node.http_address})
    answer = connection.getresponse().read().decode()
    connection.close()
    return answer


def send_all(senders: Sequence[Sender], per_second: float, seconds: float) -> None:
    rng, began, now_s = Random(1), time.monotonic(), 0.0
    while now_s < seconds:
        now_s += rng.expovariate(per_second * len(senders))
        time.sleep(max(began + now_s - time.monotonic(), 0))
        rng.choice(senders).send(rng)
    for sender in senders:
        sender.end()
    late_s = time.monotonic() - began - seconds
    print(f"{per_second:g} records a second for each topic; done {late_s:.1f} s late; load {os.getloadavg()[0]:.0f}")


def run(folder: Path, options: argparse.Namespace) -> None:
    node = NodeProcess(folder / "data").start()
    try:
        kinds = [kind for kind in events.KINDS if kind.name in options.kinds.split(",")]
        senders = [Sender(node, kind, producers) for kind in kinds for producers in options.producers]
        admin = AdminClient({"bootstrap.servers": node.bootstrap})
        for made in admin.create_topics([NewTopic(sender.topic, 1, 1) for sender in senders]).values():
            made.result(60)
        send_all(senders, options.per_second, options.seconds)
        metrics = asked(node, "GET", "/metrics")
        for sender in senders:
            asked(node, "POST", f"/tables/{sender.topic}/build")
            (described,) = json.loads(asked(node, "GET", f"/tables/{sender.topic}"))["partitions"]
            assert described["rows"] == sender.records
            got = re.search(rf'^bytemq_topic_bytes_in_total{{topic="{sender.topic}"}} (\S+)', metrics, re.MULTILINE)
            assert got is not None
            log, table, values = float(got[1]), int(described["bytes"]), sender.value_bytes
            print(
                f"  {sender.topic:20} {table / log:.2f}: the table {table / values:.3f} of {values / 1e6:.0f} MB of "
                f"values, the log {log / values:.3f}",
                flush=True,
            )
    finally:
        node.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(kind.name for kind in events.KINDS))
    parser.add_argument("--producers", type=lambda text: [int(part) for part in text.split(",")], default=[1, 10])
    parser.add_argument("--per-second", type=float, default=1_000)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="table-sizes-", ignore_cleanup_errors=True) as folder:
        run(Path(folder), options)


if __name__ == "__main__":
    main()
