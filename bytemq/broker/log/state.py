"""The state machine of one partition's log: which offset comes next, what is committed, what readers may see. Pure.

The contract with the shell, which owns time, bytes and storage:

    prepare   gives a batch its offsets and applies its producer's sequences       -> PendingAppend or Duplicate
              (prepare_row: several at once, where nothing is to be said of any)   -> PendingAppend or None
    take_back the newest one was not handed to storage after all
    commit    the oldest pending append is durable: the high watermark moves       (storage reports in append order)
    rollback  the oldest pending append failed, and with it everything after it

Prepared appends are invisible: the high watermark, the last stable offset and snapshots know committed ones alone. A
rollback puts the next offset and every producer back to the committed state *before* anyone is told, so that whoever
is told may append again at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from bytemq.broker.log.producer_budget import ProducerBudget
from bytemq.broker.log.producer_state import RETAINED_BATCHES, AppendedBatch, Producer, ProducerTable
from bytemq.broker.log.transactions import Transactions
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.records.batch import RecordBatch
from bytemq.protocol.records.control import EndTransactionMarker, marker_of

Answer = TypeVar("Answer")

NO_APPEND_TIME: Final = -1


class Group(Protocol):
    """Appends that are answered together, when none is missing any more."""

    missing: int

    def complete(self) -> None:
        """None is missing: to be called by whoever has counted the last one."""

    def failed(self, append: PendingAppend[Any], error: ErrorCode, log_start_offset: int) -> None:
        """One of them came to nothing; counts it."""


class PendingAppend(Generic[Answer]):
    """One append on its way to storage. `answer` and `group` are the shell's and never called here."""

    __slots__ = (
        "answer",
        "base_offset",
        "duplicates",
        "group",
        "log_append_time_ms",
        "marker",
        "next_offset",
        "producer",
    )

    def __init__(self, base_offset: int, next_offset: int, log_append_time_ms: int) -> None:
        self.base_offset = base_offset
        self.next_offset = next_offset
        self.log_append_time_ms = log_append_time_ms
        self.producer: Producer | None = None
        self.marker: EndTransactionMarker | None = None
        self.answer: Answer | None = None
        self.group: Group | None = None
        """Those that it is answered together with, in place of an answer of its own."""
        self.duplicates: list[tuple[AppendedBatch, Answer]] | None = None
        """Retries that came while this, the original, was in flight; they share its fate."""


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
                    return Duplicate(admitted, self._pending_with(admitted.base_offset))
                append.producer = admitted  # type: ignore[assignment]
        self.end_offset = append.next_offset
        self._pending[base_offset] = append
        return append

    def prepare_row(
        self, batches: Sequence[RecordBatch], offset_count: int, now_ms: int
    ) -> PendingAppend[Answer] | None:
        """As `prepare` of each of them, with so many offsets in all, as one append. They are of clients, with their own
        timestamps, and all of one producer and epoch, or of none.

        None, and nothing has changed, where `prepare` would refuse one of them, or has to look at each.
        """
        base_offset = self.end_offset
        append: PendingAppend[Answer] = PendingAppend(base_offset, base_offset + offset_count, NO_APPEND_TIME)
        if batches[0].producer_id >= 0:
            if len(batches) > RETAINED_BATCHES:  # what the first one began with would be forgotten, should they fail
                return None
            append.producer = self._admitted(batches, now_ms)
            if append.producer is None:
                return None
        self.end_offset = append.next_offset
        self._pending[base_offset] = append
        return append

    def _admitted(self, batches: Sequence[RecordBatch], now_ms: int) -> Producer | None:
        """The producer behind all of them, from the end of the log on."""
        offset = self.end_offset
        producer: Producer | None = None
        for batch in batches:
            admitted: Producer | AppendedBatch | None = None
            with suppress(KafkaError):
                admitted = self.producers.admit(batch, offset, batch.max_timestamp, now_ms)
            if not isinstance(admitted, Producer):
                if producer is not None:
                    self._take_back(producer)
                return None
            producer = admitted
            offset += batch.last_offset_delta + 1
        return producer

    def _pending_with(self, offset: int) -> PendingAppend[Answer] | None:
        """The append on its way that has the offset; None where that is committed."""
        found = self._pending.get(offset)
        if found is None and offset >= self.high_watermark:
            found = next((one for one in self._pending.values() if one.base_offset <= offset < one.next_offset), None)
        return found

    def _take_back(self, producer: Producer) -> None:
        """The newest entry of a producer: as what is still on its way has it, or what is committed."""
        before = (one.producer for one in reversed(self._pending.values()))
        self.producers.take_back(producer, before)

    def take_back(self, append: PendingAppend[Answer]) -> None:
        """`append`, the newest, comes to nothing: it was not handed to storage."""
        assert append.next_offset == self.end_offset, "only what was prepared last can be taken back alone"
        del self._pending[append.base_offset]
        self.end_offset = append.base_offset
        if append.producer is not None:
            self._take_back(append.producer)

    def commit(self, append: PendingAppend[Answer]) -> None:
        """`append`, the oldest pending one, is durable."""
        assert append.base_offset == self.high_watermark, "storage reported appends out of order"
        del self._pending[append.base_offset]
        if append.producer is not None:
            self.producers.commit(append.producer, append.marker, append.base_offset)
        self.high_watermark = append.next_offset

    def rollback(self) -> None:
        """The oldest pending append failed: all are taken back."""
        failed, self._pending = self._pending, {}
        self.end_offset = self.high_watermark
        self.producers.rollback(append.producer for append in failed.values() if append.producer is not None)

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
