"""Every world keeps its promises, and finds every planted bug: a few seeds of each. Thousands are a step of the CI.

In processes of their own, by the same command that a developer uses: a seed that fails here fails there.
"""

import subprocess
import sys

import pytest

from tests.simulation.worlds import WORLDS

JOBS = "2"
FEW_SEEDS = "20"
ENOUGH_SEEDS = "1000"
"""Within these, from the one on that has found it before, every planted bug must be found. Mostly it takes one."""


def simulation(*arguments: str) -> str:
    """What it prints; fails with that when something was found broken."""
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize("world", sorted(WORLDS))
def test_world__keeps_its_promises(world: str) -> None:
    assert "seeds passed" in simulation("--world", world, "--seeds", FEW_SEEDS)


@pytest.mark.parametrize("world", sorted(WORLDS))
def test_world__is_the_same_for_the_same_seed(world: str) -> None:
    first, second = (simulation("--world", world, "--seed", "7") for _ in range(2))
    assert first == second
    assert simulation("--world", world, "--seed", "8") != first


PLANTED = [(world, name) for world in sorted(WORLDS) for name in WORLDS[world].planted]


@pytest.mark.parametrize(("world", "name"), PLANTED)
def test_planted_bug__fits_the_code_of_today(world: str, name: str) -> None:
    with WORLDS[world].planted[name].plant():
        pass


@pytest.mark.parametrize("world", sorted(name for name in WORLDS if WORLDS[name].planted))
def test_world__finds_each_planted_bug(world: str) -> None:
    simulation("--world", world, "--plant-each", ENOUGH_SEEDS, "--jobs", JOBS)
