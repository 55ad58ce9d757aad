"""A partition as a broker holds it: the table is what its documentation says, and leads where it should."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytemq.broker import holding as module
from bytemq.broker.holding import Fact, Holding, State, Step, fact_of, next_step
from bytemq.metadata import values
from bytemq.metadata.image import ClusterImage
from bytemq.types import PartitionId
from tests.support.metadata import image_of, topic_id, topic_puts

T1 = topic_id(1)


def image(owner: int, wished: int, brokers: tuple[int, ...]) -> ClusterImage:
    facts = values.OwnersValue([owner], [1000 + owner], [3])
    return image_of(brokers, topic_puts("t", T1, [wished], facts))


def held(state: State, leader_epoch: int = 3) -> Holding:
    made = Holding(PartitionId(T1, 0), image(0, 0, (0,)).topics["t"])
    made.state, made.leader_epoch = state, leader_epoch
    return made


def documented() -> dict[State, list[Step]]:
    rows = (line.split() for line in (module.__doc__ or "").splitlines())
    found = [row for row in rows if len(row) == 5 and row[0] in State.__members__]
    return {State[name]: [Step.NOTHING if one == "-" else Step[one] for one in steps] for name, *steps in found}


def test_table__is_the_documented_one() -> None:
    table = documented()
    assert table.keys() == set(State)
    for state, steps in table.items():
        assert [next_step(held(state), fact, 3) for fact in Fact] == steps


@pytest.mark.parametrize("state", [state for state in State if state is not State.ABSENT])
@pytest.mark.parametrize("fact", [Fact.OURS, Fact.UNWANTED])
def test_holding__of_an_ownership_that_another_one_has_followed_is_not_ours(state: State, fact: Fact) -> None:
    assert next_step(held(state), fact, 4) is next_step(held(state), Fact.NOT_OURS, -1)


@pytest.mark.parametrize(
    ("owner", "wished", "brokers", "fact"),
    [
        (0, 0, (0, 1), Fact.OURS),
        (0, 1, (0, 1), Fact.UNWANTED),
        (0, 1, (0,), Fact.OURS),
        (0, -1, (0, 1), Fact.OURS),
        (1, 0, (0, 1), Fact.NOT_OURS),
        (-1, 0, (0, 1), Fact.NOT_OURS),
    ],
)
def test_fact__is_what_the_metadata_say_of_this_session(
    owner: int, wished: int, brokers: tuple[int, ...], fact: Fact
) -> None:
    shown = image(owner, wished, brokers)
    assert fact_of(shown, PartitionId(T1, 0), 1000)[0] is fact
    assert fact_of(shown, PartitionId(topic_id(2), 0), 1000)[0] is Fact.GONE


class Broker:
    """Does what the table says, against facts that a model of the metadata has; anything may fail."""

    def __init__(self) -> None:
        self.holding = held(State.ABSENT)
        self.fact, self.epoch = Fact.OURS, 0

    def step(self, works: bool, is_coordinated: bool) -> Step:
        one = self.holding
        step = next_step(one, self.fact, self.epoch if self.fact in (Fact.OURS, Fact.UNWANTED) else -1)
        match step:
            case Step.TAKE:
                assert self.fact in (Fact.OURS, Fact.UNWANTED) and one.state in (State.ABSENT, State.STUCK)
                one.state, one.leader_epoch = State.TAKEN if is_coordinated else State.SERVED, self.epoch
            case Step.COORDINATE if works:
                one.state = State.SERVED
            case Step.LEAVE:
                one.state = State.LEFT if works else State.STUCK
            case Step.HAND_OVER if works:
                assert (one.state, one.leader_epoch) == (State.LEFT, self.epoch), "only what nobody can append to"
                self.epoch += 1
                self.fact = Fact.NOT_OURS
            case Step.CLOSE | Step.DELETE:
                one.state = State.ABSENT if works else State.STUCK
            case Step.FORGET:
                one.state = State.ABSENT
        return step


@given(
    st.lists(st.tuples(st.sampled_from(Fact), st.booleans(), st.integers(0, 3), st.booleans()), max_size=30),
    st.booleans(),
)
def test_holding__comes_to_rest_where_the_facts_say_whatever_has_happened(
    history: list[tuple[Fact, bool, int, bool]], is_coordinated: bool
) -> None:
    broker = Broker()
    for fact, is_new, steps, works in history:
        if fact in (Fact.OURS, Fact.UNWANTED) and broker.fact in (Fact.NOT_OURS, Fact.GONE):
            broker.epoch += 1
        elif is_new and fact is Fact.OURS:
            broker.epoch += 1  # away and back before anybody looked
        broker.fact = fact
        for _ in range(steps):
            broker.step(works, is_coordinated)
    for _ in range(10):
        if broker.step(True, is_coordinated) is Step.NOTHING:
            break
    assert broker.step(True, is_coordinated) is Step.NOTHING
    assert broker.holding.is_served is (broker.fact is Fact.OURS)
    assert broker.holding.state is (State.SERVED if broker.fact is Fact.OURS else State.ABSENT)
