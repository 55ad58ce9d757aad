"""Several batches of a partition as one append on the short way: all or none, and each retry finds what it repeats."""

from __future__ import annotations

from typing import Any

import pytest

from bytemq.broker.log.producer_budget import ProducerBudget
from bytemq.broker.log.producer_state import RETAINED_BATCHES
from bytemq.broker.log.state import Duplicate, LogState, PendingAppend
from bytemq.protocol.records.batch import RecordBatch, produced_batch
from tests.unit.log.harness import NOW_MS, batch, sequenced


def parsed(*payloads: bytearray) -> list[RecordBatch]:
    return [produced_batch(memoryview(payload)) for payload in payloads]


def prepared(state: LogState[Any], row: list[RecordBatch]) -> PendingAppend[Any] | None:
    return state.prepare_row(row, sum(one.last_offset_delta + 1 for one in row), NOW_MS)


def test_row__has_the_offsets_of_all_its_batches_and_is_committed_at_once() -> None:
    state: LogState[Any] = LogState(0, 10, ProducerBudget())
    append = prepared(state, parsed(batch(2), batch(3)))
    assert append is not None
    assert (append.base_offset, append.next_offset, state.end_offset, state.high_watermark) == (10, 15, 15, 10)
    state.commit(append)
    assert (state.high_watermark, state.pending_count) == (15, 0)


def test_row__a_retry_of_a_batch_in_its_middle_waits_for_it_as_long_as_it_is_on_its_way() -> None:
    state: LogState[Any] = LogState(0, 0, ProducerBudget())
    append = prepared(state, parsed(sequenced(0, 2), sequenced(2), sequenced(3, 2)))
    assert append is not None
    for sequence, count, base_offset in ((0, 2, 0), (2, 1, 2), (3, 2, 3)):
        again = state.prepare(parsed(sequenced(sequence, count))[0], NOW_MS)
        assert isinstance(again, Duplicate)
        assert again.original is append and again.appended.base_offset == base_offset
    state.commit(append)
    again = state.prepare(parsed(sequenced(2))[0], NOW_MS)
    assert isinstance(again, Duplicate) and again.original is None


@pytest.mark.parametrize("wrong", [sequenced(3), sequenced(0), sequenced(1, epoch=-1)])
def test_row__one_batch_that_is_refused_or_repeated_leaves_nothing_of_the_others(wrong: bytearray) -> None:
    state: LogState[Any] = LogState(0, 0, ProducerBudget())
    first = prepared(state, parsed(sequenced(0)))
    known = state.producers.get(7)
    assert first is not None
    assert prepared(state, parsed(sequenced(1), wrong)) is None
    assert state.producers.get(7) is known
    assert (state.end_offset, state.pending_count) == (1, 1)
    unknown: LogState[Any] = LogState(0, 0, ProducerBudget())
    assert prepared(unknown, parsed(sequenced(0), sequenced(5))) is None
    assert unknown.producers.get(7) is None
    state.commit(first)
    assert prepared(state, parsed(sequenced(1), sequenced(2))) is not None


def test_row__that_failed_must_come_again_from_its_first_batch_on() -> None:
    state: LogState[Any] = LogState(0, 0, ProducerBudget())
    row = [sequenced(sequence) for sequence in range(RETAINED_BATCHES)]
    assert prepared(state, parsed(*row)) is not None
    state.rollback()
    assert state.producers.get(7) is None and state.end_offset == 0
    assert prepared(state, parsed(*row[1:])) is None
    assert prepared(state, parsed(*row)) is not None


def test_row__of_a_producer_is_no_longer_than_what_is_remembered_of_it() -> None:
    state: LogState[Any] = LogState(0, 0, ProducerBudget())
    assert prepared(state, parsed(*[sequenced(sequence) for sequence in range(RETAINED_BATCHES + 1)])) is None
    assert state.producers.get(7) is None
    assert prepared(state, parsed(*[batch() for _ in range(RETAINED_BATCHES + 1)])) is not None
