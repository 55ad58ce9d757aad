"""Batches that must be opened before they are appended: keys, age of every record, another compression type.

Owns: doing that on the executor, because it keeps a processor busy, and giving the results back in the order of
arrival. Must not: assign offsets or know of producers; a converted batch still carries the checksum that its client
sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final, NamedTuple

from bytemq.broker.log.append_rules import KEEP_COMPRESSION, AppendRules
from bytemq.broker.log.results import AppendResult, Origin
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.records.batch import (
    ATTRIBUTES_POSITION,
    CODEC_MASK,
    HEADER_BYTES,
    RecordBatch,
    parse_header,
    set_max_timestamp,
)
from bytemq.protocol.records.builder import assemble
from bytemq.protocol.records.compression import compress, decompress
from bytemq.protocol.records.walk import walk_batch
from bytemq.runtime.logging import get_logger

log = get_logger("broker.log.conversion")

_WORTH_A_TRIP_BYTES: Final = 4 * 1024
"""Smaller uncompressed batches are opened in place: handing them over costs more."""


class Conversion:
    """One append that waits for its turn; `rules` is None if only its turn, and nothing else, is waited for."""

    __slots__ = ("_arrived_ms", "_outcome", "batch", "done", "origin", "rules")

    def __init__(
        self,
        batch: RecordBatch,
        rules: AppendRules | None,
        done: Callable[[AppendResult], None],
        origin: Origin,
        arrived_ms: int,
    ) -> None:
        self.batch = batch
        self.rules = rules
        self.done = done
        self.origin = origin
        self._arrived_ms = arrived_ms
        self._outcome: RecordBatch | KafkaError | None = batch if rules is None else None

    @property
    def finished(self) -> bool:
        return self._outcome is not None

    def finish(self, opened: Opened | KafkaError) -> None:
        """With what opening the batch showed, or why not to append it."""
        if isinstance(opened, KafkaError):
            self._outcome = opened
            return
        try:
            self._outcome = self._checked(opened)
        except KafkaError as error:
            self._outcome = KafkaError(error.code, error.message)  # without its frames, which refer to this

    def _checked(self, opened: Opened) -> RecordBatch:
        """Raises KafkaError for what the header did not show."""
        rules = self.rules
        assert rules is not None
        rules.check_timestamps(opened.min_timestamp_ms, opened.max_timestamp_ms, self._arrived_ms)
        batch = self.batch
        if opened.converted is not None:
            batch = parse_header(memoryview(opened.converted))
            batch.sent_crc = self.batch.sent_crc
            if batch.size_bytes > min(rules.max_message_bytes, rules.segment_bytes):
                raise KafkaError(ErrorCode.MESSAGE_TOO_LARGE)
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

    __slots__ = ("_deliver", "_executor", "_queue")

    def __init__(self, executor: Executor, deliver: Callable[[Conversion], None]) -> None:
        self._executor = executor
        self._deliver = deliver
        self._queue: deque[Conversion] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, conversion: Conversion) -> None:
        """Start `conversion`; it may be delivered before this returns."""
        self._queue.append(conversion)
        batch, rules = conversion.batch, conversion.rules
        if rules is not None:
            arguments = (rules.compression, rules.compression_level, rules.requires_keys, rules.max_decompressed_bytes)
            if batch.size_bytes > _WORTH_A_TRIP_BYTES or batch.compression:
                loop = asyncio.get_running_loop()
                running = loop.run_in_executor(self._executor, _try_open, bytes(batch.view), *arguments)
                running.add_done_callback(lambda future: self._ran(conversion, future))
                return
            conversion.finish(_try_open(batch.view, *arguments))
        self._deliver_finished()

    def _ran(self, conversion: Conversion, future: asyncio.Future[Opened | KafkaError]) -> None:
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if error is None:
            conversion.finish(future.result())
        else:  # the executor is gone or a worker died: nothing is known against the batch, so the client may try again
            log.error("a batch could not be opened", size_bytes=conversion.batch.size_bytes, reason=repr(error))
            conversion.finish(KafkaError(ErrorCode.KAFKA_STORAGE_ERROR))
        self._deliver_finished()

    def _deliver_finished(self) -> None:
        while self._queue and self._queue[0].finished:
            self._deliver(self._queue.popleft())


class Opened(NamedTuple):
    """What opening a batch showed. `converted` is the batch as the topic wants it, None if it is so already."""

    min_timestamp_ms: int
    max_timestamp_ms: int
    converted: bytearray | None


def _try_open(
    batch: bytes | memoryview, compression: int, level: int | None, requires_keys: bool, max_decompressed_bytes: int
) -> Opened | KafkaError:
    """As `open_batch`, but an error comes as a value and without its past.

    What was raised refers to the frames that it passed, and they to all that was decompressed; kept until the
    collector comes by, a few refused batches would fill the memory.
    """
    try:
        return open_batch(batch, compression, level, requires_keys, max_decompressed_bytes)
    except KafkaError as error:
        return KafkaError(error.code, error.message, error.record_errors)


def open_batch(
    batch: bytes | memoryview, compression: int, level: int | None, requires_keys: bool, max_decompressed_bytes: int
) -> Opened:
    """Check every record, and compress them as `compression` if they are not. May run in another process.

    Raises KafkaError: INVALID_RECORD for a missing key or records that are not what the header says.
    """
    parsed = parse_header(memoryview(batch))
    walk = walk_batch(parsed, max_decompressed_bytes=max_decompressed_bytes, require_keys=requires_keys)
    if compression in (KEEP_COMPRESSION, parsed.compression):
        return Opened(walk.min_timestamp, walk.max_timestamp, None)
    records = decompress(parsed.compression, parsed.records, max_decompressed_bytes)
    after_crc = bytearray(parsed.view[ATTRIBUTES_POSITION:HEADER_BYTES])
    after_crc[1] = (after_crc[1] & ~CODEC_MASK) | compression
    converted = assemble(0, parsed.leader_epoch, bytes(after_crc), compress(compression, records, level))
    return Opened(walk.min_timestamp, walk.max_timestamp, converted)
