"""Run the simulations: `python -m tests.simulation --seeds 2000`, one world with `--world broker`, one seed with its
transcript with `--world broker --seed 17`, a planted bug with `--planted marker_lost`.

A seed replays exactly because strings hash the same in every run (PYTHONHASHSEED=0, set here).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple

from tests.simulation.processes import each_in_its_own

CHUNK_SEEDS = 50
"""Simulated by one process, which keeps a megabyte or two of each."""
PROGRESS_S = 5.0


def main() -> int:
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    from tests.simulation.worlds import WORLDS

    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--world", choices=WORLDS, help="only this one")
    parser.add_argument("--seeds", type=int, default=2_000, help="how many of each world")
    parser.add_argument("--first", type=int, help="the first; 0, or what found the planted bug before")
    parser.add_argument("--seed", type=int, help="run this one and print its transcript")
    parser.add_argument("--planted", choices=sorted(name for world in WORLDS.values() for name in world.planted))
    parser.add_argument("--all", action="store_true", help="go on after a seed that failed; its error only")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes")
    parser.add_argument("--plant-each", type=int, metavar="SEEDS", help="plant each bug in turn, for so many")
    options = parser.parse_args()
    names = [options.world] if options.world else list(WORLDS)
    if options.planted is not None:
        names = [name for name in names if options.planted in WORLDS[name].planted]
    if options.plant_each is not None:
        return max([plant_each(name, options) for name in names])
    if options.seed is not None:
        return max([show(name, options.seed, options.planted) for name in names])
    return max([run(name, options) for name in names])


def prepare() -> None:
    """Once. What a broker tells its operator is not told here: it fails thousands of times a minute."""
    import tests.simulation.worlds  # noqa: F401

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore", RuntimeWarning)  # coroutines that a dying broker had not begun


def simulate(world: str, seed: int, planted: str | None) -> tuple[list[str], BaseException | None]:
    from tests.simulation.worlds import WORLDS

    with nullcontext() if planted is None else WORLDS[world].planted[planted].plant():
        return WORLDS[world].simulate(seed)


class Failures(NamedTuple):
    """Of some seeds, those that failed and why, and what it took to run them."""

    found: list[tuple[int, str]]
    cpu_s: float


def failures(task: tuple[str, range, str | None, bool]) -> Failures:
    """Stops at the first unless all are asked for."""
    world, seeds, planted, goes_on = task
    found = []
    started = time.process_time()
    for seed in seeds:
        error = simulate(world, seed, planted)[1]
        if error is not None:
            found.append((seed, f"{type(error).__name__}: {error}"))
            if not goes_on:
                break
    return Failures(found, time.process_time() - started)


def show(world: str, seed: int, planted: str | None) -> int:
    """One seed, told."""
    prepare()
    transcript, error = simulate(world, seed, planted)
    print("\n".join(transcript))
    if error is None:
        print(f"{world}: seed {seed} passed")
        return 0
    print(f"{world}: seed {seed} failed: {type(error).__name__}: {error}")
    return 1


def run(world: str, options: argparse.Namespace) -> int:
    """0 if every seed passed; else 1, after printing the first that did not, with its transcript."""
    first, count = options.first or 0, options.seeds
    started = told = time.monotonic()
    done = failed = 0
    cpu_s = 0.0
    for seeds, failed_ones in _results(world, range(first, first + count), options, options.planted):
        done += len(seeds)
        cpu_s += failed_ones.cpu_s
        for seed, error in failed_ones.found:
            failed += 1
            print(f"{world}: seed {seed} failed: {error}", flush=True)
            if not options.all:
                return show(world, seed, options.planted)
        if time.monotonic() - told > PROGRESS_S:
            told = time.monotonic()
            print(f"{world}: {done} of {count} seeds, {done / (told - started):.0f} a second", flush=True)
    speed = f"{time.monotonic() - started:.0f} s, {done / cpu_s:.0f} a second of a processor"
    print(f"{world}: {done - failed} of {done} seeds passed, {speed}", flush=True)
    return min(failed, 1)


def plant_each(world: str, options: argparse.Namespace) -> int:
    """0 if each bug that can be planted in this world is found; prints which seed finds it, and how often a second of a
    processor does.
    """
    from tests.simulation.worlds import WORLDS

    missed = 0
    for planted, bug in WORLDS[world].planted.items():
        first = bug.seed if options.first is None else options.first
        seeds = range(first, first + options.plant_each)
        found: list[tuple[int, str]] = []
        cpu_s = 0.0
        for _, of_chunk in _results(world, seeds, options, planted):
            found += of_chunk.found
            cpu_s += of_chunk.cpu_s
            if found and not options.all:
                break
        missed += not found
        told = f"not found in {cpu_s:.0f} s"
        if found:
            first = ", ".join(str(seed) for seed, _ in found[:3])
            told = f"{len(found)} of {len(seeds)}, {len(found) / cpu_s:.2f} a second: {first}: {found[0][1]}"
        print(f"{world}: {planted}: {told}", flush=True)
    return min(missed, 1)


def _results(
    world: str, seeds: range, options: argparse.Namespace, planted: str | None
) -> Iterator[tuple[range, Failures]]:
    chunks = [seeds[start : start + CHUNK_SEEDS] for start in range(0, len(seeds), CHUNK_SEEDS)]
    prepare()
    simulate(world, 0, None)  # what is made or imported once is here for all of them then
    tasks = [(world, chunk, planted, options.all) for chunk in chunks]
    yield from zip(chunks, each_in_its_own(failures, tasks, options.jobs), strict=True)


if __name__ == "__main__":
    sys.exit(main())
