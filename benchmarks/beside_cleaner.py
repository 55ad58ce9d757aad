"""What the cleaner costs those who produce: the latency of 1,000 requests a second with the worker at rest and at work.

    python -m benchmarks.beside_cleaner [--records 200000] [--topics 2] [--durability page-cache|fsync]
        [--worker-nice N[,N...]] [--rounds 2]

Some topics for each measurement are filled with records of 1 KB over a quarter as many keys, and cleaned only once
their config says so. The load is one record a request, in an open loop (benchmarks/load.c), on another topic. The
worker gets each priority in turn (relative to the node's), round after round, with a measurement at rest before each
and at the end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic

from benchmarks.loader import load
from benchmarks.workloads import STEADY, one_batch, produce_frames
from tests.support import probe
from tests.support.node_process import NodeProcess

SECONDS = 5.0
WARMUP_S = 1.0
RECORD_BYTES = 1_000
NEVER, ALWAYS = "1.0", "0.01"


def fill(node: NodeProcess, topic: str, records: int) -> None:
    admin = AdminClient({"bootstrap.servers": node.bootstrap})
    config = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": NEVER}
    admin.create_topics([NewTopic(topic, 1, 1, config=config)])[topic].result(60)
    producer = Producer({"bootstrap.servers": node.bootstrap, "linger.ms": 20, "batch.size": 1 << 19})
    value = os.urandom(RECORD_BYTES)
    for number in range(records):
        while True:
            try:
                producer.produce(topic, value, b"%d" % (number % (records // 4)))
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(120) == 0


def children_of(node: NodeProcess) -> list[int]:
    """The worker: a broker alone has no other."""
    return [int(child) for child in Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()]


def niceness(pid: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, pid)


def worker_cpu_s(node: NodeProcess) -> float:
    total = 0.0
    for child in children_of(node):
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


class Beside:
    """A node under load, with topics to be cleaned one after the other."""

    def __init__(self, node: NodeProcess) -> None:
        self.node = node
        self._admin = AdminClient({"bootstrap.servers": node.bootstrap})
        with probe.connect(node.address) as wire:
            assert probe.create_topic(wire, "steady") == 0
        self._frames = produce_frames(STEADY, "steady", one_batch(STEADY))

    def latency(self, what: str) -> float:
        """The p99 in ms; says what else there is to say."""
        cpu_s = worker_cpu_s(self.node)
        got = load(
            self.node.address,
            self._frames,
            connections=STEADY.connections,
            window=STEADY.window,
            seconds=SECONDS,
            warmup_s=WARMUP_S,
            rate=STEADY.rate,
        )
        times = ", ".join(f"{name} {got[f'ack_{name}_us'] / 1e3:.2f}" for name in ("p50", "p99", "p999"))
        print(f"{what}: {times} ms; the worker took {worker_cpu_s(self.node) - cpu_s:.1f} s of a processor", flush=True)
        return got["ack_p99_us"] / 1e3

    def clean(self, topics: list[str], worker_nice: int) -> None:
        for topic in topics:
            entry = ConfigEntry("min.cleanable.dirty.ratio", ALWAYS, incremental_operation=AlterConfigOpType.SET)
            resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
            self._admin.incremental_alter_configs([resource])[resource].result(60)
        while not (started := [child for child in children_of(self.node) if niceness(child) > niceness(self.node.pid)]):
            time.sleep(0.01)
        for child in started:
            os.setpriority(os.PRIO_PROCESS, child, niceness(self.node.pid) + worker_nice)

    def latency_while_cleaning(self, topics: list[str], worker_nice: int) -> float:
        cleaning = threading.Timer(WARMUP_S, self.clean, (topics, worker_nice))
        cleaning.start()
        p99_ms = self.latency(f"cleaner at nice +{worker_nice}")
        cleaning.join()
        return p99_ms

    def cleanings(self) -> list[str]:
        """As the node has logged them."""
        return [line for line in self.node.log().splitlines() if "bytes_before=" in line]


def topics_of(measurement: int, count: int) -> list[str]:
    return [f"compacted-{measurement}-{number}" for number in range(count)]


def measure(node: NodeProcess, priorities: list[int], rounds: int, topics: int) -> None:
    beside = Beside(node)
    ratios: dict[int, list[float]] = {}
    for measurement, worker_nice in enumerate(priorities * rounds):
        at_rest_ms = beside.latency("cleaner at rest")
        at_work_ms = beside.latency_while_cleaning(topics_of(measurement, topics), worker_nice)
        ratios.setdefault(worker_nice, []).append(at_work_ms / at_rest_ms)
        while len(beside.cleanings()) < topics * (measurement + 1):
            time.sleep(0.1)
    beside.latency("cleaner at rest")
    for worker_nice, found in ratios.items():
        print(f"nice +{worker_nice}: p99 at work over p99 at rest {', '.join(f'{ratio:.2f}' for ratio in found)}")
    print("\n".join(beside.cleanings()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--topics", type=int, default=2)
    parser.add_argument("--durability", default="page-cache")
    parser.add_argument("--worker-nice", default="10")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    priorities = [int(number) for number in arguments.worker_nice.split(",")]
    folder = Path(tempfile.mkdtemp(prefix="beside-cleaner-"))
    options = ["--durability", arguments.durability, "--set", "log.cleaner.backoff.ms=200"]
    node = NodeProcess(folder / "data", options=options).start()
    try:
        for measurement in range(len(priorities) * arguments.rounds):
            for topic in topics_of(measurement, arguments.topics):
                fill(node, topic, arguments.records)
        print(f"load of the machine {os.getloadavg()[0]:.0f}")
        measure(node, priorities, arguments.rounds, arguments.topics)
    finally:
        node.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
