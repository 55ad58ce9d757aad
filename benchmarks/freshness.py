"""How old records are when they are in their table, with `bytemq.table.after.ms=60000`.

    python -m benchmarks.freshness [--topics 1] [--per-second 60] [--seconds 600] [--after-ms 60000]

Topics of one partition get events of the kinds of benchmarks/events.py in turn, all of them together so many a second.
Each second every topic is asked how far its table goes: a record's age is what has passed since it was acknowledged,
and so up to a second more than it was.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from http.client import HTTPConnection
from itertools import cycle
from pathlib import Path
from statistics import median, quantiles
from threading import Event, Thread
from typing import Any

from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks import events
from tests.support.node_process import NodeProcess

LOOK_S = 1.0
Topics = dict[str, events.Kind]


class Clock:
    """When each record was acknowledged, and how old it was when it was in the table."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, list[float]] = defaultdict(list)
        """By topic; the place is the offset."""
        self.ages: dict[str, list[float]] = defaultdict(list)

    def was_acknowledged(self, error: KafkaError | None, message: Message) -> None:
        assert error is None, error
        topic = message.topic()
        assert topic is not None and message.offset() == len(self.acknowledged[topic])
        self.acknowledged[topic].append(time.monotonic())

    def is_in_table(self, topic: str, end_offset: int) -> None:
        now, ages = time.monotonic(), self.ages[topic]
        ages += [now - then for then in self.acknowledged[topic][len(ages) : end_offset]]


def produce(node: NodeProcess, topics: Topics, clock: Clock, per_second: float, ended: Event) -> None:
    producer = Producer({"bootstrap.servers": node.bootstrap, "linger.ms": 5, "compression.type": "zstd"})
    world, began = events.World(), time.monotonic()
    for number, (topic, kind) in enumerate(cycle(topics.items())):
        while (left_s := began + number / per_second - time.monotonic()) > 0:
            producer.poll(left_s)
        if ended.is_set():
            break
        event = kind.make(world, int(time.time() * 1000))
        producer.produce(topic, event.value, event.key, on_delivery=clock.was_acknowledged)
    assert producer.flush(60) == 0


def table_end(node: NodeProcess, topic: str) -> int:
    connection = HTTPConnection(node.http_address)
    connection.request("GET", f"/tables/{topic}", headers={"Host": node.http_address})
    described: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    (partition,) = described["partitions"]
    return int(partition["table_end_offset"])


def run(folder: Path, options: argparse.Namespace) -> None:
    topics = {
        f"{kind.name.replace(' ', '-')}-{number}": kind
        for number, kind in zip(range(options.topics), cycle(events.KINDS), strict=False)
    }
    node = NodeProcess(folder / "data").start()
    clock, ended = Clock(), Event()
    try:
        config = {"bytemq.table.after.ms": str(options.after_ms)}
        admin = AdminClient({"bootstrap.servers": node.bootstrap})
        for made in admin.create_topics([NewTopic(topic, 1, 1, config=config) for topic in topics]).values():
            made.result(60)
        producing = Thread(target=produce, args=(node, topics, clock, options.per_second, ended))
        producing.start()
        until = time.monotonic() + options.seconds
        while time.monotonic() < until:
            began = time.monotonic()
            for topic in topics:
                clock.is_in_table(topic, table_end(node, topic))
            time.sleep(max(began + LOOK_S - time.monotonic(), 0))
        first = [clock.acknowledged[topic][len(clock.ages[topic]) :][:1] for topic in topics]
        waiting_s = time.monotonic() - min((then for one in first for then in one), default=time.monotonic())
        ended.set()
        producing.join()
    finally:
        node.close()
    print(f"{len(topics)} topics, {options.per_second:g} records a second in all, {options.seconds:g} s")
    by_kind: dict[str, list[float]] = defaultdict(list)
    for topic, kind in topics.items():
        by_kind[kind.name] += clock.ages[topic]
        by_kind["all"] += clock.ages[topic]
    for name, ages in sorted(by_kind.items()):
        if len(ages) < 2:
            print(f"  {name:16} next to nothing was in a table")
            continue
        p99 = quantiles(ages, n=100)[-1]
        print(f"  {name:16} worst {max(ages):5.1f} s, p99 {p99:5.1f} s, median {median(ages):5.1f} s of {len(ages):,}")
    print(f"  the oldest that was in none at the end: {waiting_s:.1f} s; load {os.getloadavg()[0]:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topics", type=int, default=1)
    parser.add_argument("--per-second", type=float, default=60)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--after-ms", type=int, default=60_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="freshness-", ignore_cleanup_errors=True) as folder:
        run(Path(folder), options)


if __name__ == "__main__":
    main()
