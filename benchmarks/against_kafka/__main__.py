"""`make bench-kafka`: bytemq and Apache Kafka 4.4.0 side by side, every workload in turn, A B A B.

make bench-kafka                                    everything, about an hour; writes docs/benchmarks/
make bench-kafka ARGS=--resume                      the same, without what was measured of this commit already
make bench-kafka QUICK=1                            three short runs of each, without the long workloads
make bench-kafka ONLY="produce-16k fsync-ack"       some workloads by name; prints, and writes to .bench/report
make bench-kafka ONLY="..." ARGS=--keep             the same, put in their places in docs/benchmarks/

A workload takes its place in the report when it is done. All others stay as they were measured before, whatever
becomes of the run.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks.against_kafka.measures import Pace, produce
from benchmarks.against_kafka.report import in_their_places, number, read, verdict, write
from benchmarks.against_kafka.rows import COLD, CURVES, MOST_PARTITIONS, OF_ITS_OWN, TABLE, Row
from benchmarks.against_kafka.stand import RowResult, Stand
from benchmarks.loader import BENCH, ROOT
from benchmarks.workloads import LARGE_4

DOCS = ROOT / "docs" / "benchmarks"
FULL, QUICK = Pace(4.0, 1.0), Pace(2.0, 0.5)
FULL_REPEATS, QUICK_REPEATS = 5, 3
WARM_UP_S, QUICK_WARM_UP_S = 40.0, 15.0
DEFAULT_HEAP = "1g"
HEAPS = (DEFAULT_HEAP, "512m")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few minutes: short runs, no long workloads")
    parser.add_argument("--only", nargs="+", metavar="WORKLOAD", default=[])
    parser.add_argument("--list", action="store_true", help="the names of all workloads")
    parser.add_argument("--keep", action="store_true", help="put them in their places in docs/benchmarks")
    parser.add_argument("--resume", action="store_true", help="leave out what was measured of this commit already")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--kafka-heap", help=f"of the virtual machine; without it the faster one of {HEAPS} is taken")
    options = parser.parse_args()
    every = [*COLD, *TABLE, *OF_ITS_OWN, *CURVES, MOST_PARTITIONS]
    if options.list:
        print("\n".join(f"{row.name:24}{row.title}" for row in every))
        return 0
    unknown = set(options.only) - {row.name for row in every}
    if unknown:
        parser.error(f"no such workload: {', '.join(sorted(unknown))}; --list names them")
    rows = [row for row in every if (row.name in options.only if options.only else not (options.quick and row.is_long))]
    rows = _possible(rows)
    target = BENCH / "report" if (options.quick or options.only) and not options.keep else DOCS
    commit = _commit()
    if options.resume:
        done = {one.row.name for one in read(target, every) if one.commit == commit}
        rows = [row for row in rows if row.name not in done]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # Kafka holds several files for each partition
    console = Console(width=120)
    BENCH.mkdir(exist_ok=True)
    heap = options.kafka_heap or (DEFAULT_HEAP if options.quick or options.only else _faster_heap(console))
    pace = QUICK if options.quick else FULL
    repeats = options.repeats or (QUICK_REPEATS if options.quick else FULL_REPEATS)
    warm_up_s = QUICK_WARM_UP_S if options.quick or options.only else WARM_UP_S
    facts = _facts(heap, commit)
    folder = _folder()
    stand = Stand(folder, heap, pace, repeats, console, commit)

    def report(results: Sequence[RowResult], failed: Mapping[str, str]) -> None:
        write(target, {**facts, **failed}, in_their_places(every, read(target, every), results))

    try:
        results = _run(stand, rows, warm_up_s, console, report)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _show(console, results)
    console.print(f"written to {os.path.relpath(target)}")
    return 0


def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="against-kafka-", dir=BENCH))


def _possible(rows: Sequence[Row]) -> list[Row]:
    kept = []
    for row in rows:
        missing = [program for program in row.needs if shutil.which(program) is None]
        if missing:
            print(f"{row.name} is left out: {', '.join(missing)} is missing", file=sys.stderr)
        else:
            kept.append(row)
    return kept


def _faster_heap(console: Console) -> str:
    """The heap with which Kafka is faster on this machine: the larger one was found 1.3 times slower elsewhere."""
    rates = {}
    for heap in HEAPS:
        stand = Stand(_folder(), heap, FULL, 1, console)
        with stand.running():
            stand.warm_up(WARM_UP_S)
            measure = produce(LARGE_4, "page-cache")
            rates[heap] = sorted(measure(stand.kafka, QUICK)["MB/s"] for _ in range(3))[1]
        console.print(f"Kafka with a heap of {heap}: {rates[heap]:.0f} MB/s", style="dim")
    return max(HEAPS, key=lambda heap: rates[heap])


def _run(
    stand: Stand,
    rows: Sequence[Row],
    warm_up_s: float,
    console: Console,
    report: Callable[[Sequence[RowResult], Mapping[str, str]], None],
) -> list[RowResult]:
    """Those without Kafka come last, when no other server is there."""
    results: list[RowResult] = []
    failed: dict[str, str] = {}

    def run(row: Row) -> None:
        try:
            result = stand.run(row)
        except Exception as error:  # one workload that fails, of whichever server, must not cost the others
            failed[row.name] = repr(error)
            console.print(f"{row.name} FAILED: {error!r}", markup=False)
            console.print_exception()
            stand.mend()
        else:
            results.append(result)
            _show(console, [result])
        report(results, _failures(failed))  # after each: an hour's work is not lost by the last

    with_kafka = [row for row in rows if row.comparison is None]
    if with_kafka:
        with stand.running():
            warm = False
            for row in with_kafka:
                if row not in COLD and not warm:
                    warm = True
                    console.print("  warming up", style="dim")
                    stand.warm_up(warm_up_s)
                run(row)
    for row in rows:
        if row.comparison is not None:
            run(row)
    return results


def _failures(failed: Mapping[str, str]) -> dict[str, str]:
    return {"failed, not measured": "; ".join(f"{name}: {error}" for name, error in failed.items())} if failed else {}


def _commit() -> str:
    shown = subprocess.run(["git", "log", "-1", "--format=%h"], cwd=ROOT, capture_output=True, text=True, check=False)
    return shown.stdout.strip() or "unknown"


def _facts(heap: str, commit: str) -> dict[str, str]:
    java = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr.splitlines()[0]
    model = [line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "bytemq": f"commit {commit}, Python {platform.python_version()}",
        "Kafka": f"4.4.0, one KRaft node, its own defaults, heap {heap}, {java}",
        "machine": f"{os.cpu_count()} cores ({model[0] if model else platform.machine()}), "
        f"{memory_gb:.0f} GB of memory, Linux {platform.release().partition('-')[0]}",
        "runs": "A B A B, medians (least to most)",
    }


def _show(console: Console, results: Sequence[RowResult]) -> None:
    for result in results:
        goals = [f"{goal}: {' '.join(verdict(goal, result))}" for goal in result.row.goals]
        figures = [
            f"{name} {number(result.ours[name].median)} : {number(result.theirs[name].median)}"
            for name in ("MB/s", "out MB/s", "p50 ms", "p99 ms", "CPU s/GB", "written/byte")
            if name in result.ours and name in result.theirs
        ]
        console.print(f"{result.row.name}: {', '.join(figures)}", markup=False)
        for goal in goals:
            console.print(f"    {goal}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
