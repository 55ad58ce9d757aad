"""Producers of a partition: sequences, duplicates by content, epochs, and what a rollback restores."""

import pytest

from bytemq.broker.log.producer_budget import ProducerBudget
from bytemq.broker.log.producer_state import BEHIND_A_FAILURE_MS, AppendedBatch, Producer, ProducerTable
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.records.batch import parse_header
from tests.unit.log.harness import sequenced

MAX_SEQUENCE = 2**31 - 1


class Table(ProducerTable):
    """A table whose appends are committed at once, at the next offset."""

    def __init__(self, budget: ProducerBudget | None = None) -> None:
        super().__init__(budget or ProducerBudget())
        self.next_offset = 0

    def take(self, payload: bytearray, now_ms: int = 0) -> int:
        """The base offset of the batch: a new one, or that of the batch it repeats."""
        admitted = self.prepare(payload, now_ms)
        if isinstance(admitted, AppendedBatch):
            return admitted.base_offset
        self.commit(admitted)
        return self.next_offset_before

    def prepare(self, payload: bytearray, now_ms: int = 0) -> Producer | AppendedBatch:
        batch = parse_header(memoryview(payload))
        admitted = self.admit(batch, self.next_offset, batch.max_timestamp, now_ms)
        if isinstance(admitted, Producer):
            self.next_offset_before = self.next_offset
            self.next_offset += batch.last_offset_delta + 1
        return admitted

    def refusal(self, payload: bytearray, now_ms: int = 0) -> ErrorCode:
        before = dict(self._current)
        with pytest.raises(KafkaError) as caught:
            self.prepare(payload, now_ms)
        assert self._current == before, "a refused batch must change nothing"
        return caught.value.code


def test_admit__takes_a_new_producer_at_any_sequence() -> None:
    assert Table().take(sequenced(41)) == 0


