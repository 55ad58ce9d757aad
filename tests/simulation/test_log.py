"""The log under a hundred troubles: every seed keeps every promise, and every planted bug is found."""

import pytest

from tests.simulation.log_world import simulate
from tests.simulation.planted import PLANTED

SEEDS = 200
ENOUGH_SEEDS = 60
"""Within these every planted bug must be found."""


@pytest.mark.parametrize("first", range(0, SEEDS, 20))
def test_log__keeps_its_promises(first: int) -> None:
    for seed in range(first, first + 20):
        world, error = simulate(seed)
        assert error is None, "\n".join([f"seed {seed}", *world.history.transcript])


def test_simulation__is_the_same_for_the_same_seed() -> None:
    first, second = (simulate(7)[0].history.transcript for _ in range(2))
    assert first == second
    assert simulate(8)[0].history.transcript != first


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_simulation__finds_a_planted_bug(name: str) -> None:
    with PLANTED[name]():
        assert any(simulate(seed)[1] is not None for seed in range(ENOUGH_SEEDS)), f"{name} was not found"
