"""Every world keeps its promises for as many seeds as there is time for, and every planted bug is found.

In processes of their own, by the same command that a developer uses: a seed that fails here fails there.
"""

import subprocess
import sys

import pytest

from tests.simulation.worlds import WORLDS

JOBS = "2"
ENOUGH_SEEDS = {
    "log": "60",
    "classic-groups": "400",
    "consumer-groups": "400",
    "broker": "400",
    "transactions": "400",
    "cluster": "400",
    "compaction": "60",
    "cluster-storage": "300",
}
"""Within these every planted bug must be found."""


def simulation(*arguments: str) -> str:
    """What it prints; fails with that when something was found broken."""
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize("world", sorted(WORLDS))
def test_world__keeps_its_promises(world: str) -> None:
    assert "seeds passed" in simulation("--world", world, "--jobs", JOBS)


@pytest.mark.parametrize("world", sorted(WORLDS))
def test_world__is_the_same_for_the_same_seed(world: str) -> None:
    first, second = (simulation("--world", world, "--seed", "7") for _ in range(2))
    assert first == second
    assert simulation("--world", world, "--seed", "8") != first


@pytest.mark.parametrize("world", sorted(name for name in WORLDS if WORLDS[name].planted))
def test_world__finds_each_planted_bug(world: str) -> None:
    simulation("--world", world, "--plant-each", ENOUGH_SEEDS[world], "--jobs", JOBS)
