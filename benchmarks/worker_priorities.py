"""What the priority of a worker that is always busy costs those who produce, in short windows in turn.

    python -m benchmarks.worker_priorities [--durability page-cache|fsync] [--seconds 110] [--window 1]
        [--niceness 19,20]

The load is 1,000 requests a second of 1 KB, in an open loop (benchmarks/load.c). A worker process makes a table of the
same 100 MB of page views over and over, on the disk that the node writes to. In the first of three windows it is
stopped, in the next one it has niceness 19, then it is in the idle class (20), or whatever is asked for; 0 is the
broker's own. So what else is done on the machine meets all alike; what is said is the median of the windows' p99, and
of their ratios to the one at rest just before.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks import events
from benchmarks.workloads import STEADY, one_batch, produce_frames, send
from bytemq.compaction.table_jobs import Convert
from bytemq.compaction.worker import Worker
from bytemq.compaction.worker_priority import IDLE, LOWEST, set_niceness
from bytemq.node.tables import WORKER_MEMORY_BYTES
from bytemq.storage.manifests.manifest import FileKind, SegmentInfo
from bytemq.storage.tables.table_file import NewNames
from tests.support import probe
from tests.support.node_process import NodeProcess

REST = "at rest"
WARMUP_S = 0.25
VALUES_BYTES = 100_000_000
ROW_GROUP_BYTES = 32 << 20
SEGMENT = "page-views.segment"


def made_segment(folder: Path) -> SegmentInfo:
    batches = list(events.batches(events.PAGE_VIEWS, VALUES_BYTES, per_second=20_000))
    path = folder / SEGMENT
    with path.open("wb") as file:
        file.writelines(events.log_of(batches, codec=0))
    last = sum(map(len, batches)) - 1
    return SegmentInfo(0, last, path.stat().st_size, 0, 0, SEGMENT, sealed=True, kind=FileKind.SEGMENT)


async def convert(worker: Worker, segment: SegmentInfo, folder: Path) -> None:
    names = NewNames("table.parquet", "table.companion")
    await worker.run(Convert((segment,), 0, names, (), ROW_GROUP_BYTES, "zstd"))
    for name in names:
        (folder / name).unlink()


async def convert_for_ever(worker: Worker, segment: SegmentInfo, folder: Path) -> None:
    while True:
        await convert(worker, segment, folder)


def set_state(worker: Worker, niceness: int | None) -> None:
    process_id = worker.process_id
    assert process_id is not None
    if niceness is None:
        os.kill(process_id, signal.SIGSTOP)
        return
    broker = os.getpriority(os.PRIO_PROCESS, 0)
    set_niceness(process_id, IDLE if niceness == IDLE else min(broker + niceness, LOWEST))
    os.kill(process_id, signal.SIGCONT)


async def measure(
    node: NodeProcess, worker: Worker, states: dict[str, int | None], seconds: float, window_s: float
) -> dict[str, list[float]]:
    """The p99 in ms of each window."""
    with probe.connect(node.address) as wire:
        assert probe.create_topic(wire, "steady") == 0
    frames = produce_frames(STEADY, "steady", one_batch(STEADY))
    found: dict[str, list[float]] = {state: [] for state in states}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for state, p99_ms in found.items():
            set_state(worker, states[state])
            got = await asyncio.to_thread(send, STEADY, node.address, frames, seconds=window_s, warmup_s=WARMUP_S)
            p99_ms.append(got["ack_p99_us"] / 1e3)
    return found


async def run(folder: Path, arguments: argparse.Namespace) -> None:
    segment = made_segment(folder)
    worker = Worker("tables", f"file://{folder}", memory_bytes=WORKER_MEMORY_BYTES, niceness=IDLE)
    await convert(worker, segment, folder)  # with all that is imported for it
    node = NodeProcess(folder / "data", options=["--durability", arguments.durability]).start()
    converting = asyncio.create_task(convert_for_ever(worker, segment, folder))
    states: dict[str, int | None] = {REST: None}
    states |= {"idle class" if one == IDLE else f"niceness {one}": one for one in arguments.niceness}
    try:
        found = await measure(node, worker, states, arguments.seconds, arguments.window)
        for state, p99_ms in found.items():
            ratios = [one / rest for one, rest in zip(p99_ms, found[REST], strict=True)]
            print(f"{state}: p99 {median(p99_ms):.2f} ms, {median(ratios):.2f} x at rest ({len(p99_ms)} windows)")
        print(f"load of the machine {os.getloadavg()[0]:.0f}")
    finally:
        converting.cancel()
        await worker.close()
        node.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--durability", default="page-cache")
    parser.add_argument("--seconds", type=float, default=110)
    parser.add_argument("--window", type=float, default=1.0)
    parser.add_argument("--niceness", type=lambda text: [int(part) for part in text.split(",")], default=[LOWEST, IDLE])
    folder = Path(tempfile.mkdtemp(prefix="worker-priorities-"))
    try:
        asyncio.run(run(folder, parser.parse_args()))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
