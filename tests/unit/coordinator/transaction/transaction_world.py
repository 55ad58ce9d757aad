"""A transaction shard in virtual time, with a log in memory and partitions that take markers when told to.

Writes are committed at once unless `hold` is set; then they wait for `release` or `fail`. `restart` is a crash: a new
shard, with a higher coordinator epoch, replays the log, and nothing else survives.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from bytemq.broker.coordinator.outcome import Outcome
from bytemq.broker.coordinator.timers import TimerQueue
from bytemq.broker.coordinator.transaction.adding import Writer
from bytemq.broker.coordinator.transaction.environment import EndedTransaction, NeedsProducerId, TransactionSettings
from bytemq.broker.coordinator.transaction.shard import TransactionShard
from bytemq.broker.coordinator.transaction.transaction import TopicPartition, Transaction
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.end_txn import EndTxnRequest, EndTxnResponse
from bytemq.protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse

START_MS = 1_700_000_000_000
FIRST_PRODUCER_ID = 1_000
ID = "app"
R = TypeVar("R")


class HeldWrite:
    def __init__(self, sequence: int, outcome: Outcome[Any]) -> None:
        self.sequence = sequence
        self.outcome = outcome


class TransactionWorld:
    """One shard, its time, its log and the markers on their way."""

    def __init__(self, settings: TransactionSettings | None = None) -> None:
        self.settings = settings or TransactionSettings()
        self.now_ms = 0
        self.log: list[tuple[bytes, bytes | None]] = []
        self.hold = False
        self.held: list[HeldWrite] = []
        self.markers: list[EndedTransaction] = []
        self.coordinator_epoch = 0
        self._sequence = itertools.count(1)
        self._producer_ids = itertools.count(FIRST_PRODUCER_ID)
        self._start()

    # -- the machine's surroundings

    def send(self, ended: EndedTransaction) -> None:
        self.markers.append(ended)

    def restart(self) -> None:
        """Whatever was not in the log is gone; markers on their way, too."""
        self.held.clear()
        self.markers.clear()
        self.hold = False
        self.coordinator_epoch += 1
        self._start()

    def _start(self) -> None:
        self.timers = TimerQueue(lambda: self.now_ms)
        self.shard = TransactionShard(
            self.settings, self.timers, lambda: START_MS + self.now_ms, self, self.coordinator_epoch
        )
        self.shard.replay(self.log)
        for outcome in self.shard.loaded():
            self.submit(outcome)

    def submit(self, outcome: Outcome[R]) -> R:
        if outcome.records:
            sequence = next(self._sequence)
            for record in outcome.records:
                self.shard.stage(sequence, record)
            self.held.append(HeldWrite(sequence, outcome))
            if not self.hold:
                self.release()
        return outcome.response

    def release(self) -> None:
        """All writes on their way are durable."""
        while self.held:
            write = self.held.pop(0)
            for record in write.outcome.records:
                self.log.append((record.encode_key(), record.encode_value()))
                self.shard.commit(write.sequence, record)
            self._ended(write, ErrorCode.NONE)

    def fail(self, code: ErrorCode = ErrorCode.COORDINATOR_NOT_AVAILABLE) -> None:
        """None of them ever will be."""
        failed, self.held = list(reversed(self.held)), []
        for write in failed:
            for record in reversed(write.outcome.records):
                self.shard.roll_back(write.sequence, record)
        for write in failed:
            self._ended(write, code)

    def _ended(self, write: HeldWrite, code: ErrorCode) -> None:
        if write.outcome.on_appended is not None:
            self.submit(write.outcome.on_appended(code))

    def advance(self, ms: int) -> None:
        end_ms = self.now_ms + ms
        while (deadline_ms := self.timers.next_deadline_ms()) is not None and deadline_ms <= end_ms:
            self.now_ms = max(self.now_ms, deadline_ms)
            while (action := self.timers.pop_due()) is not None:
                self.submit(action())
        self.now_ms = end_ms

    def write_markers(self) -> list[EndedTransaction]:
        """Every partition takes the markers sent to it; which they were."""
        sent, self.markers = self.markers, []
        for ended in sent:
            for partition in sorted(ended.partitions):
                self.submit(self.shard.ending.marker_written(ended, partition))
        return sent

    # -- requests

    def init(self, producer_id: int = -1, epoch: int = -1, *, timeout_ms: int = 60_000) -> InitProducerIdResponse:
        request = InitProducerIdRequest(ID, timeout_ms, producer_id, epoch)
        return self._with_id(lambda new_id: self.shard.initialising.initialise(request, new_id))

    def producer(self, *, timeout_ms: int = 60_000) -> Writer:
        answer = self.init(timeout_ms=timeout_ms)
        return Writer(ID, answer.producer_id, answer.producer_epoch)

    def add(self, writer: Writer, *partitions: TopicPartition, version: int = 0) -> None:
        self.submit(self.shard.adding.add(writer, partitions, version))

    def end(self, writer: Writer, *, commit: bool = True, version: int = 0) -> EndTxnResponse:
        request = EndTxnRequest(writer.transactional_id, writer.producer_id, writer.producer_epoch, commit)
        return self._with_id(lambda new_id: self.shard.ending.end(request, version, new_id))

    def after(self, writer: Writer, answer: EndTxnResponse) -> Writer:
        """What a client of transaction version 2 goes on with."""
        return Writer(writer.transactional_id, answer.producer_id, answer.producer_epoch)

    def _with_id(self, operation: Callable[[int | None], Outcome[R]]) -> R:
        try:
            return self.submit(operation(None))
        except NeedsProducerId:
            return self.submit(operation(next(self._producer_ids)))

    # -- what there is

    @property
    def state(self) -> Transaction:
        committed = self.shard.environment.entries[ID].committed
        assert committed is not None
        return committed

    def seen(self) -> tuple[str, int, int]:
        """State, producer id (counted from the first) and epoch."""
        state = self.state
        return state.state.label, state.producer_id - FIRST_PRODUCER_ID, state.producer_epoch


def code_of(action: Callable[[], object]) -> ErrorCode:
    """What the action answers."""
    try:
        answer = action()
    except KafkaError as error:
        return error.code
    return ErrorCode(getattr(answer, "error_code", 0))


def only(values: Iterable[R]) -> R:
    (value,) = values
    return value
