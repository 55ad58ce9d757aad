"""Transcripts of the transaction coordinator, step by step, in virtual time."""

from __future__ import annotations

import pytest

from bytemq.broker.coordinator.transaction.adding import Writer
from bytemq.broker.coordinator.transaction.environment import TransactionSettings
from bytemq.broker.coordinator.transaction.records import TransactionRecord, decode
from bytemq.broker.coordinator.transaction.states import TransactionState
from bytemq.broker.coordinator.transaction.transaction import LAST_CLIENT_EPOCH, Transaction
from bytemq.protocol.error_codes import ErrorCode
from tests.unit.coordinator.transaction.transaction_world import FIRST_PRODUCER_ID, ID, TransactionWorld, code_of, only

Code = ErrorCode
A, B, OFFSETS = ("a", 0), ("b", 1), ("__consumer_offsets", 7)


def test_version_1__commit_then_abort() -> None:
    world = TransactionWorld()
    writer = world.producer()
    assert writer == (ID, FIRST_PRODUCER_ID, 0)
    assert world.seen() == ("Empty", 0, 0)
    world.add(writer, A)
    world.add(writer, B, OFFSETS)
    assert world.seen() == ("Ongoing", 0, 0)
    assert code_of(lambda: world.end(writer)) is Code.NONE
    assert world.seen() == ("PrepareCommit", 0, 0)
    sent = only(world.write_markers())
    assert sent.committed
    assert sent.partitions == {A, B, OFFSETS}
    assert sent[1:3] == (FIRST_PRODUCER_ID, 0)
    assert world.seen() == ("CompleteCommit", 0, 0)
    assert world.state.partitions == frozenset()
    world.add(writer, A)
    world.end(writer, commit=False)
    assert not only(world.write_markers()).committed
    assert world.seen() == ("CompleteAbort", 0, 0)


@pytest.mark.parametrize("commit", [True, False])
def test_version_1__a_repeated_end_is_told_by_the_state(commit: bool) -> None:
    world = TransactionWorld()
    writer = world.producer()
    assert code_of(lambda: world.end(writer, commit=commit)) is Code.INVALID_TXN_STATE  # nothing was begun
    world.add(writer, A)
    world.end(writer, commit=commit)
    assert code_of(lambda: world.end(writer, commit=commit)) is Code.CONCURRENT_TRANSACTIONS
    assert code_of(lambda: world.end(writer, commit=not commit)) is Code.INVALID_TXN_STATE
    world.write_markers()
    written = len(world.log)
    assert code_of(lambda: world.end(writer, commit=commit)) is Code.NONE
    assert code_of(lambda: world.end(writer, commit=not commit)) is Code.INVALID_TXN_STATE
    assert len(world.log) == written


def test_version_2__the_epoch_is_bumped_with_every_end() -> None:
    world = TransactionWorld()
    writer = world.producer()
    for epoch in range(3):
        world.add(writer, A, version=2)
        answer = world.end(writer, version=2)
        assert (answer.producer_id, answer.producer_epoch) == (FIRST_PRODUCER_ID, epoch + 1)
        sent = only(world.write_markers())
        assert (sent.producer_epoch, sent.transaction_version) == (epoch + 1, 2)
        assert world.seen() == ("CompleteCommit", 0, epoch + 1)
        writer = world.after(writer, answer)


@pytest.mark.parametrize(
    ("first", "again", "epoch", "code", "state"),
    [
        (True, True, 0, Code.NONE, "CompleteCommit"),
        (True, False, 0, Code.INVALID_TXN_STATE, "CompleteCommit"),
        (True, True, 1, Code.INVALID_TXN_STATE, "CompleteCommit"),
        (True, False, 1, Code.NONE, "CompleteAbort"),
        (False, False, 0, Code.NONE, "CompleteAbort"),
        (False, True, 0, Code.INVALID_TXN_STATE, "CompleteAbort"),
        (False, True, 1, Code.INVALID_TXN_STATE, "CompleteAbort"),
        (False, False, 1, Code.NONE, "CompleteAbort"),
        (True, True, 2, Code.PRODUCER_FENCED, "CompleteCommit"),
    ],
)
def test_version_2__a_repeated_end_is_told_by_the_epoch(
    first: bool, again: bool, epoch: int, code: ErrorCode, state: str
) -> None:
    """Kafka's table: epoch 0 repeats the first request, epoch 1 is the next transaction's."""
    world = TransactionWorld()
    writer = world.producer()
    world.add(writer, A, version=2)
    world.end(writer, commit=first, version=2)
    world.write_markers()
    later = writer._replace(producer_epoch=epoch)
    assert code_of(lambda: world.end(later, commit=again, version=2)) is code
    assert world.state.state.label == state
    bumped = code is Code.NONE and epoch == 1
    assert world.state.producer_epoch == (2 if bumped else 1)


