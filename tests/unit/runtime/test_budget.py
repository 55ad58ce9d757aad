"""Memory budgets: the limit holds, who waits is served in order, and giving up disturbs nobody."""

import pytest

from bytemq.runtime.budget import MemoryBudget


def test_budget__reserves_up_to_the_limit() -> None:
    budget = MemoryBudget(100)
    assert budget.try_reserve(100)
    assert not budget.try_reserve(1)
    budget.release(1)
    assert budget.try_reserve(1)
    assert budget.exhausted


def test_budget__of_nothing_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="0 bytes"):
        MemoryBudget(0)


def test_budget__serves_waiters_in_order_and_before_newcomers() -> None:
    budget = MemoryBudget(100)
    budget.reserve_anyway(100)
    served: list[str] = []
    budget.wait(60, lambda: served.append("first"))
    budget.wait(30, lambda: served.append("second"))
    budget.release(50)
    assert served == [], "50 are not enough for the first, and the second comes after it"
    assert not budget.try_reserve(10)
    budget.release(50)
    assert served == ["first", "second"]
    assert budget.used_bytes == 90


def test_budget__one_who_gives_up_makes_room_for_those_behind() -> None:
    budget = MemoryBudget(100)
    budget.reserve_anyway(80)
    served: list[str] = []
    first = budget.wait(60, lambda: served.append("first"))
    budget.wait(20, lambda: served.append("second"))
    first.cancel()
    assert served == ["second"]
    first.cancel()
    budget.release(100)
    assert budget.used_bytes == 0


def test_budget__more_than_the_limit_is_served_alone() -> None:
    budget = MemoryBudget(100)
    budget.reserve_anyway(10)
    served: list[str] = []
    budget.wait(500, lambda: served.append("huge"))
    budget.release(10)
    assert served == ["huge"]
    assert budget.peak_bytes == 500


def test_budget__a_waiter_may_release_at_once() -> None:
    budget = MemoryBudget(10)
    budget.reserve_anyway(10)
    served: list[int] = []

    def use(number: int) -> None:
        served.append(number)
        budget.release(10)

    for number in range(50):
        budget.wait(10, lambda number=number: use(number))
    budget.release(10)
    assert served == list(range(50))
    assert budget.used_bytes == 0
