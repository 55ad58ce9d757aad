"""Leader epochs: Kafka's answers to OffsetForLeaderEpoch, and who is fenced."""

import pytest

from bytemq.broker.log.leader_epochs import LeaderEpochs, check_leader_epoch
from bytemq.protocol.error_codes import ErrorCode

HISTORY = [(2, 0), (4, 10), (7, 25)]


@pytest.mark.parametrize(
    ("epoch", "answer"),
    [
        (-1, (-1, -1)),
        (1, (1, 0)),  # older than all: where the first known one starts
        (2, (2, 10)),
        (3, (2, 10)),  # a gap: the largest epoch below
        (4, (4, 25)),
        (7, (7, 40)),  # the latest ends at the end of the log
        (8, (-1, -1)),  # newer than all
    ],
)
def test_end_offset_for__answers_as_kafka(epoch: int, answer: tuple[int, int]) -> None:
    assert LeaderEpochs(HISTORY).end_offset_for(epoch, 40) == answer


def test_end_offset_for__knows_nothing_of_an_empty_history() -> None:
    assert LeaderEpochs().end_offset_for(0, 0) == (-1, -1)


def test_assign__keeps_no_trace_of_an_epoch_that_wrote_nothing() -> None:
    epochs = LeaderEpochs(HISTORY)
    epochs.assign(8, 40)
    epochs.assign(9, 40)
    assert epochs.entries == [*HISTORY, (9, 40)]


def test_assign__ignores_older_and_repeated_epochs() -> None:
    epochs = LeaderEpochs(HISTORY)
    epochs.assign(7, 99)
    epochs.assign(3, 99)
    assert epochs.entries == HISTORY


def test_advance_log_start__moves_the_start_of_the_epoch_that_spans_it() -> None:
    epochs = LeaderEpochs(HISTORY)
    epochs.advance_log_start(12)
    assert epochs.entries == [(4, 12), (7, 25)]
    epochs.advance_log_start(25)
    assert epochs.entries == [(7, 25)]


def test_epoch_at__names_the_epoch_of_an_offset() -> None:
    epochs = LeaderEpochs(HISTORY)
    assert [epochs.epoch_at(offset) for offset in (0, 9, 10, 24, 25, 100)] == [2, 2, 4, 4, 7, 7]
    assert LeaderEpochs([(3, 5)]).epoch_at(4) == -1


def test_check_leader_epoch__fences_the_old_and_does_not_know_the_new() -> None:
    answers = [check_leader_epoch(epoch, 5) for epoch in (-1, 4, 5, 6)]
    assert answers == [
        ErrorCode.NONE,
        ErrorCode.FENCED_LEADER_EPOCH,
        ErrorCode.NONE,
        ErrorCode.UNKNOWN_LEADER_EPOCH,
    ]