def test_version_2__nothing_can_be_aborted_and_not_committed() -> None:
    world = TransactionWorld()
    writer = world.producer()
    assert code_of(lambda: world.end(writer, version=2)) is Code.INVALID_TXN_STATE
    answer = world.end(writer, commit=False, version=2)
    assert world.seen() == ("CompleteAbort", 0, 1)  # complete at once: no partition needs a marker
    assert not world.markers
    assert code_of(lambda: world.end(writer._replace(producer_epoch=5), version=2)) is Code.PRODUCER_FENCED
    assert world.after(writer, answer).producer_epoch == 1


def test_version_2__while_markers_are_on_their_way() -> None:
    world = TransactionWorld()
    writer = world.producer()
    world.add(writer, A, version=2)
    world.end(writer, version=2)
    assert code_of(lambda: world.end(writer, version=2)) is Code.CONCURRENT_TRANSACTIONS
    assert code_of(lambda: world.end(writer, commit=False, version=2)) is Code.INVALID_TXN_STATE
    following = writer._replace(producer_epoch=1)
    assert code_of(lambda: world.end(following, version=2)) is Code.CONCURRENT_TRANSACTIONS
    assert code_of(lambda: world.end(following, commit=False, version=2)) is Code.CONCURRENT_TRANSACTIONS
    assert code_of(lambda: world.add(following, A, version=2)) is Code.CONCURRENT_TRANSACTIONS
    assert code_of(lambda: world.init()) is Code.CONCURRENT_TRANSACTIONS
    beyond = writer._replace(producer_epoch=2)
    assert code_of(lambda: world.end(beyond, version=2)) is Code.PRODUCER_FENCED
    world.write_markers()
    assert world.end(following, commit=False, version=2).producer_epoch == 2


def test_version_2__an_id_whose_epochs_are_used_up_is_replaced() -> None:
    world = TransactionWorld()
    writer = exhausted(world)
    world.add(writer, A, version=2)
    answer = world.end(writer, version=2)
    assert (answer.producer_id, answer.producer_epoch) == (FIRST_PRODUCER_ID + 1, 0)
    assert only(world.write_markers())[1:3] == (FIRST_PRODUCER_ID, LAST_CLIENT_EPOCH + 1)
    assert world.seen() == ("CompleteCommit", 1, 0)
    repeated = world.end(writer, version=2)
    assert (repeated.error_code, repeated.producer_id, repeated.producer_epoch) == (0, FIRST_PRODUCER_ID + 1, 0)


def test_version_2__whoever_goes_on_with_a_new_id_before_the_markers_are_written__is_told_to_wait() -> None:
    """The new id was told with the decision. INVALID_PRODUCER_ID_MAPPING would be the end of the client."""
    world = TransactionWorld()
    writer = exhausted(world)
    world.add(writer, A, version=2)
    following = world.after(writer, world.end(writer, version=2))
    assert code_of(lambda: world.add(following, A, version=2)) is Code.CONCURRENT_TRANSACTIONS
    assert code_of(lambda: world.end(following, version=2)) is Code.CONCURRENT_TRANSACTIONS
    assert code_of(lambda: world.init(*following[1:])) is Code.CONCURRENT_TRANSACTIONS
    world.write_markers()
    world.add(following, A, version=2)
    assert world.seen() == ("Ongoing", 1, 0)


def test_version_2__nobody_is_told_the_epoch_that_only_fences() -> None:
    """A transaction with it would have markers of its own epoch, which no partition takes, and would never end."""
    world = TransactionWorld()
    writer = exhausted(world)
    world.add(writer, A, version=2)
    world.advance(60_002)  # aborted by the broker
    world.write_markers()
    assert world.seen() == ("CompleteAbort", 0, LAST_CLIENT_EPOCH + 1)
    assert code_of(lambda: world.end(writer, commit=False, version=2)) is Code.PRODUCER_FENCED
    assert world.init(writer.producer_id, writer.producer_epoch).producer_id == FIRST_PRODUCER_ID + 1


