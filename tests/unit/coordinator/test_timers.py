"""The queue of deadlines that a machine's timers are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bytemq.broker.coordinator.outcome import NOTHING, Outcome
from bytemq.broker.coordinator.timers import TimerQueue


class World:
    def __init__(self) -> None:
        self.now_ms = 0
        self.queue = TimerQueue(lambda: self.now_ms)
        self.fired: list[object] = []

    def schedule(self, key: object, delay_ms: int) -> None:
        def fire() -> Outcome[None]:
            self.fired.append(key)
            return NOTHING

        self.queue.schedule(key, delay_ms, fire)

    def run_until(self, now_ms: int) -> None:
        self.now_ms = now_ms
        while (action := self.queue.pop_due()) is not None:
            action()


def test_timers__fire_by_deadline_and_then_by_order() -> None:
    world = World()
    for key, delay_ms in (("c", 30), ("a", 10), ("b", 10), ("never", 100)):
        world.schedule(key, delay_ms)
    world.run_until(50)
    assert world.fired == ["a", "b", "c"]


def test_timers__that_are_moved_back_fire_once_and_later() -> None:
    world = World()
    world.schedule("session", 10)
    world.run_until(9)
    world.schedule("session", 10)
    world.run_until(10)
    assert world.fired == []
    world.run_until(19)
    assert world.fired == ["session"]
    assert world.queue.next_deadline_ms() is None


def test_timers__that_are_moved_forward_fire_early_and_once() -> None:
    world = World()
    world.schedule("join", 100)
    world.schedule("join", 5)
    world.run_until(5)
    world.run_until(200)
    assert world.fired == ["join"]


def test_timers__that_are_cancelled_do_not_fire() -> None:
    world = World()
    world.schedule("a", 5)
    world.queue.cancel("a")
    world.queue.cancel("unknown")
    world.run_until(10)
    assert world.fired == []


def test_timers__of_clients_that_come_and_go_take_no_memory() -> None:
    world = World()
    world.schedule("stays", 1_000_000)
    for number in range(10_000):
        world.schedule(number, 1_000)
        world.queue.cancel(number)
    for number in range(10_000):
        world.schedule("stays", 900_000 - number)  # always earlier
    assert len(world.queue._heap) < 200


@given(
    st.lists(
        st.tuples(st.sampled_from(["schedule", "cancel", "wait"]), st.sampled_from("abc"), st.integers(0, 40)),
        max_size=60,
    )
)
def test_timers__behave_as_a_dict_of_deadlines(steps: list[tuple[str, str, int]]) -> None:
    world = World()
    deadlines: dict[str, int] = {}
    expected: list[object] = []
    for verb, key, number in steps:
        if verb == "schedule":
            world.schedule(key, number)
            deadlines[key] = world.now_ms + number
        elif verb == "cancel":
            world.queue.cancel(key)
            deadlines.pop(key, None)
        else:
            now_ms = world.now_ms + number
            due = [each for each in deadlines if deadlines[each] <= now_ms]
            expected += due
            for each in due:
                del deadlines[each]
            world.run_until(now_ms)
            assert sorted(map(str, world.fired)) == sorted(map(str, expected))
            next_ms = world.queue.next_deadline_ms()
            assert (next_ms is None) == (not deadlines) and (next_ms is None or next_ms <= min(deadlines.values()))
