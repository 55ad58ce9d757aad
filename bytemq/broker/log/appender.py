"""Appending to one partition: prepare here at once, durable in storage, commit here; and who is told what.

Owns: the one path by which a batch enters a log, in the order of arrival, conversions included. Must not: keep rules
of its own (they are in `append_rules`, `state`, `producer_state`) or look at a record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from crc32c import crc32c

from bytemq.broker.log.append_rules import AppendRules
from bytemq.broker.log.conversion import Conversion, ConversionQueue
from bytemq.broker.log.failures import append_failure
from bytemq.broker.log.producer_state import AppendedBatch
from bytemq.broker.log.results import AppendResult, Origin
from bytemq.broker.log.services import LogServices
from bytemq.broker.log.state import NO_APPEND_TIME, Duplicate, Group, LogState, PendingAppend
from bytemq.broker.log.waiters import Waiters
from bytemq.errors import BytemqError, Fenced
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.records import rows
from bytemq.protocol.records.batch import (
    ATTRIBUTES_POSITION,
    CONTROL_FLAG,
    LOG_APPEND_TIME,
    NO_LEADER_EPOCH,
    TRANSACTIONAL_FLAG,
    RecordBatch,
    parse_header,
    produced_batch,
    set_log_append_time,
    set_max_timestamp,
)
from bytemq.protocol.records.control import marker_word, parse_end_transaction
from bytemq.protocol.records.reader import iter_records
from bytemq.types import PartitionId

if TYPE_CHECKING:
    from bytemq.storage.log_files import LogFiles
    from bytemq.storage.wal.staging import Append

Done = Callable[[AppendResult], None]

_TRANSACTIONAL_OR_CONTROL = TRANSACTIONAL_FLAG | CONTROL_FLAG
_NONE = ErrorCode.NONE


class Appender:
    """The append path of an open partition. `grown` is called after every commit that somebody waits for, and when the
    partition is lost.
    """

    __slots__ = (
        "_conversions",
        "_files",
        "_grown",
        "_leader_epoch",
        "_pid",
        "_quiet",
        "_services",
        "_topic",
        "_waiters",
        "refusal",
        "rules",
        "state",
    )

    def __init__(
        self,
        pid: PartitionId,
        topic: str,
        leader_epoch: int,
        rules: AppendRules,
        files: LogFiles,
        state: LogState[Done],
        services: LogServices,
        grown: Callable[[], None],
        waiters: Waiters[Any],
    ) -> None:
        self._pid = pid
        self._topic = topic
        self._leader_epoch = leader_epoch
        self._files = files
        self.state = state
        self._services = services
        self._grown = grown
        self._waiters = waiters
        files.taken_back = self._taken_back
        self._conversions: ConversionQueue | None = None
        self._quiet: asyncio.Future[None] | None = None
        self.rules = rules
        self.refusal: ErrorCode | None = None
        """What everyone is answered once this broker has stopped being the owner."""

    def append(self, payload: memoryview, done: Done, origin: Origin, zstd_allowed: bool) -> None:
        """See `Partition.append`."""
        try:
            if self.refusal is not None:
                raise KafkaError(self.refusal)
            now_ms = self._services.clock.wall_ms()
            batch = self._checked(payload, origin, zstd_allowed)
            opens = origin is Origin.CLIENT and self.rules.must_open(batch, now_ms)
            if opens or self._conversions:
                self._convert(batch, self.rules if opens else None, done, origin, now_ms)
            else:
                self._submit(batch, done, origin, now_ms)
        except KafkaError as error:
            done(self._refused(error))

    def prepare_plain(self, batches: Sequence[RecordBatch], now_ms: int, group: Group) -> PendingAppend[Done] | None:
        """The short way of `append`, for a row of clients' batches that `plain_produce` has taken apart; the `view` of
        each is as a payload is. They have their places then, and `handed_over` or `take_back` must follow before
        anything else is appended here. `group` is told later what has become of them, all together.

        None, and nothing has happened, where `append` is to decide: whatever is refused, repeated, or looked at more
        closely, is so there.
        """
        rules = self.rules
        offset_count, _, largest_bytes, newest_ms, _, is_one_producers = rows.survey(batches)
        if (
            largest_bytes > rules.plain_bytes
            or newest_ms > now_ms + rules.timestamp_after_max_ms
            or not is_one_producers
            or self.refusal is not None
            or self._conversions
        ):
            return None
        for batch in batches:
            if crc32c(batch.view[ATTRIBUTES_POSITION:]) != batch.crc:
                return None
        prepared = self.state.prepare_row(batches, offset_count, now_ms)
        if prepared is not None:
            prepared.group = group
            rows.place(batches, prepared.base_offset, self._leader_epoch)
        return prepared

    def handed_over(self, batches: Sequence[RecordBatch], append: PendingAppend[Done]) -> Append:
        """What is to be given to storage of what was prepared."""
        return self._files, batches, partial(self._settle, append)

    def take_back(self, batches: Sequence[RecordBatch], append: PendingAppend[Done]) -> None:
        """What was prepared last does not go to storage: nothing has happened."""
        self.state.take_back(append)
        for batch in batches:
            batch.place(0, NO_LEADER_EPOCH)

    def refuse(self, code: ErrorCode) -> None:
        """From now on every append is answered `code`; those on their way are not touched."""
        if self.refusal is None:
            self.refusal = code

    def abandon(self) -> None:
        """Answer everything on its way with the refusal. What storage still commits is committed, without an answer."""
        assert self.refusal is not None, "refuse first"
        for append in self.state.in_flight():
            self._answer_failed(append, self.refusal)

    async def drained(self) -> None:
        """Return once storage has decided on everything on its way."""
        while self._conversions or self.state.pending_count:
            if self._quiet is None:
                self._quiet = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._quiet)

    def _checked(self, payload: memoryview, origin: Origin, zstd_allowed: bool) -> RecordBatch:
        rules = self.rules
        if origin is Origin.CLIENT:
            batch = produced_batch(payload, max_message_bytes=rules.max_message_bytes, zstd_allowed=zstd_allowed)
            rules.check_size(batch)
            return batch
        batch = parse_header(payload)  # our own bytes: only their size can be wrong
        if batch.size_bytes > rules.max_message_bytes:
            raise KafkaError(ErrorCode.MESSAGE_TOO_LARGE)
        return batch

    def _convert(self, batch: RecordBatch, rules: AppendRules | None, done: Done, origin: Origin, now_ms: int) -> None:
        if self._conversions is None:
            self._conversions = ConversionQueue(self._services.opener, self._converted)
        self._conversions.add(Conversion(batch, rules, done, origin, now_ms, f"{self._topic}-{self._pid.index}"))

    def _converted(self, conversion: Conversion) -> None:
        """The oldest conversion of the queue is finished."""
        try:
            if self.refusal is not None:
                raise KafkaError(self.refusal)
            batch = conversion.result()
            self._submit(batch, conversion.done, conversion.origin, self._services.clock.wall_ms())
        except KafkaError as error:
            conversion.done(self._refused(error))
        self._note_quiet()

    def _submit(self, batch: RecordBatch, done: Done, origin: Origin, now_ms: int) -> None:
        """Prepare and hand to storage. Raises KafkaError with nothing changed."""
        append_time_ms = now_ms if self.rules.log_append_time else NO_APPEND_TIME
        from_client = origin is Origin.CLIENT
        marker = None
        if batch.attributes & _TRANSACTIONAL_OR_CONTROL:
            if batch.is_control:
                marker = parse_end_transaction(next(iter_records(batch)))
                batch.sent_crc = marker_word(marker)
            elif from_client:
                self._check_transaction(batch)
        prepared = self.state.prepare(
            batch,
            now_ms,
            log_append_time_ms=append_time_ms,
            marker=marker,
            sequenced=from_client,
            is_bumped=origin is Origin.BUMPED_MARKER,
        )
        if isinstance(prepared, Duplicate):
            self._answer_duplicate(prepared, done)
            return
        if append_time_ms >= 0:
            set_log_append_time(batch, append_time_ms)
        elif batch.timestamp_type == LOG_APPEND_TIME:  # a client's claim; the topic says otherwise
            set_max_timestamp(batch, batch.max_timestamp)
        self._hand_over(batch, prepared, done)

    def _hand_over(self, batch: RecordBatch, prepared: PendingAppend[Done], done: Done) -> None:
        """The batch has its place: storage is to write it."""
        prepared.answer = done
        batch.place(prepared.base_offset, self._leader_epoch)
        self._services.storage.append(self._files, (batch,), partial(self._settle, prepared))

    def _check_transaction(self, batch: RecordBatch) -> None:
        """A transactional batch is let in if its transaction is open here, if it is a retry, or if the guard knows of
        it.
        """
        known = self.state.producers.get(batch.producer_id)
        if known is not None and known.admits(batch):
            return
        code = self._services.guard.check(self._topic, self._pid.index, batch, known)
        if code is not ErrorCode.NONE:
            raise KafkaError(code)

    def _taken_back(self, error: BytemqError) -> None:
        """Storage has taken back everything on its way here, and is about to say so of each append: nobody was told
        yet, and whoever is told first may come back at once, to this log or another one.
        """
        self.state.rollback()
        if isinstance(error, Fenced):
            self.refuse(ErrorCode.NOT_LEADER_OR_FOLLOWER)

    def _settle(self, append: PendingAppend[Done], error: BytemqError | None) -> None:
        """Storage says what became of `append`."""
        if error is None:
            state = self.state
            state.commit(append)
            group = append.group
            if group is not None:  # not answered by `abandon`
                append.group = None
                group.missing -= 1
                if not group.missing:
                    group.complete()
            elif append.answer is not None:
                log_start_offset = state.log_start_offset
                append.answer(AppendResult(_NONE, append.base_offset, append.log_append_time_ms, log_start_offset))
            if append.duplicates is not None:
                for appended, retried in append.duplicates:
                    retried(self._duplicate_result(appended))
            if self._waiters.callbacks is not None or self._files.is_urgent:
                self._grown()
        else:
            self._answer_failed(append, append_failure(error))
            if self.refusal is not None:
                self._grown()
        if self._quiet is not None:
            self._note_quiet()

    def _answer_failed(self, append: PendingAppend[Done], code: ErrorCode) -> None:
        """Answer `append` and the retries that share its fate; at most once."""
        group, append.group = append.group, None
        if group is not None:
            group.failed(append, code, self.state.log_start_offset)
        answers = [append.answer, *(done for _, done in append.duplicates or ())]
        append.answer = append.duplicates = None
        for done in answers:
            if done is not None:
                done(AppendResult(code, log_start_offset=self.state.log_start_offset))

    def _answer_duplicate(self, duplicate: Duplicate[Done], done: Done) -> None:
        original = duplicate.original
        if original is None:
            done(self._duplicate_result(duplicate.appended))
        elif original.duplicates is None:
            original.duplicates = [(duplicate.appended, done)]
        else:
            original.duplicates.append((duplicate.appended, done))

    def _duplicate_result(self, appended: AppendedBatch) -> AppendResult:
        log_start_offset = self.state.log_start_offset
        return AppendResult(ErrorCode.NONE, appended.base_offset, appended.timestamp_ms, log_start_offset)

    def _refused(self, error: KafkaError) -> AppendResult:
        return AppendResult(
            error.code,
            log_start_offset=self.state.log_start_offset,
            message=error.message,
            record_errors=error.record_errors,
        )

    def _note_quiet(self) -> None:
        if self._quiet is not None and not self.state.pending_count and not self._conversions:
            quiet, self._quiet = self._quiet, None
            if not quiet.done():
                quiet.set_result(None)
