"""What any broker could reach on this machine: the load of `make bench` on floor.c, which does the least there is.

    python -m benchmarks.floor

A goal that not even that reaches cannot be reached here; how far a broker is from it is what it costs by itself.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.loader import BENCH, Address, built
from benchmarks.usage import usage
from benchmarks.workloads import BATCHES_16K, LARGE_1, LARGE_4, Workload, one_batch, produce_frames, send

SMALL_RECORDS = Workload("produce 100 B records, 1 connection", 16, 1, 5, 16 * 1024, record_bytes=100)
WORKLOADS = [LARGE_1, LARGE_4, BATCHES_16K, SMALL_RECORDS]
FILE_BYTES = 64 << 20


@contextmanager
def floor() -> Iterator[tuple[Address, int]]:
    """Its address and process id."""
    path = BENCH / "floor.data"
    process = subprocess.Popen([str(built("floor")), str(path), str(FILE_BYTES)], stdout=subprocess.PIPE, text=True)
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
    options = parser.parse_args()
    with floor() as (address, pid):
        for workload in WORKLOADS:
            rates, costs = [], []
            frames = produce_frames(workload, "floor", one_batch(workload))
            for _ in range(options.runs):
                before = usage(pid)
                got = send(workload, address, frames, seconds=options.seconds, warmup_s=0.5)
                rates.append(got["sent_bytes"] / 1e6 / got["seconds"])
                costs.append(usage(pid).since(before).cpu_s / (got["total_sent_bytes"] / 1e9))
            rate, cost = statistics.median(rates), statistics.median(costs)
            print(f"{workload.name}: {rate:,.0f} MB/s ({min(rates):,.0f} to {max(rates):,.0f}), {cost:.2f} CPU s/GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