def test_add__of_nobody_is_not_of_whoever_comes_next() -> None:
    """No producer id is nobody's next one, either: CONCURRENT_TRANSACTIONS would be asked again for ever."""
    world = TransactionWorld()
    writer = world.producer()
    nobody = writer._replace(producer_id=-1)
    assert code_of(lambda: world.add(nobody, A, version=2)) is Code.INVALID_PRODUCER_ID_MAPPING


def exhausted(world: TransactionWorld) -> Writer:
    """A producer with the last epoch that a client can have."""
    world.producer()
    last = world.state._replace(producer_epoch=LAST_CLIENT_EPOCH)
    record = TransactionRecord(ID, last)
    world.log.append((record.encode_key(), record.encode_value()))
    world.restart()
    return Writer(ID, last.producer_id, LAST_CLIENT_EPOCH)


@pytest.mark.parametrize("version", [0, 2])
def test_wrong_producers__hear_who_they_are_not(version: int) -> None:
    world = TransactionWorld()
    writer = world.producer()
    stranger = writer._replace(producer_id=77)
    stale = writer._replace(producer_epoch=5)
    unknown = writer._replace(transactional_id="other")
    nameless = writer._replace(transactional_id="")
    assert code_of(lambda: world.add(stranger, A)) is Code.INVALID_PRODUCER_ID_MAPPING
    assert code_of(lambda: world.end(stranger, version=version)) is Code.INVALID_PRODUCER_ID_MAPPING
    assert code_of(lambda: world.add(stale, A)) is Code.PRODUCER_FENCED
    assert code_of(lambda: world.end(stale, version=version)) is Code.PRODUCER_FENCED
    assert code_of(lambda: world.add(unknown, A)) is Code.INVALID_PRODUCER_ID_MAPPING
    assert code_of(lambda: world.end(nameless, version=version)) is Code.INVALID_REQUEST


def test_init__a_second_producer_fences_the_first() -> None:
    world = TransactionWorld()
    first = world.producer()
    world.add(first, A)
    assert code_of(world.init) is Code.CONCURRENT_TRANSACTIONS  # aborts what is open
    assert world.seen() == ("PrepareAbort", 0, 1)  # the end bumps, and so fences
    assert code_of(lambda: world.end(first)) is Code.PRODUCER_FENCED
    assert code_of(world.init) is Code.CONCURRENT_TRANSACTIONS
    sent = only(world.write_markers())
    assert (sent.committed, sent.producer_epoch) == (False, 1)
    second = world.producer()
    assert second.producer_epoch == 2
    assert code_of(lambda: world.add(first, A)) is Code.PRODUCER_FENCED


def test_init__a_producer_that_knows_its_epoch_goes_on_and_may_ask_twice() -> None:
    world = TransactionWorld()
    writer = world.producer()
    bumped = world.init(writer.producer_id, writer.producer_epoch)
    assert (bumped.producer_id, bumped.producer_epoch) == (writer.producer_id, 1)
    repeated = world.init(writer.producer_id, writer.producer_epoch)
    assert (repeated.producer_id, repeated.producer_epoch) == (writer.producer_id, 1)
    world.init()  # another instance
    assert code_of(lambda: world.init(writer.producer_id, 1)) is Code.PRODUCER_FENCED
    assert code_of(lambda: world.init(77, 0)) is Code.PRODUCER_FENCED


def test_init__after_an_abort_by_the_broker_its_producer_goes_on_with_the_epoch_of_that() -> None:
    world = TransactionWorld()
    writer = world.producer(timeout_ms=5_000)
    world.add(writer, A, version=2)
    world.advance(5_002)
    world.write_markers()
    answer = world.init(writer.producer_id, writer.producer_epoch)
    assert (answer.error_code, answer.producer_epoch) == (0, 1)


def test_init__nobody_gets_the_epoch_that_only_fences() -> None:
    world = TransactionWorld()
    writer = exhausted(world)
    world.add(writer, A)
    assert code_of(world.init) is Code.CONCURRENT_TRANSACTIONS
    world.write_markers()
    assert world.state.producer_epoch == LAST_CLIENT_EPOCH + 1
    answer = world.init(writer.producer_id, writer.producer_epoch)
    assert (answer.producer_id, answer.producer_epoch) == (FIRST_PRODUCER_ID + 1, 0)


