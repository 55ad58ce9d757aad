"""The ledger sees what it says it sees: the hour is only as good."""

from __future__ import annotations

from tests.churn.ledger import Ledger, Newest


def nothing_went() -> int:
    return 0


def test_ledger__agrees_in_whichever_order_it_is_told() -> None:
    ledger = Ledger("reader")
    ledger.acknowledged(0, 0, 10)
    assert not ledger.is_settled()
    ledger.read(0, 0, 10, nothing_went)
    ledger.read(0, 1, 11, nothing_went)
    assert not ledger.is_settled()
    ledger.acknowledged(0, 1, 11)
    ledger.read(0, 0, 10, nothing_went)  # again, as by the next member of a group
    assert ledger.is_settled() and ledger.problems() == []
    assert ledger.read_count == 2


def test_ledger__tells_what_is_lost_and_what_nobody_wrote() -> None:
    ledger = Ledger("reader")
    for offset in range(3):
        ledger.acknowledged(0, offset, 100 + offset)
    ledger.read(0, 0, 100, nothing_went)
    ledger.read(0, 2, 102, nothing_went)
    ledger.read(0, 3, 7, nothing_went)
    assert ledger.problems() == [
        "reader: 1 records acknowledged and not read, such as 0@1, number 101",
        "reader: 1 records read and never acknowledged, such as 0@3, number 7",
    ]
    ledger.uncertain(7)
    assert len(ledger.problems()) == 1


def test_ledger__tells_another_record_at_once() -> None:
    ledger = Ledger("reader")
    ledger.acknowledged(0, 0, 1)
    ledger.read(0, 0, 2, nothing_went)
    ledger.read(0, 1, 3, nothing_went)
    ledger.acknowledged(0, 1, 4)
    assert ledger.wrong == ["reader: 0@0 is 2, acknowledged was 1", "reader: 0@1 is 3, acknowledged was 4"]


def test_ledger__lets_go_only_what_is_before_the_log() -> None:
    ledger = Ledger("reader")
    for offset in range(10):
        ledger.acknowledged(0, offset, offset)
    ledger.read(0, 6, 6, lambda: 5)
    assert ledger.let_go_count == 5
    assert ledger.problems() == [
        "reader: 4 records acknowledged and not read, such as 0@5, number 5",
    ]
    ledger.read(0, 10, 10, nothing_went)
    ledger.acknowledged(0, 10, 10)
    ledger.acknowledged(0, 11, 11)
    ledger.ended(0, 12)
    assert ledger.let_go_count == 6, "5 is not excused by a later start of the log"
    assert len(ledger.problems()) == 1


def test_newest__is_what_a_reader_must_know() -> None:
    newest = Newest()
    for key, number in ((b"a", 1), (b"b", 2), (b"a", 3)):
        newest.acknowledged(key, number)
    assert newest.problems("compacted", {b"a": 3, b"b": 2}) == []
    assert newest.problems("compacted", {b"a": 1}) == [
        "compacted: b'a' is 1, the newest acknowledged is 3",
        "compacted: b'b' is None, the newest acknowledged is 2",
    ]
    newest.uncertain(b"a", 4)
    assert newest.problems("compacted", {b"a": 4, b"b": 2}) == []
    newest.acknowledged(b"a", 5)
    assert newest.problems("compacted", {b"a": 4, b"b": 2}) == ["compacted: b'a' is 4, the newest acknowledged is 5"]
