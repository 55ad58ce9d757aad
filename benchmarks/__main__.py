"""`make bench`: two minutes of load on one node, alone, at both durabilities; compared with the last run.

The load comes from benchmarks/load.c, so that what is measured is the broker. Prints throughput, latency, and
microseconds of the broker's CPU for each request, calls and fresh pages, with the machine's own limits of the same
minute; keeps them in .bench/history.jsonl, so that a change of more than 10 % against the last run is seen.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine, memory
from benchmarks.loader import BENCH, NO_OFFSETS, LoadFailed
from benchmarks.nodes import compiled
from benchmarks.usage import resident_mb, settle, usage
from benchmarks.workloads import (
    BATCHES_16K,
    CONSUME,
    LARGE_1,
    LARGE_4,
    STEADY,
    Workload,
    fetch_in_turn,
    one_batch,
    produce_frames,
    send,
)
from tests.support import probe
from tests.support.node_process import NodeProcess

HISTORY = BENCH / "history.jsonl"
TOPIC = "bench"
WORKLOADS = [LARGE_1, LARGE_4, BATCHES_16K, STEADY, CONSUME]
SECONDS = 5.0
WARMUP_S = 1.0
FETCH_LOG_BYTES = 256 << 20
START_TRIES = 3
NOTEWORTHY = 0.10

Figures = dict[str, float]


def run(node: NodeProcess, workload: Workload) -> Figures:
    records = one_batch(workload)
    with probe.connect(node.address) as wire:
        assert probe.create_topic(wire, TOPIC, workload.partitions) == 0
        offsets = NO_OFFSETS
        frames = produce_frames(workload, TOPIC, records)
        if workload.fetch:
            for _ in range(FETCH_LOG_BYTES // len(records)):
                assert probe.produce(wire, TOPIC, records)[0] == 0
            end = probe.end_offset(wire, TOPIC)
            frame, offsets = fetch_in_turn(TOPIC, workload, len(records), end)
            frames = [frame]
    settle(node.pid)
    memory.fill(BENCH)
    before = usage(node.pid)
    try:
        got = send(workload, node.address, frames, seconds=SECONDS, warmup_s=WARMUP_S, offsets=offsets)
    except LoadFailed as error:
        sys.exit(f"bench: {workload.name}: {error}\n{node.log()[-2000:]}")
    memory_mb = resident_mb(node.pid)
    settle(node.pid)
    used = usage(node.pid).since(before)
    with probe.connect(node.address) as wire:
        total = sum(probe.end_offset(wire, TOPIC, index) for index in range(workload.partitions))
        delete_topic(wire)
    requests, direction = got["total_requests"], "received" if workload.fetch else "sent"
    moved_bytes = got[f"total_{direction}_bytes"]
    figures = {
        "MB/s": got[f"{direction}_bytes"] / 1e6 / got["seconds"],
        "requests/s": got["requests"] / got["seconds"],
        "p50 ms": got["ack_p50_us"] / 1e3,
        "p99 ms": got["ack_p99_us"] / 1e3,
        "p99.9 ms": got["ack_p999_us"] / 1e3,
        "CPU us/request": used.cpu_s / requests * 1e6,
        "CPU s/GB": used.cpu_s / (moved_bytes / 1e9),
        "file calls/request": used.file_calls / requests,
        "page faults/request": used.page_faults / requests,
        "memory MB": memory_mb,
    }
    if not workload.fetch:
        assert total >= requests * workload.records_per_request, "acknowledged records are not in the log"
        figures["written/byte"] = used.written_bytes / moved_bytes
    return figures


def delete_topic(wire: Any) -> None:
    from kafka.protocol.admin import DeleteTopicsRequest

    wire.call(probe.build(DeleteTopicsRequest, 4, {"topic_names": [TOPIC], "timeout_ms": 30_000}))


def start_to_first_ack_s(node: NodeProcess) -> float:
    """The best of a few: from process start to the first acknowledged produce."""
    took = []
    for _ in range(START_TRIES):
        node.terminate()
        started = time.monotonic()
        node.launch()
        with probe.connect(node.address) as wire:
            while probe.produce(wire, "start")[0]:
                pass
        took.append(time.monotonic() - started)
    return min(took)


def measure(durability: str, console: Console) -> dict[str, Figures]:
    folder = BENCH / "data"
    shutil.rmtree(folder, ignore_errors=True)
    log_path = BENCH / f"node-{durability}.log"
    node = NodeProcess(folder, options=["--durability", durability], environment=compiled(BENCH), log_path=log_path)
    found: dict[str, Figures] = {}
    try:
        node.start()
        idle = resident_mb(node.pid)
        with probe.connect(node.address) as wire:
            assert probe.create_topic(wire, "start") == 0
        found["start"] = {"to first ack, s": start_to_first_ack_s(node), "memory MB": idle}
        for workload in WORKLOADS:
            console.print(f"  {durability}: {workload.name}", style="dim")
            found[workload.name] = run(node, workload)
    finally:
        node.close()
        shutil.rmtree(folder, ignore_errors=True)
        memory.empty(BENCH)
    return found


def last_run() -> dict[str, Any] | None:
    if not HISTORY.exists():
        return None
    lines = HISTORY.read_text().splitlines()
    return json.loads(lines[-1]) if lines else None


def change(now: float, before: float | None) -> str:
    """Against the last run; marked when it is more than noise."""
    if not before:
        return ""
    ratio = now / before - 1
    return f" [bold yellow]({ratio:+.0%})[/]" if abs(ratio) > NOTEWORTHY else f" [dim]({ratio:+.0%})[/]"


def show(console: Console, title: str, figures: dict[str, Figures], before: dict[str, Figures]) -> None:
    columns = ["MB/s", "requests/s", "p50 ms", "p99 ms", "p99.9 ms", "CPU us/request", "CPU s/GB", "file calls/request"]
    columns += ["page faults/request", "written/byte"]
    table = Table(title=title, title_justify="left")
    table.add_column("workload", min_width=24)
    for column in [*columns, "memory MB"]:
        table.add_column(column, justify="right")
    for name, row in figures.items():
        old = before.get(name, {})
        if name != "start":
            cells = [f"{row[c]:,.2f}{change(row[c], old.get(c))}" if c in row else "" for c in [*columns, "memory MB"]]
            table.add_row(name, *cells)
    console.print(table)
    start, old = figures["start"], before.get("start", {})
    for name, value in start.items():
        console.print(f"start, {name}: {value:.3f}{change(value, old.get(name))}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--durability", choices=("fsync", "page-cache"), action="append")
    options = parser.parse_args()
    console = Console(width=200)
    BENCH.mkdir(exist_ok=True)
    before = last_run() or {}
    limits = machine.limits(BENCH)
    result: dict[str, Any] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": limits}
    for durability in options.durability or ["fsync", "page-cache"]:
        result[durability] = measure(durability, console)
    for name, value in limits.items():
        console.print(f"{name}: {value:,.2f}{change(value, before.get('machine', {}).get(name))}")
    for durability in options.durability or ["fsync", "page-cache"]:
        show(console, f"durability {durability}", result[durability], before.get(durability, {}))
    with HISTORY.open("a") as history:
        history.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
