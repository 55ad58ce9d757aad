"""How fast an owner hands over what is wished elsewhere, and for whom it waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from bytemq.broker.departures import IDLE_AT_ONCE, OPEN_AT_ONCE, PATIENCE_S, PAUSE_S, Departures
from bytemq.metadata import keys, values
from bytemq.metadata.store import Event
from bytemq.metadata.values import DoubtStage, DoubtValue
from bytemq.types import PartitionId
from tests.support.metadata import image_of, topic_id, topic_puts
from tests.support.virtual_time import VirtualClock

T1 = topic_id(1)


class HastyClock(VirtualClock):
    """Its timers run half a millisecond early, as those of uvloop do when the loop is busy."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Any:
        return super().call_later(max(seconds - 0.0005, 0.0001), callback)


class Owner:
    """Broker 0 of two, whose partitions are wished to be at broker 1."""

    def __init__(
        self, partitions: int, *, idle: bool = False, is_prepared: bool = True, clock: VirtualClock | None = None
    ) -> None:
        self.clock = VirtualClock() if clock is None else clock
        self.woken = 0
        self.idle = idle
        self.image = image_of([0, 1], topic_puts("t", T1, [1] * partitions))
        self.unwanted = [PartitionId(T1, index) for index in range(partitions)]
        self.departures = Departures(self.clock, self._wake)
        if is_prepared:
            self.prepare()

    def _wake(self) -> None:
        self.woken += 1

    def prepare(self, revision: int | None = None) -> None:
        value = values.encode_number(self.image.revision if revision is None else revision)
        self.image.apply([Event(keys.prepared(1), value, self.image.revision + 1)])

    def doubt(self, stage: DoubtStage | None) -> None:
        """In broker 1, by broker 2; None: it is taken back."""
        value = None if stage is None else values.encode_doubt(DoubtValue(self.image.brokers[1].epoch, 2, stage))
        self.image.apply([Event(keys.doubt(1), value, self.image.revision + 1)])

    def go(self) -> Sequence[PartitionId]:
        gone = self.departures.due(self.image, self.unwanted, lambda pid: not self.idle)
        self.unwanted = [pid for pid in self.unwanted if pid not in gone]
        return gone


def test_departures__of_many_open_partitions_are_some_at_a_time() -> None:
    owner = Owner(2 * OPEN_AT_ONCE + 1)
    assert len(owner.go()) == OPEN_AT_ONCE
    assert owner.go() == [], "something else has changed meanwhile"
    owner.clock.advance(PAUSE_S * 1.01)
    assert owner.woken == 1
    assert len(owner.go()) == OPEN_AT_ONCE
    owner.clock.advance(PAUSE_S * 1.01)
    assert (owner.woken, len(owner.go())) == (2, 1)
    owner.clock.advance(10)
    assert owner.woken == 2


def test_departures__begin_with_who_has_waited_longest() -> None:
    owner = Owner(2 * OPEN_AT_ONCE)
    first = owner.unwanted[OPEN_AT_ONCE:]
    newer, owner.unwanted = owner.unwanted[:OPEN_AT_ONCE], [*first, PartitionId(T1, 0)]
    assert owner.go() == first
    owner.unwanted = [*newer[1:], *owner.unwanted]
    owner.clock.advance(PAUSE_S * 1.01)
    assert owner.go()[0] == newer[0], "before those that came later, wherever they are in the table"


def test_departures__of_what_storage_does_not_let_go_of_come_behind_all_others() -> None:
    owner = Owner(2 * IDLE_AT_ONCE, idle=True)
    stuck, others = owner.unwanted[:IDLE_AT_ONCE], owner.unwanted[IDLE_AT_ONCE:]
    assert owner.go() == stuck
    owner.unwanted = [*stuck, *others]
    owner.clock.advance(PAUSE_S * 1.01)
    assert owner.go() == others
    owner.clock.advance(PAUSE_S * 1.01)
    assert owner.go() == stuck


def test_departures__of_few_leave_no_pause_behind() -> None:
    owner = Owner(3)
    assert len(owner.go()) == 3
    owner.unwanted = [PartitionId(T1, 0)]
    assert len(owner.go()) == 1


def test_departures__of_what_nobody_uses_need_no_pause() -> None:
    owner = Owner(500, idle=True, is_prepared=False)
    assert len(owner.go()) == 500 <= IDLE_AT_ONCE


def test_departures__wait_until_the_next_owner_has_prepared_for_this_wish() -> None:
    owner = Owner(3, is_prepared=False)
    assert owner.go() == []
    owner.prepare(0)
    assert owner.go() == [], "for an earlier one"
    owner.prepare()
    assert len(owner.go()) == 3


@pytest.mark.parametrize("idle", [False, True])
def test_departures__wait_while_the_session_of_the_next_owner_is_in_doubt(idle: bool) -> None:
    owner = Owner(3, idle=idle)
    owner.doubt(DoubtStage.RAISED)
    assert owner.go() == [], "it may have died when it had prepared"
    owner.clock.advance(PATIENCE_S * 1.01)
    assert owner.woken == 1
    owner.doubt(DoubtStage.MISSED)
    assert owner.go() == []
    owner.doubt(None)
    owner.clock.advance(PATIENCE_S * 1.01)
    assert owner.woken == 2
    assert len(owner.go()) == 3


def test_departures__do_not_wait_for_ever() -> None:
    owner = Owner(2, is_prepared=False)
    assert owner.go() == []
    owner.clock.advance(PATIENCE_S / 2)
    assert owner.go() == []
    owner.clock.advance(PATIENCE_S * 0.51)
    assert owner.woken > 0
    assert len(owner.go()) == 2


def test_departures__a_timer_that_runs_early_leaves_nobody_behind() -> None:
    owner = Owner(OPEN_AT_ONCE + 1, is_prepared=False, clock=HastyClock())
    gone: list[PartitionId] = []
    owner.departures = Departures(owner.clock, lambda: gone.extend(owner.go()))
    assert owner.go() == []
    owner.clock.advance(PATIENCE_S * 1.01)
    assert len(gone) == OPEN_AT_ONCE
    owner.clock.advance(PAUSE_S * 1.01)
    assert len(gone) == OPEN_AT_ONCE + 1
