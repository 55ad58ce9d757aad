"""Seeds of chaos, one after the other: `python -m tests.chaos --seconds 3600`.

The first is a control without troubles. A seed that fails is told with what was broken, and its history and the
brokers' logs are kept; `--seed 17` brings the same clients and troubles again.
"""

from __future__ import annotations

import argparse
import faulthandler
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.chaos.cluster import LEASE_S, ChaosCluster, end_when_terminated, planted_wrapper, running_cluster
from tests.chaos.run import Run
from tests.chaos.troubles import plan

SEED_S = 40.0
CONTROL_S = 15.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=180.0, help="no seed begins later (default: 180)")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="only this one, and its control")
    parser.add_argument("--seed-seconds", type=float, default=SEED_S, help="of troubles in each seed")
    parser.add_argument("--lease", type=float, default=LEASE_S, help="of brokers' sessions, in seconds (default: 3)")
    parser.add_argument("--no-control", action="store_true", help="begin with troubles at once")
    parser.add_argument("--planted", help="run brokers with this bug, and want it found; see planted.py")
    parser.add_argument("--folder", type=Path, help="of logs and histories (default: one that goes when all is right)")
    options = parser.parse_args()
    end_when_terminated()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    wrapper = planted_wrapper(options.planted) if options.planted else []
    began = time.monotonic()
    with running_cluster(folder, options.seed or options.first, options.lease, wrapper) as cluster:
        print(f"cluster ready after {time.monotonic() - began:.0f} s, its files in {folder}", flush=True)
        if cluster.clock is None:
            print("clocks do not jump: libfaketime is not installed (on Debian: apt-get install libfaketime)")
        failed = run_seeds(cluster, folder, options)
        for words, count in Counter(cluster.endings).most_common(5):
            print(f"a broker ended by itself, {count} times: {words}")
    took_s = time.monotonic() - began
    if options.planted:
        print(f"{options.planted} {'found' if failed else 'NOT found'} after {took_s:.0f} s")
    if not failed and options.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return int(failed != bool(options.planted))


def run_seeds(cluster: ChaosCluster, folder: Path, options: argparse.Namespace) -> bool:
    """Whether one of them failed; the first that does is the last."""
    began = time.monotonic()
    if not options.no_control and run_one(cluster, folder, options.first, 0.0):
        return True
    seed = options.first if options.seed is None else options.seed
    while True:
        if run_one(cluster, folder, seed, options.seed_seconds):
            return True
        seed += 1
        if options.seed is not None or time.monotonic() - began > options.seconds:
            return False


def run_one(cluster: ChaosCluster, folder: Path, seed: int, seconds: float) -> bool:
    """Whether it failed. Without seconds of troubles: the control."""
    began = time.monotonic()
    name = f"seed-{seed}" if seconds else f"control-{seed}"
    run = Run(cluster, seed, name)
    troubles = plan(seed, seconds, cluster.lease_s)
    try:
        violation = run.go(troubles, seconds or CONTROL_S)
    except BaseException:
        run.write_history(folder / f"{name}.history")
        raise
    words = "right"
    if violation is not None:
        words = f"BROKEN: {violation}"
    told = f"{len(troubles)} troubles" if seconds else "no troubles"
    print(f"{name}: {told}, {run.summary()}; {time.monotonic() - began:.0f} s: {words}", flush=True)
    if words == "right":
        return False
    path = folder / f"{name}.history"
    run.note_groups()
    run.write_history(path)
    with path.with_suffix(".threads").open("w") as threads:
        faulthandler.dump_traceback(threads)
    print(f"  history: {path}\n  brokers' logs: {folder}/broker-*.log", flush=True)
    if seconds:
        print(f'  again: make chaos ARGS="--seed {seed}"', flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
