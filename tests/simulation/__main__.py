"""Run the simulation of the log: `python -m tests.simulation --seeds 2000`, or one seed with its transcript: `--seed
17`.
"""

import argparse
import sys
import time

from tests.simulation.log_world import simulate
from tests.simulation.planted import PLANTED


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="run this one and print its transcript")
    parser.add_argument("--planted", choices=sorted(PLANTED), help="with this bug in the log")
    options = parser.parse_args()
    if options.planted is None:
        return run(options)
    with PLANTED[options.planted]():
        return run(options)


def run(options: argparse.Namespace) -> int:
    """0 if every seed passed, 1 after printing the first that did not."""
    seeds = range(options.first, options.first + options.seeds) if options.seed is None else [options.seed]
    started = time.monotonic()
    for seed in seeds:
        world, error = simulate(seed)
        if error is not None or options.seed is not None:
            print("\n".join(world.history.transcript))
        if error is not None:
            print(f"seed {seed} failed: {type(error).__name__}: {error}")
            return 1
    elapsed_s = time.monotonic() - started
    print(f"{len(seeds)} seeds passed, {len(seeds) / elapsed_s:.0f} a second")
    return 0


if __name__ == "__main__":
    sys.exit(main())
