"""`make bench`: two minutes of load on one node, alone, at both durabilities; compared with the last run.

The load comes from benchmarks/load.c, so that what is measured is the broker. Prints throughput, latency, and
microseconds of the broker's CPU for each request, with the machine's own limits of the same minute; keeps them in
.bench/history.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.workloads import (
    FETCH_BYTES,
    SECONDS,
    TOPIC,
    WARMUP_S,
    WORKLOADS,
    Workload,
    fetch_frame,
    one_batch,
    produce_frames,
)
from tests.support import probe
from tests.support.node_process import NodeProcess

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / ".bench"
HISTORY = BENCH / "history.jsonl"
FETCH_LOG_BYTES = 256 << 20
START_TRIES = 3
SETTLE_STEP_S = 0.7
SETTLE_LIMIT_S = 6.0
NOTEWORTHY = 0.10

Figures = dict[str, float]


def build_loader() -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        sys.exit("bench: the load generator needs a C compiler: apt-get install gcc libc6-dev")
    program = BENCH / "load"
    source = ROOT / "benchmarks" / "load.c"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True)
    return program


def cpu_s(pid: int) -> float:
    """User and system time of all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def written_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("write_bytes")).split()[1])


def settle(node: NodeProcess) -> None:
    """Waits until what the workload before left to be written behind is written, so that it is not counted again."""
    deadline = time.monotonic() + SETTLE_LIMIT_S
    before = -1
    while (now := written_bytes(node.pid)) != before and time.monotonic() < deadline:
        before = now
        time.sleep(SETTLE_STEP_S)


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def load(program: Path, node: NodeProcess, workload: Workload, frames: list[bytes], patch: tuple[int, int, int]) -> Any:
    host, port = node.address
    numbers = [workload.connections, workload.window, SECONDS, WARMUP_S, workload.rate, *patch]
    command = [str(program), host, str(port), *map(str, numbers)]
    done = subprocess.run(command, input=b"".join(frames), capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"bench: {workload.name}: {done.stderr.decode()}{node.log()[-2000:]}")
    return json.loads(done.stdout)


def run(program: Path, node: NodeProcess, workload: Workload) -> Figures:
    records = one_batch(workload)
    with probe.connect(node.address) as wire:
        assert probe.create_topic(wire, TOPIC, workload.partitions) == 0
        patch = (-1, 0, 0)
        frames = produce_frames(workload, records)
        if workload.fetch:
            for _ in range(FETCH_LOG_BYTES // len(records)):
                assert probe.produce(wire, TOPIC, records)[0] == 0
            frame, place = fetch_frame(FETCH_BYTES)
            step = FETCH_BYTES // len(records) * workload.records_per_batch
            end = probe.end_offset(wire, TOPIC)
            frames, patch = [frame], (place, step, end - end % step)
    settle(node)
    cpu, written = cpu_s(node.pid), written_bytes(node.pid)
    got = load(program, node, workload, frames, patch)
    used = cpu_s(node.pid) - cpu
    with probe.connect(node.address) as wire:
        total = sum(probe.end_offset(wire, TOPIC, index) for index in range(workload.partitions))
        delete_topic(wire)
    moved = got["received_bytes"] if workload.fetch else got["sent_bytes"]
    share = SECONDS / (SECONDS + WARMUP_S)
    figures = {
        "MB/s": moved / 1e6 / got["seconds"],
        "requests/s": got["requests"] / got["seconds"],
        "p50 ms": got["p50_us"] / 1e3,
        "p99 ms": got["p99_us"] / 1e3,
        "p99.9 ms": got["p999_us"] / 1e3,
        "CPU us/request": used * share / got["requests"] * 1e6,
        "CPU s/GB": used * share / (moved / 1e9),
        "memory MB": resident_mb(node.pid),
    }
    if not workload.fetch:
        per_request = workload.batches_per_request * workload.records_per_batch
        assert total >= got["requests"] * per_request, "acknowledged records are not in the log"
        figures["written/byte"] = (written_bytes(node.pid) - written) / (moved / share)
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


def measure(program: Path, durability: str, console: Console) -> dict[str, Figures]:
    folder = BENCH / "data"
    shutil.rmtree(folder, ignore_errors=True)
    node = NodeProcess(folder, options=["--durability", durability], log_path=BENCH / f"node-{durability}.log")
    found: dict[str, Figures] = {}
    try:
        node.start()
        idle = resident_mb(node.pid)
        with probe.connect(node.address) as wire:
            assert probe.create_topic(wire, "start") == 0
        found["start"] = {"to first ack, s": start_to_first_ack_s(node), "memory MB": idle}
        for workload in WORKLOADS:
            console.print(f"  {durability}: {workload.name}", style="dim")
            found[workload.name] = run(program, node, workload)
    finally:
        node.close()
        shutil.rmtree(folder, ignore_errors=True)
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
    columns = ["MB/s", "requests/s", "p50 ms", "p99 ms", "p99.9 ms", "CPU us/request", "CPU s/GB", "written/byte"]
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
    console = Console(width=170)
    BENCH.mkdir(exist_ok=True)
    program = build_loader()
    before = last_run() or {}
    limits = machine.limits(BENCH)
    result: dict[str, Any] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": limits}
    for durability in options.durability or ["fsync", "page-cache"]:
        result[durability] = measure(program, durability, console)
    for name, value in limits.items():
        console.print(f"{name}: {value:,.2f}{change(value, before.get('machine', {}).get(name))}")
    for durability in options.durability or ["fsync", "page-cache"]:
        show(console, f"durability {durability}", result[durability], before.get(durability, {}))
    with HISTORY.open("a") as history:
        history.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
