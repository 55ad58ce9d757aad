"""What any broker could reach on this machine: the load of `make bench` on floor.c, which does the least there is.

    python -m benchmarks.floor
    python -m benchmarks.floor --new-pages      it keeps what it was sent, as a broker does

A goal that not even that reaches cannot be reached here; how far a broker is from it is what it costs by itself.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import memory
from benchmarks.loader import BENCH, Address, built
from benchmarks.usage import usage
from benchmarks.workloads import BATCHES_16K, LARGE_1, LARGE_4, Workload, one_batch, produce_frames, send

SMALL_RECORDS = Workload("produce 100 B records, 1 connection", 16, 1, 5, 16 * 1024, record_bytes=100)
WORKLOADS = [LARGE_1, LARGE_4, BATCHES_16K, SMALL_RECORDS]
FILE_BYTES = 64 << 20
WHOLE_BYTES = 1 << 40
"""Of a file whose end is not reached: all that is written goes into pages that had nothing of the file before."""


@contextmanager
def floor(file_bytes: int) -> Iterator[tuple[Address, int]]:
    """Its address and process id."""
    path = BENCH / "floor.data"
    memory.fill(BENCH)
    process = subprocess.Popen([str(built("floor")), str(path), str(file_bytes)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield ("127.0.0.1", int(process.stdout.readline())), process.pid
    finally:
        process.kill()
        process.wait()
        path.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--new-pages", action="store_true", help="in place of a file of 64 MiB that is used again")
    options = parser.parse_args()
    try:
        for workload in WORKLOADS:
            _show(workload, WHOLE_BYTES if options.new_pages else FILE_BYTES, options.runs, options.seconds)
    finally:
        memory.empty(BENCH)
    return 0


def _show(workload: Workload, file_bytes: int, runs: int, seconds: float) -> None:
    rates, costs = [], []
    frames = produce_frames(workload, "floor", one_batch(workload))
    for _ in range(runs):
        with floor(file_bytes) as (address, pid):
            before = usage(pid)
            got = send(workload, address, frames, seconds=seconds, warmup_s=0.5)
            rates.append(got["sent_bytes"] / 1e6 / got["seconds"])
            costs.append(usage(pid).since(before).cpu_s / (got["total_sent_bytes"] / 1e9))
    rate, cost = statistics.median(rates), statistics.median(costs)
    print(f"{workload.name}: {rate:,.0f} MB/s ({min(rates):,.0f} to {max(rates):,.0f}), {cost:.2f} CPU s/GB")


if __name__ == "__main__":
    sys.exit(main())
