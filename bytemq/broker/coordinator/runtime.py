"""Runs a coordinator's machine on one partition: loads it, writes its records, and answers when they are committed.

Owns the order of things: a request is decided on the latest state, its records go into the log behind those of all
earlier requests, and its answer waits for their commit. When an append fails, the machine takes back what it staged,
newest first, before anyone is answered. One event loop; no threads, no asyncio object for a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from enum import Enum
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from bytemq.broker.coordinator.batches import Answer, Batch, Write, WriteQueue
from bytemq.broker.coordinator.loading import Loaded, LoadFailed, LogDamaged, Replaying, load
from bytemq.broker.coordinator.outcome import NOTHING, CoordinatorRecord, Envelope, Outcome, answered_error
from bytemq.broker.coordinator.timers import TimerQueue
from bytemq.broker.log.partition import Partition
from bytemq.broker.log.results import AppendResult, Origin
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.records.batch import HEADER_BYTES
from bytemq.protocol.records.builder import build_batch
from bytemq.runtime.clock import Clock, TimerHandle
from bytemq.runtime.logging import get_logger

log = get_logger("broker.coordinator")

_MAX_WAITING_BYTES = 64 * 1024 * 1024
_FIRST_RELOAD_DELAY_S = 0.5
_MAX_RELOAD_DELAY_S = 30.0
_TIMERS_PER_TURN = 200


class Machine(Replaying, Protocol):
    """What the runtime asks of a machine. See group/shard.py."""

    def stage(self, sequence: int, record: CoordinatorRecord) -> None: ...
    def commit(self, sequence: int, record: CoordinatorRecord) -> None: ...
    def roll_back(self, sequence: int, record: CoordinatorRecord) -> None: ...
    def loaded(self) -> list[Outcome[None]]: ...
    def unloaded(self, code: ErrorCode = ErrorCode.NOT_COORDINATOR) -> None: ...
    def topics_deleted(self, topic_ids: Iterable[bytes]) -> None: ...

    @property
    def damaged_records(self) -> int: ...


M = TypeVar("M", bound=Machine)
R = TypeVar("R")


class ShardState(Enum):
    LOADING = "loading"
    DAMAGED = "damaged"
    ACTIVE = "active"
    CLOSED = "closed"


class ShardRuntime(Generic[M]):
    """One machine on one partition. `make` builds an empty machine around the timers it is given."""

    def __init__(
        self, partition: Partition, make: Callable[[TimerQueue], M], clock: Clock, *, commit_timeout_s: float = 5.0
    ) -> None:
        self.partition = partition
        self.state = ShardState.LOADING
        self._clock = clock
        self._commit_timeout_s = commit_timeout_s
        self._timers = TimerQueue(self._now_ms)
        self._make = make
        self.machine = make(self._timers)
        self._queue = WriteQueue()
        self._flush_scheduled = False
        self._alarm: TimerHandle | None = None
        self._alarm_ms = 0
        self._unreadable_records = 0

    @property
    def is_active(self) -> bool:
        return self.state is ShardState.ACTIVE

    @property
    def damaged_records(self) -> int:
        """Records that loading left out: those that the machine cannot understand, and those that cannot be read."""
        return self._unreadable_records + self.machine.damaged_records

    # -- life

    async def load(self) -> None:
        """Replays the log, again after a failure until it works or the shard is closed. Then requests are served.

        After an exception that nobody expects it may be called again, and begins with an empty machine; one that
        serves already is left as it is.
        """
        if self.is_active:
            return
        delay_s = _FIRST_RELOAD_DELAY_S
        while not self._is_closed:
            started = self._clock.monotonic()
            try:
                loaded = await load(self.partition, self.machine, self._clock)
                outcomes = [] if self._is_closed else self.machine.loaded()
            except LoadFailed as error:
                self._could_not_load(error)
                await self._clock.sleep(delay_s)
                delay_s = min(2 * delay_s, _MAX_RELOAD_DELAY_S)
                self._empty()
            except Exception:
                self._empty()
                raise
            else:
                if not self._is_closed:
                    self._serve(loaded, outcomes, round((self._clock.monotonic() - started) * 1000))
                    return
        self.machine.unloaded()  # what was being read when it was closed came after that

    def _empty(self) -> None:
        self._timers.clear()
        machine, self.machine = self.machine, self._make(self._timers)
        machine.unloaded()

    def _serve(self, loaded: Loaded, outcomes: Iterable[Outcome[None]], duration_ms: int) -> None:
        self.state = ShardState.ACTIVE
        self._unreadable_records = loaded.unreadable
        for outcome in outcomes:
            self._guarded(partial(self._submit, outcome, None))
        self._arm()
        topic, index = self.partition.topic, self.partition.pid.index
        if self.machine.damaged_records:
            log.error(
                "coordinator left records out that make no sense",
                topic=topic,
                partition=index,
                records=self.machine.damaged_records,
            )
        tell = log.info if loaded.records else log.debug
        tell("coordinator loaded", topic=topic, partition=index, records=loaded.records, duration_ms=duration_ms)

    def _could_not_load(self, error: LoadFailed) -> None:
        topic, index = self.partition.topic, self.partition.pid.index
        if not isinstance(error, LogDamaged):
            log.warning("coordinator could not be loaded", topic=topic, partition=index, reason=str(error))
            return
        if not self._is_closed:
            self.state = ShardState.DAMAGED
        log.error(
            "coordinator refuses its groups and transactional ids: the log is damaged",
            topic=topic,
            partition=index,
            reason=str(error),
            repair=f"restore the file, or go on without: bytemq topic alter {topic} --config bytemq.skip.damage=true",
        )

    @property
    def _is_closed(self) -> bool:
        return self.state is ShardState.CLOSED

    def close(self) -> None:
        """The partition is somebody else's from now on. Who waits is told to look for the coordinator again."""
        if self.state is ShardState.CLOSED:
            return
        self.state = ShardState.CLOSED
        self._fail(self._queue.fail_all(), ErrorCode.NOT_LEADER_OR_FOLLOWER)
        self.machine.unloaded()
        self._timers.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    # -- requests

    def serving_machine(self) -> M:
        """The machine, for operations that only read what is committed. Raises KafkaError while it does not serve."""
        if self.state is ShardState.ACTIVE and not self.partition.is_closed:
            return self.machine
        if self.state is ShardState.LOADING:
            raise KafkaError(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
        raise KafkaError(ErrorCode.NOT_COORDINATOR)

    def call(self, operation: Callable[[M], R]) -> R:
        """An operation that writes nothing and answers at once. Raises KafkaError while the machine does not serve."""
        result = operation(self.serving_machine())
        self._arm()
        return result

    def run(self, operation: Callable[[M], Outcome[None]]) -> None:
        """An operation that answers by itself, through callbacks. Raises KafkaError with nothing done."""
        self._carry_out(operation(self._machine_for_writes()))

    def go_on(self, operation: Callable[[M], Outcome[None]]) -> None:
        """As `run`, of what follows from an earlier decision: however much waits for the log, it is not refused."""
        self._carry_out(operation(self.serving_machine()))

    def _carry_out(self, outcome: Outcome[None]) -> None:
        if outcome.records:
            self._submit(outcome, None)
        elif outcome.on_appended is not None and not self._queue.follow(outcome, None):
            self._ended(outcome.on_appended, None, ErrorCode.NONE)
        self._arm()

    def topics_deleted(self, topic_ids: Iterable[bytes]) -> None:
        """The machine forgets what it keeps of them. While it is loading, its next periodic check does."""
        if self.is_active:
            self.machine.topics_deleted(topic_ids)
            self._arm()

    async def write(self, operation: Callable[[M], Outcome[R]]) -> R:
        """An operation's response, once its records are committed. Raises KafkaError, as a client is to be told."""
        outcome = operation(self._machine_for_writes())
        self._arm()
        if not outcome.records and not self._queue:
            return outcome.response
        answered: asyncio.Future[ErrorCode] = asyncio.get_running_loop().create_future()
        answer = partial(_resolve, answered)
        if outcome.records:
            self._submit(outcome, answer)
        else:
            self._queue.follow(Outcome(None), answer)
        code = await answered
        if code is not ErrorCode.NONE:
            raise KafkaError(answered_error(code))
        return outcome.response

    async def settled(self) -> M:
        """The machine when everything decided until now is committed or given up.

        Raises KafkaError while it does not serve.
        """
        self.serving_machine()
        await self.drained()
        return self.serving_machine()

    async def drained(self) -> None:
        """Returns when everything decided until now is committed or given up; what is decided meanwhile is not waited
        for, which never ends on a busy shard.
        """
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ended(code: ErrorCode) -> Outcome[None]:
            _resolve(settled, None)
            return NOTHING

        if self._queue.follow(Outcome(None, on_appended=ended), None):
            await settled

    # -- writing

    def _machine_for_writes(self) -> M:
        machine = self.serving_machine()
        if self._queue.size_bytes > _MAX_WAITING_BYTES:
            raise KafkaError(
                ErrorCode.COORDINATOR_NOT_AVAILABLE
            )  # the log is slower than the clients: let them back off
        return machine

    def _submit(self, outcome: Outcome[Any], answer: Answer | None) -> None:
        if not outcome.records:
            return
        write = self._queue.add(outcome, answer, self.partition.config.max_message_bytes - HEADER_BYTES)
        if write is None:
            self._ended(outcome.on_appended, answer, ErrorCode.RECORD_LIST_TOO_LARGE)
            return
        for record in outcome.records:
            self.machine.stage(write.sequence, record)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._clock.call_later(0, self._flush)

    def _flush(self) -> None:
        """Appends what this loop turn has gathered."""
        self._flush_scheduled = False
        while (batch := self._queue.send()) is not None:
            payload = _payload(batch, self._clock.wall_ms())
            batch.records.clear()
            batch.timer = self._clock.call_later(self._commit_timeout_s, partial(self._give_up_waiting, batch))
            self.partition.append(
                memoryview(payload),
                partial(self._appended, batch),
                origin=_origin(batch.envelope),
            )

    def _appended(self, batch: Batch, result: AppendResult) -> None:
        if batch.timer is not None:
            batch.timer.cancel()
        if batch.failed:
            return  # given up together with an earlier one, or by close
        if result.error is not ErrorCode.NONE:
            if batch.envelope is not None and result.error in _REFUSALS:
                refused, ended = self._queue.refuse(batch)
                self._fail([refused], result.error)
                for write in ended:
                    self._ended(write.on_appended, write.answer, ErrorCode.NONE)
                return
            log.warning("coordinator could not write", partition=self.partition.pid.index, error=result.error.name)
            self._fail(self._queue.fail_from(batch), result.error)
            return
        finished = []
        for write, records, is_last in self._queue.committed(batch):
            for record in records:
                self.machine.commit(write.sequence, record)
            if is_last:
                finished.append(write)
        for write in finished:
            self._ended(write.on_appended, write.answer, ErrorCode.NONE)
        self._arm()

    def _fail(self, writes: list[Write], code: ErrorCode) -> None:
        """Takes back everything first, newest first; then answers."""
        for write in writes:
            for record in reversed(write.staged):
                self.machine.roll_back(write.sequence, record)
        for write in writes:
            self._ended(write.on_appended, write.answer, code)
        self._arm()

    def _ended(
        self,
        on_appended: Callable[[ErrorCode], Outcome[None]] | None,
        answer: Answer | None,
        code: ErrorCode,
    ) -> None:
        if answer is not None:
            answer(code)
        if on_appended is not None:
            self._guarded(partial(self._follow, partial(on_appended, code)))

    def _follow(self, action: Callable[[], Outcome[None]]) -> None:
        """Carries out what nobody waits for, and writes what comes of it."""
        outcome = action()
        if self.state is ShardState.ACTIVE:
            self._submit(outcome, None)

    def _guarded(self, action: Callable[[], None]) -> None:
        """A mistake of ours in one group must not stop the timers and answers of all others."""
        try:
            action()
        except Exception as error:
            log.error("coordinator failed", partition=self.partition.pid.index, error=error)

    def _give_up_waiting(self, batch: Batch) -> None:
        """offsets.commit.timeout.ms is over: the clients are told to try again.

        The batch itself may still be committed.
        """
        for write, _ in batch.parts:
            answer, write.answer = write.answer, None
            if answer is not None:
                answer(ErrorCode.REQUEST_TIMED_OUT)

    # -- time

    def _now_ms(self) -> int:
        return int(self._clock.monotonic() * 1000)

    def _arm(self) -> None:
        """Sets the one alarm on the clock to the earliest timer."""
        deadline_ms = self._timers.next_deadline_ms()
        if deadline_ms is None or self.state is not ShardState.ACTIVE:
            return
        if self._alarm is not None:
            if self._alarm_ms <= deadline_ms:
                return
            self._alarm.cancel()
        self._alarm_ms = deadline_ms
        self._alarm = self._clock.call_later(max(deadline_ms - self._now_ms(), 0) / 1000 + 0.001, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        for _ in range(_TIMERS_PER_TURN):
            action = self._timers.pop_due()
            if action is None:
                break
            self._guarded(partial(self._follow, action))
        self._arm()


_REFUSALS = frozenset(
    {
        ErrorCode.INVALID_PRODUCER_EPOCH,
        ErrorCode.INVALID_TXN_STATE,
        ErrorCode.TRANSACTION_COORDINATOR_FENCED,
        ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
    }
)
"""What the producer state of a log answers to a batch that it does not take. Nothing else is touched by that."""


def _payload(batch: Batch, now_ms: int) -> bytearray:
    envelope = batch.envelope
    if envelope is None:
        return build_batch(batch.records, timestamp_ms=now_ms)
    return build_batch(
        batch.records,
        timestamp_ms=now_ms,
        producer_id=envelope.producer_id,
        producer_epoch=envelope.producer_epoch,
        transactional=True,
        control=envelope.is_control,
    )


def _origin(envelope: Envelope | None) -> Origin:
    return Origin.BUMPED_MARKER if envelope is not None and envelope.is_bumped else Origin.COORDINATOR


def _resolve(waiting: asyncio.Future[R], result: R) -> None:
    """Who waited may have gone with its connection."""
    if not waiting.done():
        waiting.set_result(result)
