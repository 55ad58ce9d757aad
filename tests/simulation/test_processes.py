"""Simulations in processes of their own."""

import os

import pytest

from tests.simulation.processes import Died, each_in_its_own


def test_results__come_in_the_order_of_the_tasks_each_from_another_process() -> None:
    results = list(each_in_its_own(lambda task: (task, os.getpid()), range(7), jobs=3))
    assert [task for task, _ in results] == list(range(7))
    assert len({process for _, process in results} | {os.getpid()}) == 8


def test_process_that_dies__is_told() -> None:
    results = each_in_its_own(lambda task: task if task < 2 else os._exit(3), range(4), jobs=1)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(Died, match="3"):
        next(results)
