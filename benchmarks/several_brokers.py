"""What a second broker on the machine brings: the same load on `bytemq start` and on `bytemq start --brokers N`.

    python -m benchmarks.several_brokers [--brokers 2] [--seconds 8] [--repeats 3]

Every broker has a load generator of its own that sends it batches for the partitions that it owns; all run at the same
time. Where one broker and its load already keep every core busy, as on two, another one can bring little: the count of
cores is told.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.loader import Address
from benchmarks.usage import usage
from benchmarks.workloads import BATCHES_16K, LARGE_4, Workload, one_batch, produce_frame, send
from tests.support import probe
from tests.support.node_process import NodeProcess

TOPIC = "shared-out"
WARM_UP_S = 1.0
PATIENCE_S = 60.0
WORKLOADS = (
    replace(BATCHES_16K, name="16 KiB batches, 16 connections"),
    replace(LARGE_4, name="128 KiB batches, 4 connections", batches_per_request=1, window=8),
)


def owners(address: Address, partitions: int, brokers: int) -> dict[Address, list[int]]:
    """The partitions of each broker, once all of them have an owner and every broker has some."""
    give_up_at = time.monotonic() + PATIENCE_S
    with probe.connect(address) as wire:
        while True:
            addresses = {node_id: (host, port) for node_id, host, port in probe.brokers(wire)}
            owned: dict[Address, list[int]] = {}
            for index, leader in enumerate(probe.leaders(wire, TOPIC)):
                if leader in addresses:
                    owned.setdefault(addresses[leader], []).append(index)
            if len(owned) == brokers and sum(map(len, owned.values())) == partitions:
                return owned
            assert time.monotonic() < give_up_at, f"partitions did not come to {brokers} brokers: {owned}"
            time.sleep(0.1)


def run(node: NodeProcess, brokers: int, workload: Workload, seconds: float) -> tuple[float, float, float]:
    """(MB/s acknowledged, the worst broker's p99 in ms, CPU seconds of all brokers for each GB)."""
    records = one_batch(workload)
    shares = owners(node.address, workload.partitions, brokers)
    pids = list(node.broker_pids().values()) if brokers > 1 else [node.pid]
    before = [usage(pid).cpu_s for pid in pids]

    def loaded(address: Address) -> dict[str, float]:
        frames = [produce_frame(TOPIC, [index], records) for index in shares[address]]
        share = replace(workload, connections=workload.connections // brokers)
        return send(share, address, frames, seconds=seconds, warmup_s=WARM_UP_S)

    with ThreadPoolExecutor(brokers) as pool:
        results = list(pool.map(loaded, shares))
    used_s = sum(usage(pid).cpu_s for pid in pids) - sum(before)
    rate_mb_s = sum(got["sent_bytes"] / 1e6 / got["seconds"] for got in results)
    return (
        rate_mb_s,
        max(got["ack_p99_us"] for got in results) / 1e3,
        used_s / (sum(got["total_sent_bytes"] for got in results) / 1e9),
    )


@contextmanager
def one_and_several(brokers: int, settings: Sequence[str]) -> Iterator[dict[int, NodeProcess]]:
    """By their number of brokers."""
    folder = Path(tempfile.mkdtemp(prefix="several-brokers-"))
    nodes = {
        1: NodeProcess(folder / "one", options=settings),
        brokers: NodeProcess(folder / "several", options=[*settings, "--brokers", str(brokers)]),
    }
    try:
        for node in nodes.values():
            node.start()
            with probe.connect(node.address) as wire:
                assert probe.create_topic(wire, TOPIC, WORKLOADS[0].partitions) == 0
        yield nodes
    finally:
        for node in nodes.values():
            node.close()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brokers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of all brokers")
    parser.add_argument("--durability", default="page-cache", choices=("page-cache", "fsync"))
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.0f}, durability {options.durability}")
    settings = ["--durability", options.durability, *(x for one in options.set for x in ("--set", one))]
    with one_and_several(options.brokers, settings) as nodes:
        for workload in WORKLOADS:
            rates: dict[int, list[float]] = {brokers: [] for brokers in nodes}
            for _ in range(options.repeats):
                for brokers, node in nodes.items():
                    rate_mb_s, p99_ms, cpu_s_per_gb = run(node, brokers, workload, options.seconds)
                    rates[brokers].append(rate_mb_s)
                    print(
                        f"{workload.name}, brokers: {brokers}: {rate_mb_s:.0f} MB/s, p99 {p99_ms:.0f} ms, "
                        f"{cpu_s_per_gb:.2f} CPU s/GB",
                        flush=True,
                    )
            one, several = (statistics.median(rates[brokers]) for brokers in nodes)
            print(f"{workload.name}: {several / one:.2f} times the rate with {options.brokers} brokers", flush=True)


if __name__ == "__main__":
    main()
