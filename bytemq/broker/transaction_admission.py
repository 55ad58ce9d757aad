"""Whether a transactional batch may enter a partition: asked of the transaction coordinator before the first one of a
transaction, and kept in order meanwhile (KIP-890).

Owns: the batches that wait for that answer, by partition and producer, in the order in which they came, and what is
asked together. Clients before Produce v12 add partitions themselves, so theirs are only verified; later ones leave it
to this broker, which adds them. Must not: append, or decide about transactions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from bytemq.broker.coordinator.transaction.adding import Writer
from bytemq.broker.coordinator.transaction.transaction import EPOCH_BUMP_VERSION, TopicPartition
from bytemq.broker.coordinator.transaction_coordinators import TransactionCoordinators
from bytemq.broker.log.producer_state import Producer
from bytemq.config import BrokerConfig
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.records.batch import RecordBatch
from bytemq.runtime.clock import Clock
from bytemq.runtime.tasks import Supervisor

Answered = Callable[[ErrorCode], None]


class Arrival(NamedTuple):
    """A batch before a closed door. `implicit`: the client leaves it to the broker to add the partition.

    `append` is called with what to call when the append has ended, `refuse` with the reason; one of them, once.
    """

    writer: Writer
    partition: TopicPartition
    implicit: bool
    append: Callable[[Callable[[], None]], None]
    refuse: Answered


_Door = tuple[TopicPartition, int, int]
"""A partition, and the producer id and epoch that want to write there."""


class _Addition:
    """The partitions to add for one writer, with those who wait: next to be asked, and being asked now."""

    __slots__ = ("asking", "next")

    def __init__(self) -> None:
        self.next: dict[TopicPartition, list[Answered]] = {}
        self.asking = False


class TransactionAdmission:
    """Also the log's TransactionGuard: what was not let in here is refused there."""

    def __init__(
        self,
        coordinators: TransactionCoordinators,
        config: Callable[[], BrokerConfig],
        clock: Clock,
        supervisor: Supervisor,
    ) -> None:
        self._coordinators = coordinators
        self._config = config
        self._clock = clock
        self._supervisor = supervisor
        self._waiting: dict[_Door, list[Arrival]] = {}
        self._inside: dict[_Door, tuple[str, int]] = {}
        self._additions: dict[Writer, _Addition] = {}

    # -- for Produce

    def enter(self, arrival: Arrival) -> None:
        """Appends the batch, or refuses it, in its turn."""
        door = (arrival.partition, arrival.writer.producer_id, arrival.writer.producer_epoch)
        waiting = self._waiting.get(door)
        if waiting is not None:
            waiting.append(arrival)
            return
        self._waiting[door] = [arrival]
        self.ask(arrival.writer, arrival.partition, arrival.implicit, partial(self._answered, door))

    def _answered(self, door: _Door, code: ErrorCode) -> None:
        for arrival in self._waiting.pop(door):
            if code is ErrorCode.NONE:
                transactional_id, count = self._inside.get(door, (arrival.writer.transactional_id, 0))
                self._inside[door] = (transactional_id, count + 1)
                arrival.append(partial(self._left, door))
            else:
                arrival.refuse(code)

    def _left(self, door: _Door) -> None:
        transactional_id, count = self._inside[door]
        if count > 1:
            self._inside[door] = (transactional_id, count - 1)
        else:
            del self._inside[door]

    # -- for the log

    def check(self, topic: str, index: int, batch: RecordBatch, producer: Producer | None) -> ErrorCode:
        """TransactionGuard: once more in the turn in which the batch gets its offset, because a transaction may end
        while a batch is being converted.
        """
        inside = self._inside.get(((topic, index), batch.producer_id, batch.producer_epoch))
        if inside is None:
            return ErrorCode.INVALID_TXN_STATE
        writer = Writer(inside[0], batch.producer_id, batch.producer_epoch)
        return ErrorCode.NONE if not self._verifies else self.verify(writer, (topic, index))

    # -- for whoever writes in a transaction

    def ask(self, writer: Writer, partition: TopicPartition, implicit: bool, answered: Answered) -> None:
        """Calls `answered` once, maybe before this returns, with the coordinator's code."""
        if implicit:
            self._additions.setdefault(writer, _Addition()).next.setdefault(partition, []).append(answered)
            self._ask_to_add(writer)
        else:
            answered(self.verify(writer, partition) if self._verifies else ErrorCode.NONE)

    def verify(self, writer: Writer, partition: TopicPartition) -> ErrorCode:
        """Whether the partition takes part now. On this broker the coordinator's state can be asked at once."""
        try:
            shard = self._coordinators.shard_of(writer.transactional_id)
            return shard.call(lambda machine: machine.adding.verify(writer, [partition]))[partition]
        except KafkaError as error:
            return error.code

    @property
    def _verifies(self) -> bool:
        return self._config().transaction_partition_verification_enable

    def _ask_to_add(self, writer: Writer) -> None:
        addition = self._additions[writer]
        if not addition.asking:
            addition.asking = True
            self._supervisor.start("add partitions to a transaction", self._add(writer, addition))

    async def _add(self, writer: Writer, addition: _Addition) -> None:
        """Everything that one request, or several, want to write to is added with one record."""
        while addition.next:
            asked, addition.next = addition.next, {}
            code = await self._add_now(writer, list(asked))
            for waiting in asked.values():
                for answered in waiting:
                    answered(code)
        del self._additions[writer]

    async def _add_now(self, writer: Writer, partitions: list[TopicPartition]) -> ErrorCode:
        """While the transaction before is not complete, which it usually is soon, the batches rather wait here."""
        config = self._config()
        give_up_at = self._clock.monotonic() + config.add_partitions_to_txn_retry_backoff_max_ms / 1000
        while True:
            try:
                shard = self._coordinators.shard_of(writer.transactional_id)
                await shard.write(lambda machine: machine.adding.add(writer, partitions, EPOCH_BUMP_VERSION))
                return ErrorCode.NONE
            except KafkaError as error:
                if error.code is not ErrorCode.CONCURRENT_TRANSACTIONS or self._clock.monotonic() >= give_up_at:
                    return error.code
            await self._clock.sleep(config.add_partitions_to_txn_retry_backoff_ms / 1000)


_RETRIED_AS_NOT_ENOUGH_REPLICAS = frozenset(
    {
        ErrorCode.NETWORK_EXCEPTION,
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode.COORDINATOR_NOT_AVAILABLE,
        ErrorCode.NOT_COORDINATOR,
    }
)


def refusal(code: ErrorCode, *, implicit: bool, knows_abortable: bool) -> ErrorCode:
    """The coordinator's code as a producer's request is answered. Old clients give up where they do not know a code,
    and older ones refresh their metadata needlessly; NOT_ENOUGH_REPLICAS makes all of them ask again.
    """
    if code is ErrorCode.PRODUCER_FENCED:
        return ErrorCode.INVALID_PRODUCER_EPOCH
    if code is ErrorCode.TRANSACTION_ABORTABLE and not knows_abortable:
        return ErrorCode.INVALID_TXN_STATE
    if code in _RETRIED_AS_NOT_ENOUGH_REPLICAS or (code is ErrorCode.CONCURRENT_TRANSACTIONS and not implicit):
        return ErrorCode.NOT_ENOUGH_REPLICAS
    return code
