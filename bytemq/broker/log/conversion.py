"""Batches that must be opened before they are appended: keys, age of every record, another compression type.

Owns: what is looked for and how a batch is written anew, and giving the results back in the order of arrival. One
batch of a partition is opened at a time, so that what waits for its turn takes no memory but that of its request. Must
not: assign offsets or know of producers; a converted batch still carries the checksum that its client sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from bytemq.broker.log.append_rules import AppendRules
from bytemq.broker.log.batch_opener import BatchOpener, Outcome, outcome_of
from bytemq.broker.log.results import AppendResult, Origin
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.records.batch import (
    ATTRIBUTES_POSITION,
    CODEC_MASK,
    HEADER_BYTES,
    InvalidBatch,
    RecordBatch,
    parse_header,
    set_max_timestamp,
)
from bytemq.protocol.records.builder import assemble
from bytemq.protocol.records.compression import Bytes, compress, decompress
from bytemq.protocol.records.walk import records_at_fault, walk_records
from bytemq.runtime.logging import get_logger

log = get_logger("broker.log.conversion")

_WORTH_A_TRIP_BYTES: Final = 4 * 1024
"""Smaller uncompressed batches are opened in place: handing them over costs more."""

_COPIES_TO_CHECK: Final = 2
"""Of the records, at most: decompressed, and as objects where it must be said which are at fault."""
_COPIES_TO_CONVERT: Final = 3
"""Decompressed, compressed, and put together as a batch."""

_MOST_RECORD_ERRORS: Final = 1_000
_RECORD_ERRORS_SHOWN: Final = 3


class Conversion:
    """One append that waits for its turn; `rules` is None if only its turn, and nothing else, is waited for."""

    __slots__ = ("_arrived_ms", "_outcome", "_place", "batch", "done", "origin", "rules")

    def __init__(
        self,
        batch: RecordBatch,
        rules: AppendRules | None,
        done: Callable[[AppendResult], None],
        origin: Origin,
        arrived_ms: int,
        place: str,
    ) -> None:
        """`place`: topic and partition, for people to read."""
        self.batch = batch
        self.rules = rules
        self.done = done
        self.origin = origin
        self._arrived_ms = arrived_ms
        self._place = place
        self._outcome: RecordBatch | KafkaError | None = batch if rules is None else None

    @property
    def finished(self) -> bool:
        return self._outcome is not None

    @property
    def copies(self) -> int:
        """How many times the memory of its records opening it takes, at most."""
        rules = self.rules
        return _COPIES_TO_CONVERT if rules is not None and rules.converts(self.batch) else _COPIES_TO_CHECK

    def open(self, room_bytes: int) -> Opened:
        """In any thread. Raises KafkaError."""
        assert self.rules is not None
        return open_batch(self.batch, self.rules, self._arrived_ms, room_bytes, self._place)

    def finish(self, opened: Outcome) -> None:
        """With what opening the batch showed, or why not to append it."""
        if isinstance(opened, KafkaError):
            self._outcome = opened
        elif isinstance(opened, BaseException):
            # The executor is gone or the work crashed: nothing is known against the batch, so the client may try again.
            log.error("a batch could not be opened", size_bytes=self.batch.size_bytes, reason=repr(opened))
            self._outcome = KafkaError(ErrorCode.KAFKA_STORAGE_ERROR)
        else:
            self._outcome = self._opened(opened)

    def _opened(self, opened: Opened) -> RecordBatch | KafkaError:
        rules, batch = self.rules, self.batch
        assert rules is not None
        if opened.converted is not None:
            batch = parse_header(memoryview(opened.converted))
            batch.sent_crc = self.batch.sent_crc
            if batch.size_bytes > min(rules.max_message_bytes, rules.segment_bytes):
                return KafkaError(ErrorCode.MESSAGE_TOO_LARGE)
        set_max_timestamp(batch, opened.max_timestamp_ms)
        return batch

    def result(self) -> RecordBatch:
        """The batch to append, writable. Raises KafkaError, a new one: its frames refer to this."""
        outcome = self._outcome
        assert outcome is not None, "not finished"
        if isinstance(outcome, KafkaError):
            raise KafkaError(outcome.code, outcome.message, outcome.record_errors)
        return outcome


class ConversionQueue:
    """Conversions of one partition. `deliver` gets each when it and all before it are finished."""

    __slots__ = ("_deliver", "_is_opening", "_opener", "_queue")

    def __init__(self, opener: BatchOpener, deliver: Callable[[Conversion], None]) -> None:
        self._opener = opener
        self._deliver = deliver
        self._queue: deque[Conversion] = deque()
        self._is_opening = False

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, conversion: Conversion) -> None:
        """It may be delivered before this returns."""
        self._queue.append(conversion)
        if not self._is_opening:
            self._go_on()

    def _go_on(self) -> None:
        while self._queue:
            conversion = self._queue[0]
            if not conversion.finished:
                batch = conversion.batch
                if batch.size_bytes > _WORTH_A_TRIP_BYTES or batch.compression:
                    self._is_opening = True
                    opened = partial(self._opened, conversion)
                    self._opener.start(batch, conversion.open, opened, copies=conversion.copies)
                    return
                conversion.finish(outcome_of(conversion.open, batch.size_bytes))
            self._queue.popleft()
            self._deliver(conversion)

    def _opened(self, conversion: Conversion, outcome: Outcome, reserved_bytes: int) -> None:
        """What was converted keeps its memory until the log is done with it."""
        self._is_opening = False
        conversion.finish(outcome)
        converted = outcome.converted if isinstance(outcome, Opened) else None
        kept_bytes = min(reserved_bytes, 0 if converted is None else len(converted))
        self._opener.memory.release(reserved_bytes - kept_bytes)
        if kept_bytes:
            conversion.done = partial(self._done, conversion.done, kept_bytes)
        self._go_on()

    def _done(self, done: Callable[[AppendResult], None], kept_bytes: int, result: AppendResult) -> None:
        self._opener.memory.release(kept_bytes)
        done(result)


class Opened(NamedTuple):
    """What opening a batch showed. `converted` is the batch as the topic wants it, None if it is so already."""

    max_timestamp_ms: int
    converted: bytearray | None


def open_batch(batch: RecordBatch, rules: AppendRules, arrived_ms: int, room_bytes: int, place: str) -> Opened:
    """Check every record, and compress them as the topic wants it if they are not so.

    Raises KafkaError: INVALID_RECORD for a missing key or records that are not what the header says,
    INVALID_TIMESTAMP for those out of range, DecompressedTooLarge for more than `room_bytes`.
    """
    records = decompress(batch.compression, batch.records, room_bytes)
    walk = walk_records(batch, records, require_keys=rules.requires_keys)
    if batch.compression and walk.longest_bytes > rules.max_decompressed_record_bytes:
        raise InvalidBatch(
            ErrorCode.INVALID_RECORD,
            f"Record of {walk.longest_bytes} bytes exceeds the maximum decompressed size of "
            f"{rules.max_decompressed_record_bytes} bytes.",
        )
    if walk.lacks_keys or not rules.admits_timestamps(walk.min_timestamp, walk.max_timestamp, arrived_ms):
        raise _records_refused(batch, records, rules, arrived_ms, place)
    converted = _convert(batch, records, rules) if rules.converts(batch) else None
    return Opened(walk.max_timestamp, converted)


def _convert(batch: RecordBatch, records: Bytes, rules: AppendRules) -> bytearray:
    after_crc = bytearray(batch.view[ATTRIBUTES_POSITION:HEADER_BYTES])
    after_crc[1] = (after_crc[1] & ~CODEC_MASK) | rules.compression
    compressed = compress(rules.compression, records, rules.compression_level)
    return assemble(0, batch.leader_epoch, bytes(after_crc), compressed)


def _records_refused(
    batch: RecordBatch, records: Bytes, rules: AppendRules, arrived_ms: int, place: str
) -> InvalidBatch:
    """Kafka's words. All that is wrong is counted, the first thousand are named."""
    oldest_ms, newest_ms = rules.timestamp_range(arrived_ms)
    code, count = ErrorCode.INVALID_RECORD, 0
    record_errors: list[tuple[int, str]] = []
    for index, timestamp in records_at_fault(batch, records, oldest_ms, newest_ms, require_keys=rules.requires_keys):
        count += 1
        if timestamp is not None:
            code = ErrorCode.INVALID_TIMESTAMP
        if count > _MOST_RECORD_ERRORS:
            continue
        if timestamp is None:
            text = f"Compacted topic cannot accept message without key in topic partition {place}"
        else:
            text = (
                f"Timestamp {timestamp} of message with offset {index} is out of range. "
                f"The timestamp should be within [{oldest_ms}, {newest_ms}]"
            )
        record_errors.append((index, text))
    if code is ErrorCode.INVALID_TIMESTAMP:
        message = "One or more records have been rejected due to invalid timestamp"
    else:
        shown = (
            f"RecordError(batchIndex={index}, message='{text}')" for index, text in record_errors[:_RECORD_ERRORS_SHOWN]
        )
        message = (
            f"One or more records have been rejected due to {count} record errors in total, "
            f"and only showing the first three errors at most: [{', '.join(shown)}]"
        )
    return InvalidBatch(code, message, record_errors)
