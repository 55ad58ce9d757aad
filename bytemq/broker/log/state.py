"""The state machine of one partition's log: which offset comes next, what is committed, what readers may see. Pure.

The contract with the shell, which owns time, bytes and storage:

    prepare   gives a batch its offsets and applies its producer's sequences       -> PendingAppend or Duplicate
    commit    the oldest pending append is durable: the high watermark moves       (storage reports in append order)
    rollback  the oldest pending append failed, and with it everything after it    -> what to answer, in order

Prepared appends are invisible: the high watermark, the last stable offset and snapshots know committed ones alone. A
rollback puts the next offset and every producer back to the committed state *before* anyone is told, so that whoever
is told may append again at once.
"""

from __future__ import annotations

from typing import Final, Generic, NamedTuple, TypeVar

from bytemq.broker.log.producer_budget import ProducerBudget
from bytemq.broker.log.producer_state import AppendedBatch, Producer, ProducerTable
from bytemq.broker.log.transactions import Transactions
from bytemq.protocol.records.batch import RecordBatch
from bytemq.protocol.records.control import EndTransactionMarker, marker_of

Answer = TypeVar("Answer")

NO_APPEND_TIME: Final = -1


class PendingAppend(Generic[Answer]):
    """One append on its way to storage. `answer` is the shell's and never called here."""

    __slots__ = (
        "answer",
        "base_offset",
        "duplicates",
        "log_append_time_ms",
        "marker",
        "next_offset",
        "pending",
        "producer",
    )

    def __init__(self, base_offset: int, next_offset: int, log_append_time_ms: int) -> None:
        self.base_offset = base_offset
        self.next_offset = next_offset
        self.log_append_time_ms = log_append_time_ms
        self.producer: Producer | None = None
        self.marker: EndTransactionMarker | None = None
        self.answer: Answer | None = None
        self.duplicates: list[tuple[AppendedBatch, Answer]] | None = None
        """Retries that came while this, the original, was in flight; they share its fate."""
        self.pending = True


class Duplicate(NamedTuple, Generic[Answer]):
    """The batch was appended before. `original` is still pending, or None when it is committed."""

    appended: AppendedBatch
    original: PendingAppend[Answer] | None


class LogState(Generic[Answer]):
    """Offsets and producers of one log. Invariant: log start <= last stable <= high watermark <= end offset."""

    __slots__ = (
        "_pending",
        "end_offset",
        "high_watermark",
        "log_start_offset",
        "producers",
    )

    def __init__(self, log_start_offset: int, end_offset: int, budget: ProducerBudget) -> None:
        self.log_start_offset = log_start_offset
        self.high_watermark = end_offset
        """Everything below is durable and may be served."""
        self.end_offset = end_offset
        """The next offset to assign: the high watermark plus what is pending."""
        self.producers = ProducerTable(budget)
        self._pending: dict[int, PendingAppend[Answer]] = {}  # by base offset, in order

    @property
    def last_stable_offset(self) -> int:
        """What read_committed may see: below the first offset of the oldest open transaction, or of what DeleteRecords
        left of it.
        """
        first_open = self.producers.transactions.first_open_offset()
        return self.high_watermark if first_open is None else max(first_open, self.log_start_offset)

    @property
    def transactions(self) -> Transactions:
        return self.producers.transactions

    @property
    def pending_count(self) -> int:
        return len(self._pending)

    def prepare(
        self,
        batch: RecordBatch,
        now_ms: int,
        *,
        log_append_time_ms: int = NO_APPEND_TIME,
        marker: EndTransactionMarker | None = None,
        sequenced: bool = True,
        is_bumped: bool = False,
    ) -> PendingAppend[Answer] | Duplicate[Answer]:
        """Give `batch` the next offsets. Nothing has changed when this raises KafkaError (45, 47, 48, 52) or finds a
        duplicate.

        `log_append_time_ms` is what the batch will be stamped with, -1 if the client's timestamps stay.
        `sequenced=False`: a coordinator's batch, whose producer writes without sequences. `is_bumped`: see
        `admit_marker`.
        """
        base_offset = self.end_offset
        append: PendingAppend[Answer] = PendingAppend(
            base_offset, base_offset + batch.last_offset_delta + 1, log_append_time_ms
        )
        if batch.producer_id >= 0:
            if marker is not None:
                append.marker = marker
                append.producer = self.producers.admit_marker(batch, marker, now_ms, is_bumped=is_bumped)
            else:
                timestamp_ms = batch.max_timestamp if log_append_time_ms < 0 else log_append_time_ms
                admitted = self.producers.admit(batch, base_offset, timestamp_ms, now_ms, sequenced=sequenced)
                if type(admitted) is AppendedBatch:
                    return Duplicate(admitted, self._pending.get(admitted.base_offset))
                append.producer = admitted  # type: ignore[assignment]
        self.end_offset = append.next_offset
        self._pending[base_offset] = append
        return append

    def commit(self, append: PendingAppend[Answer]) -> None:
        """`append`, the oldest pending one, is durable."""
        assert append.base_offset == self.high_watermark, "storage reported appends out of order"
        del self._pending[append.base_offset]
        append.pending = False
        if append.producer is not None:
            self.producers.commit(append.producer, append.marker, append.base_offset)
        self.high_watermark = append.next_offset

    def rollback(self) -> list[PendingAppend[Answer]]:
        """The oldest pending append failed: all are taken back. Returns them in order, to be answered."""
        failed = list(self._pending.values())
        self._pending.clear()
        self.end_offset = self.high_watermark
        self.producers.rollback(append.producer for append in failed if append.producer is not None)
        for append in failed:
            append.pending = False
        return failed

    def in_flight(self) -> list[PendingAppend[Answer]]:
        """The pending appends, in order."""
        return list(self._pending.values())

    def advance_log_start(self, offset: int) -> bool:
        """Records below `offset` are gone, durably. Never goes back, never beyond the high watermark; whether it
        moved.
        """
        assert offset <= self.high_watermark, "the log start offset must not pass the high watermark"
        if offset <= self.log_start_offset:
            return False
        self.log_start_offset = offset
        self.producers.transactions.forget_below(offset)
        return True

    def replay(self, batch: RecordBatch, now_ms: int) -> None:
        """Remember the producer of a batch that recovery found in the log after the snapshot."""
        if batch.producer_id >= 0:
            marker = marker_of(batch.sent_crc) if batch.is_control else None
            self.producers.replay(batch, marker, now_ms)
