"""What the cleaner costs those who produce: the latency of 1,000 requests a second with the worker at rest and at work.

    python -m benchmarks.beside_cleaner [--records 400000] [--durability page-cache|fsync]
        [--worker-nice N]

A topic is filled with records of 1 KB over a quarter as many keys, and is cleaned only once its config says so. The
load is one record a request, in an open loop (benchmarks/load.c), on another topic. The worker has the lowest priority:
on a busy machine it may not run at all, unless --worker-nice gives it another.
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

SECONDS = 6.0
WARMUP_S = 2.0
RECORD_BYTES = 1_000
NEVER, ALWAYS = "1.0", "0.01"


def fill(node: NodeProcess, records: int) -> AdminClient:
    admin = AdminClient({"bootstrap.servers": node.bootstrap})
    config = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": NEVER}
    admin.create_topics([NewTopic("compacted", 1, 1, config=config)])["compacted"].result(60)
    producer = Producer({"bootstrap.servers": node.bootstrap, "linger.ms": 20, "batch.size": 1 << 19})
    value = os.urandom(RECORD_BYTES)
    for number in range(records):
        while True:
            try:
                producer.produce("compacted", value, b"%d" % (number % (records // 4)))
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(120) == 0
    return admin


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


def measure(node: NodeProcess, admin: AdminClient, worker_nice: int | None) -> None:
    with probe.connect(node.address) as wire:
        assert probe.create_topic(wire, "steady") == 0
    frames = produce_frames(STEADY, "steady", one_batch(STEADY))

    def latency(what: str) -> None:
        cpu_s = worker_cpu_s(node)
        got = load(
            node.address,
            frames,
            connections=STEADY.connections,
            window=STEADY.window,
            seconds=SECONDS,
            warmup_s=WARMUP_S,
            rate=STEADY.rate,
        )
        times = ", ".join(f"{name} {got[f'ack_{name}_us'] / 1e3:.2f}" for name in ("p50", "p99", "p999"))
        print(f"{what}: {times} ms; the worker took {worker_cpu_s(node) - cpu_s:.1f} s of a processor", flush=True)

    latency("cleaner at rest")
    entry = ConfigEntry("min.cleanable.dirty.ratio", ALWAYS, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, "compacted", incremental_configs=[entry])

    def clean() -> None:
        admin.incremental_alter_configs([resource])[resource].result(60)
        if worker_nice is not None:
            while not (lowered := [child for child in children_of(node) if niceness(child) > niceness(node.pid)]):
                time.sleep(0.01)
            for child in lowered:
                os.setpriority(os.PRIO_PROCESS, child, worker_nice)

    alter = threading.Timer(WARMUP_S, clean)
    alter.start()
    latency("cleaner at work")
    alter.join()
    latency("cleaner at rest")
    print("\n".join(line for line in node.log().splitlines() if "cleaned" in line))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=400_000)
    parser.add_argument("--durability", default="page-cache")
    parser.add_argument("--worker-nice", type=int)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="beside-cleaner-"))
    options = ["--durability", arguments.durability, "--set", "log.cleaner.backoff.ms=200"]
    node = NodeProcess(folder / "data", options=options).start()
    try:
        admin = fill(node, arguments.records)
        print(f"load of the machine {os.getloadavg()[0]:.0f}")
        measure(node, admin, arguments.worker_nice)
    finally:
        node.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
