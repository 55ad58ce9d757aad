"""What a worker costs those who produce: the latency of 1,000 requests a second with it at rest and at work.

    python -m benchmarks.beside_worker [--work cleaning|conversion] [--records 200000] [--topics 2]
        [--durability page-cache|fsync] [--worker-nice N[,N...]] [--rounds 2]

Some topics for each measurement are filled, and worked on only once they are asked to be: compacted ones of records of
1 KB over a quarter as many keys by their config, others, of page views as JSON, by a build of their tables. The load is
one record a request, in an open loop (benchmarks/load.c), on another topic. The worker gets each priority in turn
(relative to the node's; 20 is the idle class), round after round, with a measurement at rest before each and at the
end. What it costs to start the worker is measured apart, before all that, with a few records.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Protocol

from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic

from benchmarks import events
from benchmarks.filling import fill
from benchmarks.usage import children, usage
from benchmarks.workloads import STEADY, one_batch, produce_frames, send
from bytemq.compaction.worker_priority import IDLE, LOWEST
from tests.support import probe
from tests.support.node_process import NodeProcess

SECONDS = 5.0
WARMUP_S = 1.0
RECORD_BYTES = 1_000
SAMPLE_BYTES = 20_000_000
NEVER, ALWAYS = "1.0", "0.01"
FIRST, FIRST_RECORDS = "first", 3_000
"""What the worker is started for."""


class Work(Protocol):
    """What the worker is given to do."""

    config: Mapping[str, str]
    """Of topics that are to be worked on, some time."""
    mark: str
    """In the line that the node logs when one is done."""

    def records(self, count: int) -> Iterator[tuple[bytes | None, bytes]]: ...

    def begin(self, node: NodeProcess, topics: list[str]) -> None: ...


class Cleaning:
    config: Mapping[str, str] = MappingProxyType({"cleanup.policy": "compact", "min.cleanable.dirty.ratio": NEVER})
    mark = "bytes_before="

    def records(self, count: int) -> Iterator[tuple[bytes | None, bytes]]:
        value = os.urandom(RECORD_BYTES)
        return ((b"%d" % (number % (count // 4)), value) for number in range(count))

    def begin(self, node: NodeProcess, topics: list[str]) -> None:
        admin = AdminClient({"bootstrap.servers": node.bootstrap})
        for topic in topics:
            entry = ConfigEntry("min.cleanable.dirty.ratio", ALWAYS, incremental_operation=AlterConfigOpType.SET)
            resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
            admin.incremental_alter_configs([resource])[resource].result(60)


class Conversion:
    config: Mapping[str, str] = MappingProxyType({})
    mark = " converted"

    def __init__(self) -> None:
        made = events.batches(events.PAGE_VIEWS, SAMPLE_BYTES, per_second=20_000)
        self._connections: list[HTTPConnection] = []
        self._sample = [(record.key, record.value) for batch in made for record in batch if record.value]

    def records(self, count: int) -> Iterator[tuple[bytes | None, bytes]]:
        return itertools.islice(itertools.cycle(self._sample), count)

    def begin(self, node: NodeProcess, topics: list[str]) -> None:
        for topic in topics:  # no answer is waited for: the worker does one after the other
            connection = HTTPConnection(node.http_address)
            connection.request("POST", f"/tables/{topic}/build", headers={"Host": node.http_address})
            self._connections.append(connection)


WORKS: dict[str, type[Work]] = {"cleaning": Cleaning, "conversion": Conversion}


def make_topic(node: NodeProcess, topic: str, work: Work, records: int) -> None:
    admin = AdminClient({"bootstrap.servers": node.bootstrap})
    admin.create_topics([NewTopic(topic, 1, 1, config=dict(work.config))])[topic].result(60)
    fill(node, topic, work.records(records), linger_ms=20, batch_size=1 << 19)


def niceness(pid: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, pid)


def worker_cpu_s(node: NodeProcess) -> float:
    return sum(usage(child).cpu_s for child in children(node.pid))


class Beside:
    """A node under load, with topics to be worked on one after the other."""

    def __init__(self, node: NodeProcess, work: Work) -> None:
        self.node = node
        self._work = work
        with probe.connect(node.address) as wire:
            assert probe.create_topic(wire, "steady") == 0
        self._frames = produce_frames(STEADY, "steady", one_batch(STEADY))

    def latency(self, what: str) -> float:
        """The p99 in ms; says what else there is to say."""
        cpu_s = worker_cpu_s(self.node)
        got = send(STEADY, self.node.address, self._frames, seconds=SECONDS, warmup_s=WARMUP_S)
        times = ", ".join(f"{name} {got[f'ack_{name}_us'] / 1e3:.2f}" for name in ("p50", "p99", "p999"))
        print(f"{what}: {times} ms; the worker took {worker_cpu_s(self.node) - cpu_s:.1f} s of a processor", flush=True)
        return got["ack_p99_us"] / 1e3

    def begin(self, topics: list[str], worker_nice: int) -> None:
        self._work.begin(self.node, topics)
        while not (
            started := [child for child in children(self.node.pid) if niceness(child) > niceness(self.node.pid)]
        ):
            time.sleep(0.01)
        for child in started:
            os.sched_setscheduler(child, os.SCHED_IDLE if worker_nice == IDLE else os.SCHED_OTHER, os.sched_param(0))
            os.setpriority(os.PRIO_PROCESS, child, niceness(self.node.pid) + min(worker_nice, LOWEST))

    def latency_at_work(self, topics: list[str], worker_nice: int, what: str) -> float:
        beginning = threading.Timer(WARMUP_S, self.begin, (topics, worker_nice))
        beginning.start()
        p99_ms = self.latency(what)
        beginning.join()
        return p99_ms

    def wait_for(self, done: int) -> None:
        while len(self.done()) < done:
            time.sleep(0.1)

    def done(self) -> list[str]:
        """As the node has logged it."""
        return [line for line in self.node.log().splitlines() if self._work.mark in line]


def topics_of(measurement: int, count: int) -> list[str]:
    return [f"topic-{measurement}-{number}" for number in range(count)]


def measure(node: NodeProcess, work: Work, priorities: list[int], rounds: int, topics: int) -> None:
    beside = Beside(node, work)
    beside.latency("worker not started")
    beside.latency_at_work([FIRST], priorities[0], "worker is started")
    beside.wait_for(1)
    ratios: dict[int, list[float]] = {}
    for measurement, worker_nice in enumerate(priorities * rounds):
        at_rest_ms = beside.latency("worker at rest")
        at_work_ms = beside.latency_at_work(
            topics_of(measurement, topics), worker_nice, f"worker at nice +{worker_nice}"
        )
        ratios.setdefault(worker_nice, []).append(at_work_ms / at_rest_ms)
        beside.wait_for(1 + topics * (measurement + 1))
    beside.latency("worker at rest")
    for worker_nice, found in ratios.items():
        one_by_one = ", ".join(f"{ratio:.2f}" for ratio in found)
        print(f"nice +{worker_nice}: p99 at work over p99 at rest, median {median(found):.2f}: {one_by_one}")
    print("\n".join(beside.done()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", default="cleaning", choices=list(WORKS))
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--topics", type=int, default=2)
    parser.add_argument("--durability", default="page-cache")
    parser.add_argument("--worker-nice", default="20")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    priorities = [int(number) for number in arguments.worker_nice.split(",")]
    work = WORKS[arguments.work]()
    folder = Path(tempfile.mkdtemp(prefix="beside-worker-"))
    options = ["--durability", arguments.durability, "--set", "log.cleaner.backoff.ms=200"]
    node = NodeProcess(folder / "data", options=options).start()
    try:
        make_topic(node, FIRST, work, FIRST_RECORDS)
        for measurement in range(len(priorities) * arguments.rounds):
            for topic in topics_of(measurement, arguments.topics):
                make_topic(node, topic, work, arguments.records)
        print(f"load of the machine {os.getloadavg()[0]:.0f}")
        measure(node, work, priorities, arguments.rounds, arguments.topics)
    finally:
        node.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