def test_init__an_id_whose_epochs_are_used_up_is_replaced() -> None:
    world = TransactionWorld()
    writer = exhausted(world)
    renewed = world.init(writer.producer_id, writer.producer_epoch)
    assert (renewed.producer_id, renewed.producer_epoch) == (FIRST_PRODUCER_ID + 1, 0)
    repeated = world.init(writer.producer_id, writer.producer_epoch)
    assert (repeated.producer_id, repeated.producer_epoch) == (FIRST_PRODUCER_ID + 1, 0)


def test_a_step_on_its_way__lets_no_other_begin() -> None:
    world = TransactionWorld()
    writer = world.producer()
    world.hold = True
    world.add(writer, A)
    for action in (lambda: world.add(writer, B), lambda: world.end(writer), world.init):
        assert code_of(action) is Code.CONCURRENT_TRANSACTIONS
    verified = world.shard.adding.verify(writer, [A])
    assert verified == {A: Code.TRANSACTION_ABORTABLE}  # not there before it is durable
    world.release()
    assert world.shard.adding.verify(writer, [A, B]) == {A: Code.NONE, B: Code.TRANSACTION_ABORTABLE}


def test_a_step_that_fails__is_taken_back() -> None:
    world = TransactionWorld()
    writer = world.producer()
    world.add(writer, A)
    world.hold = True
    world.end(writer)
    world.fail()
    assert world.seen() == ("Ongoing", 0, 0)
    assert not world.markers
    world.hold = False
    world.end(writer, commit=False)
    assert not only(world.write_markers()).committed


def test_init__that_fails_leaves_no_trace() -> None:
    world = TransactionWorld()
    world.hold = True
    world.init()
    assert code_of(world.init) is Code.CONCURRENT_TRANSACTIONS
    world.fail()
    assert world.shard.environment.entries == {}


def test_completion__is_tried_again_until_it_is_durable() -> None:
    world = TransactionWorld()
    writer = world.producer()
    world.add(writer, A)
    world.end(writer)
    world.hold = True
    world.write_markers()
    world.fail()
    assert world.seen() == ("PrepareCommit", 0, 0)
    world.hold = False
    world.advance(1_001)
    assert world.seen() == ("CompleteCommit", 0, 0)


def test_time_out__aborts_under_the_next_epoch() -> None:
    world = TransactionWorld()
    writer = world.producer(timeout_ms=5_000)
    world.add(writer, A)
    world.advance(3_000)
    world.add(writer, B)  # does not prolong it
    world.advance(2_000)
    assert world.seen() == ("Ongoing", 0, 0)
    world.advance(2)
    assert world.seen() == ("PrepareAbort", 0, 1)
    assert only(world.write_markers()).partitions == {A, B}
    assert code_of(lambda: world.end(writer)) is Code.PRODUCER_FENCED
    world.advance(60_000)
    assert world.seen() == ("CompleteAbort", 0, 1)


def test_time_out__of_the_transaction_before_does_not_touch_the_next() -> None:
    world = TransactionWorld()
    writer = world.producer(timeout_ms=5_000)
    world.add(writer, A)
    world.advance(4_000)
    world.end(writer)
    world.write_markers()
    world.add(writer, A)
    world.advance(4_000)
    assert world.seen() == ("Ongoing", 0, 0)


def test_time_out__whose_abort_fails_is_tried_again() -> None:
    world = TransactionWorld()
    world.add(world.producer(timeout_ms=5_000), A)
    world.hold = True
    world.advance(5_500)
    world.fail()
    world.hold = False
    assert world.seen() == ("Ongoing", 0, 0)
    world.advance(1_000)
    assert world.seen() == ("PrepareAbort", 0, 1)


def test_restart__carries_on_what_was_decided() -> None:
    world = TransactionWorld()
    writer = world.producer()
    world.add(writer, A, B)
    world.end(writer)
    lost = only(world.markers)
    world.submit(world.shard.ending.marker_written(lost, A))
    world.restart()
    sent = only(world.write_markers())
    assert (sent.partitions, sent.coordinator_epoch) == ({A, B}, 1)
    assert world.seen() == ("CompleteCommit", 0, 0)
    world.restart()
    assert not world.markers


def test_restart__watches_what_is_open_with_the_time_that_is_left() -> None:
    world = TransactionWorld()
    world.add(world.producer(timeout_ms=5_000), A)
    world.advance(4_000)
    world.restart()
    assert world.seen() == ("Ongoing", 0, 0)
    world.advance(1_002)
    assert world.seen() == ("PrepareAbort", 0, 1)


