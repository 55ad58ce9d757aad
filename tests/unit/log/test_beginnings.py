"""Refused beginnings of producers: kept until their partition is open, within bounds."""

from bytemq.broker.log import beginnings
from bytemq.broker.log.beginnings import Beginnings
from bytemq.types import PartitionId, TopicId


def pid(index: int) -> PartitionId:
    return PartitionId(TopicId(b"b" * 16), index)


def test_take__gives_each_once() -> None:
    remembered = Beginnings()
    remembered.refused(pid(0), 7, 0)
    remembered.refused(pid(0), 7, 1)
    remembered.refused(pid(1), 8, 0)
    assert remembered.take(pid(0)) == {7: 1}
    assert remembered.take(pid(0)) == {}
    assert remembered.take(pid(1)) == {8: 0}


def test_refused__is_bounded() -> None:
    remembered = Beginnings()
    for number in range(beginnings.MAX_REMEMBERED + 3):
        remembered.refused(pid(number % 5), number, 0)
    left = [remembered.take(pid(index)) for index in range(5)]
    assert left[0] == {beginnings.MAX_REMEMBERED: 0}, "the oldest partition went"
    assert beginnings.MAX_REMEMBERED + 2 in left[2]
    assert sum(map(len, left)) <= beginnings.MAX_REMEMBERED
