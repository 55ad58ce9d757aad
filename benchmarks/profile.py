"""`make profile`: a flame graph of a node under one workload of `make bench-kafka`, by py-spy.

Python and C in one picture, all threads, only while they run. Sampling costs the node little; figures are not printed
all the same, so that nobody quotes those of a profiled node.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from benchmarks import memory
from benchmarks.against_kafka.contenders import Bytemq
from benchmarks.against_kafka.measures import Measure, Pace
from benchmarks.against_kafka.rows import CURVES, TABLE
from benchmarks.loader import BENCH

RATE_HZ = 500
LEAD_S = 2.0


def main() -> int:
    rows = {row.name: row for row in [*TABLE, *CURVES]}
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("workload", choices=rows, metavar="WORKLOAD", help="a name that `--list` of bench-kafka gives")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--format", choices=("flamegraph", "raw", "speedscope"), default="flamegraph")
    options = parser.parse_args()
    row = rows[options.workload]
    py_spy = Path(sys.executable).with_name("py-spy")
    if not py_spy.exists():
        sys.exit("profile: py-spy is missing: pip install 'bytemq[bench]'")
    BENCH.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="profile-", dir=BENCH))
    node = Bytemq(folder / "data", row.durability)
    suffix = {"flamegraph": "svg", "raw": "txt", "speedscope": "json"}[options.format]
    picture = BENCH / f"profile-{row.name}.{suffix}"
    command = [str(py_spy), "record", "--output", str(picture), "--format", options.format]
    command += ["--rate", str(RATE_HZ), "--duration", str(round(options.seconds))]
    command += ["--native", "--threads"]
    try:
        node.start()
        load = Running(row.measure, node, Pace(options.seconds + 2 * LEAD_S, LEAD_S))
        load.wait_for_load()
        subprocess.run([*command, "--pid", str(node.pid)], check=True)
        load.join()
    finally:
        node.close()
        shutil.rmtree(folder, ignore_errors=True)
        memory.empty(BENCH)
    print(f"written to {os.path.relpath(picture)}")
    return 0


class Running(threading.Thread):
    """The workload, beside the profiler."""

    def __init__(self, measure: Measure, node: Bytemq, pace: Pace) -> None:
        super().__init__(daemon=True)
        self._measure, self._node, self._pace = measure, node, pace
        self.start()

    def run(self) -> None:
        self._measure(self._node, self._pace)

    def wait_for_load(self) -> None:
        """What comes before the load (topics, filling them) is not what is looked at."""
        self.join(LEAD_S + self._pace.warmup_s)


if __name__ == "__main__":
    sys.exit(main())
