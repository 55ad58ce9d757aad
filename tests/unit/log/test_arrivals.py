"""Who comes to a broker before the partition does."""

from __future__ import annotations

from bytemq.broker.log.arrivals import PATIENCE_S, RESPITE_S, Arrivals
from bytemq.broker.log.partition import Partition
from bytemq.broker.log.waiters import Awaited
from bytemq.protocol.error_codes import ErrorCode
from bytemq.types import PartitionId
from tests.support.metadata import topic_id
from tests.support.virtual_time import VirtualClock

PID = PartitionId(topic_id(1), 0)
OTHER = PartitionId(topic_id(1), 1)
REFUSED, UNKNOWN = ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.KAFKA_STORAGE_ERROR


def come(arrivals: Arrivals, pid: PartitionId) -> None:
    arrivals.arrived(pid, Awaited())


def test_arrival__gives_those_who_have_waited_in_order_and_once() -> None:
    arrivals, told = Arrivals(VirtualClock()), list[tuple[int, object]]()
    for number in range(3):
        found = arrivals.get(PID)
        assert found is not None
        found.then(lambda outcome, number=number: told.append((number, outcome)))
    for pid, outcome in ((OTHER, REFUSED), (PID, UNKNOWN), (PID, REFUSED)):
        partition = Awaited[Partition | ErrorCode]()
        arrivals.arrived(pid, partition)
        partition.tell(outcome)
    assert told == [(0, UNKNOWN), (1, UNKNOWN), (2, UNKNOWN)]


def test_arrival__that_does_not_come_is_told_after_a_moment() -> None:
    clock, told = VirtualClock(), list[object]()
    arrivals = Arrivals(clock)
    first = arrivals.get(PID)
    assert first is not None
    first.then(told.append)
    clock.advance(PATIENCE_S * 0.9)
    assert told == [] and arrivals.get(PID) is first
    clock.advance(PATIENCE_S * 0.2)
    assert told == [ErrorCode.NOT_LEADER_OR_FOLLOWER]


def test_arrival__that_did_not_come_is_waited_for_by_nobody_for_a_while() -> None:
    clock = VirtualClock()
    arrivals = Arrivals(clock)
    assert arrivals.get(PID) is not None
    clock.advance(PATIENCE_S * 1.1)
    assert arrivals.get(PID) is None
    clock.advance(RESPITE_S * 0.9)
    assert arrivals.get(PID) is None
    clock.advance(RESPITE_S * 0.2)
    assert arrivals.get(PID) is not None


def test_arrival__that_comes_late_is_waited_for_the_next_time() -> None:
    clock = VirtualClock()
    arrivals = Arrivals(clock)
    assert arrivals.get(PID) is not None
    clock.advance(PATIENCE_S * 1.1)
    come(arrivals, PID)
    assert arrivals.get(PID) is not None, "it came, went, and is to come again"
    clock.advance(RESPITE_S * 1.1)


def test_arrival__is_not_waited_for_by_one_who_has_been_given_up() -> None:
    clock, told = VirtualClock(), list[object]()
    arrivals = Arrivals(clock)
    first = arrivals.get(PID)
    assert first is not None
    come(arrivals, PID)
    later = arrivals.get(PID)
    assert later is not None
    clock.advance(PATIENCE_S / 2)
    later.then(told.append)
    clock.advance(PATIENCE_S * 0.6)
    assert told == [ErrorCode.NOT_LEADER_OR_FOLLOWER]


def test_arrivals__of_different_partitions_are_waited_for_no_longer_than_one_while_none_comes() -> None:
    """A client's requests wait behind each other."""
    clock, told = VirtualClock(), list[object]()
    arrivals = Arrivals(clock)
    for index in range(5):
        arrival = arrivals.get(PartitionId(topic_id(1), index))
        if arrival is not None:
            arrival.then(lambda outcome, index=index: told.append(index))
        clock.advance(PATIENCE_S * 0.3)
    assert told == [0, 1, 2, 3] and arrivals.get(PartitionId(topic_id(1), 9)) is None
    come(arrivals, PID)
    assert arrivals.get(PartitionId(topic_id(1), 9)) is not None, "one has come: so may others"
    assert arrivals.get(OTHER) is None, "which did not come is another matter"


def test_arrivals__that_are_closed_send_everybody_away_and_let_nobody_wait() -> None:
    told: list[object] = []
    arrivals = Arrivals(VirtualClock())
    found = arrivals.get(PID)
    assert found is not None
    found.then(told.append)
    arrivals.close()
    assert told == [ErrorCode.NOT_LEADER_OR_FOLLOWER]
    assert arrivals.get(PID) is None
