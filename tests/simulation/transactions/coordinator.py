"""One life of the coordinator: the machine over its log, and what the runtime does for it, with writes that take their
time and fail.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from bytemq.broker.coordinator.marker_sender import MarkerSender
from bytemq.broker.coordinator.marker_writer import MarkerWriter
from bytemq.broker.coordinator.outcome import Outcome, answered_error
from bytemq.broker.coordinator.timers import TimerQueue
from bytemq.broker.coordinator.transaction.adding import Writer
from bytemq.broker.coordinator.transaction.environment import EndedTransaction, NeedsProducerId, TransactionSettings
from bytemq.broker.coordinator.transaction.records import TransactionRecord
from bytemq.broker.coordinator.transaction.shard import TransactionShard
from bytemq.broker.coordinator.transaction.transaction import TopicPartition
from bytemq.broker.coordinator.transaction_coordinators import TransactionCoordinators
from bytemq.protocol.error_codes import ErrorCode, KafkaError

if TYPE_CHECKING:
    from tests.simulation.transactions.world import World

HERE, ELSEWHERE = 1, 2
"""Who coordinates, and who owns the partitions."""
SETTINGS = TransactionSettings(id_expiration_ms=4_000, remove_expired_interval_ms=500)
FLUSH_S = (0.0, 0.001, 0.001, 0.005, 0.03)
_GIVEN_UP = 0.03
"""How often a client is told that a write takes too long, which succeeds."""

Operation = Callable[[TransactionShard, int | None], Outcome[Any]]
Answered = Callable[[ErrorCode | None, Any], None]
"""With a code and the response, or with None when the coordinator died."""


@lru_cache
def _key_of(transactional_id: str) -> bytes:
    return TransactionRecord(transactional_id, None).encode_key()


class _Write(NamedTuple):
    sequence: int
    outcome: Outcome[Any]
    answered: Answered | None


class Coordinator:
    """Of all transactional ids. Serves until `deposed`, believes that it does until `closed`."""

    def __init__(self, world: World, epoch: int) -> None:
        self.world = world
        self.epoch = epoch
        self.is_active = False
        self.is_closed = False
        self.timers = TimerQueue(lambda: int(world.loop.time() * 1000))
        sender = MarkerSender(
            cast(TransactionCoordinators, self),
            cast(MarkerWriter, None),
            lambda: world.image,
            world.clock,
            broker_id=HERE,
            remote=world.wire,
        )
        self.machine = TransactionShard(SETTINGS, self.timers, world.clock.wall_ms, sender, epoch)
        self._held: list[_Write] = []
        self._sequence = itertools.count(1)
        self._alarm_ms: int | None = None
        world.loop.call_later(world.random.choice((0.0, 0.01, 0.2)), self._load)

    # -- life

    def _load(self) -> None:
        if self.is_closed or self.world.coordinator is not self:
            return
        self.machine.replay(self.world.log)
        self.is_active = True
        self.world.history.note(f"coordinator {self.epoch} has loaded {len(self.world.log)} records")
        for outcome in self.machine.loaded():
            self._submit(outcome, None)
        self._arm()

    def deposed(self) -> None:
        """Another one has its log from now on. Some of what it was writing is there, and nobody is told."""
        self.is_active = False
        kept = self.world.random.randint(0, len(self._held))
        for write in self._held[:kept]:
            self._append(write)
        self.world.history.note(f"coordinator {self.epoch}: {kept} of {len(self._held)} unanswered writes are durable")
        for write in self._held:
            if write.answered is not None:
                write.answered(None, None)
        self._held.clear()

    def close(self) -> None:
        """It learns of its successor, or it is dead."""
        self.is_closed = True
        self.machine.unloaded()

    # -- what the sender of markers asks

    def is_current(self, ended: EndedTransaction) -> bool:
        return not self.is_closed

    def marker_written(self, ended: EndedTransaction, partition: TopicPartition) -> None:
        if not self.is_closed:
            self._submit(self.machine.ending.marker_written(ended, partition), None)
            self._arm()

    # -- what clients and participants ask

    def write(self, operation: Operation, answered: Answered, new_producer_id: int | None = None) -> None:
        if not self.is_active:
            answered(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, None)
            return
        try:
            outcome = operation(self.machine, new_producer_id)
        except NeedsProducerId:
            self.world.wire.after_a_while(self.write, operation, answered, next(self.world.producer_ids))
            return
        except KafkaError as error:
            answered(error.code, None)
            return
        self._arm()
        if outcome.records:
            self._submit(outcome, answered)
        elif self._held:  # behind what it was decided upon
            self._held.append(_Write(0, outcome, answered))
        else:
            answered(ErrorCode.NONE, outcome.response)

    def verify(
        self,
        writer: Writer,
        partitions: Sequence[TopicPartition],
        answer: Callable[[dict[TopicPartition, ErrorCode] | None], None],
    ) -> None:
        if not self.is_active:
            answer(dict.fromkeys(partitions, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS))
            return
        try:
            answer(self.machine.adding.verify(writer, partitions))
        except KafkaError as error:
            answer(dict.fromkeys(partitions, error.code))

    # -- writing

    def _submit(self, outcome: Outcome[Any], answered: Answered | None) -> None:
        if not outcome.records:
            return
        write = _Write(next(self._sequence), outcome, answered)
        for record in outcome.records:
            self.machine.stage(write.sequence, record)
        self._held.append(write)
        if len(self._held) == 1:
            self.world.loop.call_later(self.world.random.choice(FLUSH_S), self._flushed)

    def _flushed(self) -> None:
        """What was held is durable; or a part of it is, and all that follows fails."""
        if not self.is_active or not self._held:
            return
        random, held = self.world.random, self._held
        fails = random.random() < self.world.sickness
        durable = random.randint(0, len(held) - 1) if fails else len(held)
        self._held, failed = [], held[durable:]
        for write in held[:durable]:
            self._append(write)
            for record in write.outcome.records:
                self.machine.commit(write.sequence, record)
        for write in reversed(failed):
            for record in reversed(write.outcome.records):
                self.machine.roll_back(write.sequence, record)
        self.world.written(self)
        for write in held[:durable]:
            is_given_up = random.random() < _GIVEN_UP and not self.world.is_well
            self._ended(write, ErrorCode.NONE, ErrorCode.REQUEST_TIMED_OUT if is_given_up else ErrorCode.NONE)
        for write in failed:
            self._ended(write, ErrorCode.KAFKA_STORAGE_ERROR, ErrorCode.KAFKA_STORAGE_ERROR)
        self._arm()

    def _append(self, write: _Write) -> None:
        records = cast(Sequence[TransactionRecord], write.outcome.records)
        self.world.log += [(_key_of(each.transactional_id), each.encode_value()) for each in records]

    def _ended(self, write: _Write, code: ErrorCode, told: ErrorCode) -> None:
        if write.answered is not None:
            write.answered(answered_error(told), write.outcome.response if told is ErrorCode.NONE else None)
        if write.outcome.on_appended is not None:
            self._submit(write.outcome.on_appended(code), None)

    # -- time

    def _arm(self) -> None:
        deadline_ms = self.timers.next_deadline_ms()
        if deadline_ms is None or (self._alarm_ms is not None and self._alarm_ms <= deadline_ms):
            return
        self._alarm_ms = deadline_ms
        self.world.loop.call_later(max(0.0, deadline_ms / 1000 - self.world.loop.time()) + 0.001, self._ring)

    def _ring(self) -> None:
        self._alarm_ms = None
        if self.is_closed:
            return
        while (action := self.timers.pop_due()) is not None:
            self._submit(action(), None)
        self._arm()