def test_marker__of_an_earlier_decision_completes_nothing() -> None:
    world = TransactionWorld()
    writer = world.producer()
    world.add(writer, A, version=2)
    answer = world.end(writer, version=2)
    late = only(world.write_markers())
    following = world.after(writer, answer)
    world.add(following, A, version=2)
    world.end(following, version=2)
    world.submit(world.shard.ending.marker_written(late, A))
    assert world.seen() == ("PrepareCommit", 0, 2)


def test_expiry__forgets_ids_at_rest_and_leaves_tombstones() -> None:
    world = TransactionWorld(TransactionSettings(id_expiration_ms=10_000, remove_expired_interval_ms=1_000))
    writer = world.producer()
    world.advance(9_000)
    world.add(writer, A)
    world.advance(40_000)  # open: does not expire
    assert world.seen() == ("Ongoing", 0, 0)
    world.end(writer)
    world.write_markers()
    world.advance(9_000)
    assert world.seen() == ("CompleteCommit", 0, 0)
    world.advance(3_000)
    assert world.shard.environment.entries == {}
    assert world.log[-1][1] is None
    world.restart()
    assert code_of(lambda: world.add(writer, A)) is Code.INVALID_PRODUCER_ID_MAPPING


def counted(world: TransactionWorld) -> tuple[dict[str, int], int]:
    """Ids by state, and markers that are not written."""
    environment = world.shard.environment
    return {
        state.label: count for state, count in environment.state_counts.items() if count
    }, environment.unmarked_count


def test_figures__follow_every_step_a_restart_and_expiry() -> None:
    world = TransactionWorld(TransactionSettings(id_expiration_ms=10_000, remove_expired_interval_ms=1_000))
    writer = world.producer()
    assert counted(world) == ({"Empty": 1}, 0)
    world.add(writer, A, B)
    assert counted(world) == ({"Ongoing": 1}, 0)
    world.end(writer)
    assert counted(world) == ({"PrepareCommit": 1}, 2)
    world.restart()
    assert counted(world) == ({"PrepareCommit": 1}, 2)
    (ended,) = world.markers
    for _ in range(2):  # told twice, counted once
        world.submit(world.shard.ending.marker_written(ended, A))
        assert counted(world) == ({"PrepareCommit": 1}, 1)
    world.submit(world.shard.ending.marker_written(ended, B))
    assert counted(world) == ({"CompleteCommit": 1}, 0)
    world.hold = True
    world.advance(12_000)
    assert counted(world) == ({}, 0)
    world.fail()
    assert counted(world) == ({"CompleteCommit": 1}, 0)


def test_figures__count_time_outs_when_they_are_durable() -> None:
    timed_out: list[int] = []
    world = TransactionWorld()
    world.shard.environment.on_timeout = lambda: timed_out.append(world.now_ms)
    writer = world.producer(timeout_ms=1_000)
    world.add(writer, A)
    world.hold = True
    world.advance(1_500)
    world.fail()
    assert not timed_out
    world.hold = False
    world.advance(5_000)
    assert len(timed_out) == 1
    assert world.state.state.label == "PrepareAbort"


def test_records__come_back_as_they_were_written() -> None:
    full = Transaction(
        7, 3, 60_000, TransactionState.PREPARE_COMMIT, frozenset({A, B, ("b", 0)}), 11, 12, 6, 9, client_version=2
    )
    for state in TransactionState:
        transaction = full._replace(state=state)
        if state is TransactionState.EMPTY:
            transaction = transaction._replace(partitions=frozenset())
        if state in (TransactionState.DEAD, TransactionState.PREPARE_EPOCH_FENCE):
            continue
        record = TransactionRecord(ID, transaction)
        assert decode(record.encode_key(), record.encode_value()) == record
    tombstone = TransactionRecord(ID, None)
    assert decode(tombstone.encode_key(), None) == tombstone


def test_replay__leaves_damaged_records_out() -> None:
    world = TransactionWorld()
    world.producer()
    key = world.log[0][0]
    world.log += [(b"", b""), (key, b"\x00\x63"), (key[:-1], b"\x00"), (b"\x00\x09xx", b"?")]
    world.restart()
    assert world.seen() == ("Empty", 0, 0)
    assert world.shard.damaged_records == 3