def test_admit__wants_sequences_in_a_row() -> None:
    table = Table()
    table.take(sequenced(0, 3))
    assert table.refusal(sequenced(4)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert table.take(sequenced(3)) == 3


def test_admit__gives_the_first_offset_to_a_repetition_of_any_of_the_last_five() -> None:
    table = Table()
    offsets = [table.take(sequenced(sequence, 2)) for sequence in range(0, 12, 2)]
    for sequence in range(2, 12, 2):
        assert table.take(sequenced(sequence, 2)) == offsets[sequence // 2]
    assert table.next_offset == 12


def test_admit__refuses_the_sixth_back_and_partial_and_overlapping_repetitions() -> None:
    table = Table()
    for sequence in range(0, 12, 2):
        table.take(sequenced(sequence, 2))
    for payload in (sequenced(0, 2), sequenced(10, 1), sequenced(11, 1), sequenced(9, 2), sequenced(8, 4)):
        assert table.refusal(payload) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_admit__never_takes_other_content_under_a_used_sequence_for_a_duplicate() -> None:
    table = Table()
    table.take(sequenced(0, 1, value=b"one"))
    assert table.refusal(sequenced(0, 1, value=b"two")) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_admit__compares_the_checksum_that_the_client_sent_not_the_stored_one() -> None:
    table = Table()
    batch = parse_header(memoryview(sequenced(0)))
    batch.crc ^= 1  # as if the broker had stamped it
    admitted = table.admit(batch, 0, 5, 0)
    assert isinstance(admitted, Producer)
    assert isinstance(table.prepare(sequenced(0)), AppendedBatch)


def test_admit__lets_sequences_wrap_to_zero() -> None:
    table = Table()
    table.take(sequenced(MAX_SEQUENCE - 1, 2))
    assert table.take(sequenced(0)) == 2
    assert table.take(sequenced(MAX_SEQUENCE - 1, 2)) == 0, "still among the last five"


def test_admit__lets_a_batch_wrap_inside() -> None:
    table = Table()
    table.take(sequenced(MAX_SEQUENCE, 3))  # 2^31 - 1, 0, 1
    assert table.refusal(sequenced(1)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert table.take(sequenced(2)) == 3


def test_admit__refuses_an_old_epoch() -> None:
    table = Table()
    table.take(sequenced(0, epoch=3))
    assert table.refusal(sequenced(1, epoch=2)) is ErrorCode.INVALID_PRODUCER_EPOCH


def test_admit__starts_a_new_epoch_at_sequence_zero_and_forgets_the_old_batches() -> None:
    table = Table()
    table.take(sequenced(0, epoch=3))
    assert table.refusal(sequenced(1, epoch=4)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert table.take(sequenced(0, epoch=4)) == 1
    assert table.refusal(sequenced(0, epoch=3)) is ErrorCode.INVALID_PRODUCER_EPOCH


def test_rollback__puts_back_what_was_committed() -> None:
    table = Table()
    table.take(sequenced(0, epoch=1))
    pending = [table.prepare(sequenced(1, epoch=1)), table.prepare(sequenced(0, epoch=2))]
    newcomer = table.prepare(sequenced(0, producer_id=8))
    table.rollback(entry for entry in (*pending, newcomer) if isinstance(entry, Producer))
    assert table.get(8) is None
    assert table.take(sequenced(1, epoch=1)) > 0, "the old epoch is the last known again"


def test_rollback__of_a_producers_beginning_waits_for_its_retry() -> None:
    """Its next batch may be on the wire behind the one that failed."""
    table = Table()
    first, second = table.prepare(sequenced(3, 2)), table.prepare(sequenced(5))
    table.rollback(entry for entry in (first, second) if isinstance(entry, Producer))
    table.next_offset = 0
    assert table.refusal(sequenced(6)) is ErrorCode.KAFKA_STORAGE_ERROR
    assert table.refusal(sequenced(5)) is ErrorCode.KAFKA_STORAGE_ERROR
    assert table.take(sequenced(3, 2)) == 0
    assert table.refusal(sequenced(6)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert table.take(sequenced(5)) == 2


def test_rollback__what_was_on_the_wire_behind_it_hears_that_it_failed_and_not_of_a_gap() -> None:
    """librdkafka begins another epoch upon a gap, and then sends again what was written and whose answer was lost."""
    table = Table()
    table.take(sequenced(0))
    failed = table.prepare(sequenced(1, 2))
    table.rollback(entry for entry in (failed,) if isinstance(entry, Producer))
    table.next_offset = 1
    assert table.refusal(sequenced(3)) is ErrorCode.KAFKA_STORAGE_ERROR
    assert table.refusal(sequenced(3)) is ErrorCode.KAFKA_STORAGE_ERROR
    assert table.refusal(sequenced(MAX_SEQUENCE)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, "of long ago"
    assert table.refusal(sequenced(3), now_ms=BEHIND_A_FAILURE_MS + 10_000) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert table.take(sequenced(1, 2)) == 1
    assert table.refusal(sequenced(4)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_rollback__of_a_producers_beginning_does_not_bind_its_next_epoch() -> None:
    table = Table()
    first = table.prepare(sequenced(0))
    assert isinstance(first, Producer)
    table.rollback([first])
    assert table.take(sequenced(0, epoch=1)) >= 0


def test_snapshot__holds_committed_appends_only_and_restores_them() -> None:
    table = Table()
    table.take(sequenced(0, 2))
    table.prepare(sequenced(2))
    table.prepare(sequenced(0, producer_id=8))
    restored = Table()
    restored.restore(table.snapshot(), [])
    assert restored.snapshot() == table.snapshot()
    assert restored.get(8) is None
    assert isinstance(restored.prepare(sequenced(0, 2)), AppendedBatch)
    assert isinstance(restored.prepare(sequenced(2)), Producer)


def test_replay__remembers_what_the_log_says() -> None:
    table = Table()
    for offset, payload in enumerate((sequenced(0), sequenced(1), sequenced(0, epoch=1))):
        batch = parse_header(memoryview(payload))
        batch.base_offset = offset
        table.replay(batch, None, 50)
    repeated = table.prepare(sequenced(0, epoch=1))
    assert isinstance(repeated, AppendedBatch) and repeated.base_offset == 2
    assert table.refusal(sequenced(2, epoch=0)) is ErrorCode.INVALID_PRODUCER_EPOCH


def test_expire__forgets_the_silent_but_not_the_pending() -> None:
    budget = ProducerBudget()
    table = Table(budget)
    for producer_id in (1, 2, 3):
        table.take(sequenced(0, producer_id=producer_id), now_ms=100 * producer_id)
    table.prepare(sequenced(1, producer_id=1), now_ms=900)
    assert table.expire(now_ms=1_000, expiration_ms=750) == 1
    assert [producer.producer_id for producer in table.committed()] == [1, 3]
    assert budget.in_use == 2


def test_budget__makes_room_by_forgetting_those_silent_for_longest() -> None:
    budget = ProducerBudget(per_partition=16, per_broker=1_000)
    table = Table(budget)
    for producer_id in range(200):
        table.take(sequenced(0, producer_id=producer_id), now_ms=producer_id)
        assert len(table) <= 16
    assert table.get(199) is not None
    assert (budget.in_use, budget.evicted) == (len(table), 200 - len(table))


def test_budget__bounds_the_broker_but_leaves_every_partition_a_few() -> None:
    budget = ProducerBudget(per_partition=1_000, per_broker=100)
    flooded, other = Table(budget), Table(budget)
    for producer_id in range(300):
        flooded.take(sequenced(0, producer_id=producer_id), now_ms=producer_id)
    assert 80 <= len(flooded) <= 100
    for producer_id in range(ProducerBudget.ALWAYS_ALLOWED):
        other.take(sequenced(0, producer_id=producer_id))
    assert len(other) == ProducerBudget.ALWAYS_ALLOWED


def test_release__gives_the_budget_back_and_keeps_what_a_snapshot_needs() -> None:
    budget = ProducerBudget()
    table = Table(budget)
    table.take(sequenced(0))
    table.release()
    assert budget.in_use == 0
    assert len(table.snapshot()) == 1
