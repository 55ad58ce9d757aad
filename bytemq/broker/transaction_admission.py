"""Whether a transactional batch may enter a partition: asked of the transaction coordinator before the first one of a
transaction, and kept in order meanwhile (KIP-890).

Owns: the batches that wait for that answer, by partition and producer, in the order in which they came, and what is
asked together. Clients before Produce v12 add partitions themselves, so theirs are only verified; later ones leave it
to this broker, which adds them. The coordinator is asked here or over the network, wherever it is. Must not: append, or
decide about transactions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from bytemq.broker.coordinator.transaction.adding import Writer
from bytemq.broker.coordinator.transaction.transaction import EPOCH_BUMP_VERSION, TopicPartition
from bytemq.broker.coordinator.transaction_coordinators import TransactionCoordinators, TransactionRuntime
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


class RemoteCoordinator(Protocol):
    """The transaction coordinator of an id, wherever it is."""

    async def add(
        self, writer: Writer, partitions: Sequence[TopicPartition], *, verify_only: bool
    ) -> dict[TopicPartition, ErrorCode]:
        """AddPartitionsToTxn; a coordinator that cannot be asked answers an error for all."""


class _Inside(NamedTuple):
    """Batches that were let in and are not appended yet."""

    transactional_id: str
    batches: int
    marks: int


class _Question:
    """The partitions to ask about for one writer, with those who wait: next to be asked, and being asked now."""

    __slots__ = ("asking", "next")

    def __init__(self) -> None:
        self.next: dict[TopicPartition, list[Answered]] = {}
        self.asking = False


class _Marks:
    """How many markers of a producer came into a partition while somebody watched. An answer of the coordinator says
    nothing any more once a marker has come after the question: the transaction that it was about has ended.
    """

    def __init__(self) -> None:
        self._watched: dict[tuple[TopicPartition, int], tuple[int, int]] = {}
        """Watchers and markers."""

    def watch(self, partition: TopicPartition, producer_id: int) -> None:
        watchers, marks = self._watched.get((partition, producer_id), (0, 0))
        self._watched[partition, producer_id] = (watchers + 1, marks)

    def unwatch(self, partition: TopicPartition, producer_id: int) -> None:
        watchers, marks = self._watched.pop((partition, producer_id))
        if watchers > 1:
            self._watched[partition, producer_id] = (watchers - 1, marks)

    def add(self, partition: TopicPartition, producer_id: int) -> None:
        watched = self._watched.get((partition, producer_id))
        if watched is not None:
            self._watched[partition, producer_id] = (watched[0], watched[1] + 1)

    def count(self, partition: TopicPartition, producer_id: int) -> int:
        return self._watched.get((partition, producer_id), (0, 0))[1]


class TransactionAdmission:
    """Also the log's TransactionGuard: what was not let in here is refused there."""

    def __init__(
        self,
        coordinators: TransactionCoordinators,
        remote: RemoteCoordinator,
        config: Callable[[], BrokerConfig],
        clock: Clock,
        supervisor: Supervisor,
    ) -> None:
        self._coordinators = coordinators
        self._remote = remote
        self._config = config
        self._clock = clock
        self._supervisor = supervisor
        self._waiting: dict[_Door, list[Arrival]] = {}
        self._inside: dict[_Door, _Inside] = {}
        self._questions: dict[tuple[Writer, bool], _Question] = {}
        self._marks = _Marks()

    # -- for whoever writes in a transaction

    def enter(self, arrival: Arrival) -> None:
        """Appends the batch, or refuses it, in its turn."""
        door = (arrival.partition, arrival.writer.producer_id, arrival.writer.producer_epoch)
        waiting = self._waiting.get(door)
        if waiting is not None:
            waiting.append(arrival)
            return
        self._waiting[door] = [arrival]
        self._marks.watch(*door[:2])
        self._ask(arrival.writer, arrival.partition, arrival.implicit, partial(self._answered, door))

    def _answered(self, door: _Door, code: ErrorCode) -> None:
        inside = self._inside.get(door)
        if code is ErrorCode.NONE and inside is not None and inside.marks != self._marks.count(*door[:2]):
            # What was let in for a transaction that has ended since is still on its way, and must stay out of this one.
            code = ErrorCode.CONCURRENT_TRANSACTIONS
        for arrival in self._waiting.pop(door):
            if code is ErrorCode.NONE:
                inside = self._inside.get(door)
                count = 1 if inside is None else inside.batches + 1
                self._inside[door] = _Inside(arrival.writer.transactional_id, count, self._marks.count(*door[:2]))
                self._marks.watch(*door[:2])
                arrival.append(partial(self._left, door))
            else:
                arrival.refuse(code)
        self._marks.unwatch(*door[:2])

    def _left(self, door: _Door) -> None:
        inside = self._inside[door]
        self._marks.unwatch(*door[:2])
        if inside.batches > 1:
            self._inside[door] = inside._replace(batches=inside.batches - 1)
        else:
            del self._inside[door]

    # -- for the log and the group coordinator

    def check(self, topic: str, index: int, batch: RecordBatch, producer: Producer | None) -> ErrorCode:
        """TransactionGuard."""
        return self.is_inside(((topic, index), batch.producer_id, batch.producer_epoch))

    def is_inside(self, door: _Door) -> ErrorCode:
        """Once more in the turn in which a batch gets its offset, because a transaction may end while a batch is being
        converted. On this broker the coordinator's state can be asked at once.
        """
        inside = self._inside.get(door)
        if inside is None or inside.marks != self._marks.count(*door[:2]):
            return ErrorCode.INVALID_TXN_STATE
        writer = Writer(inside.transactional_id, *door[1:])
        shard = self._coordinators.shard_if_owned(writer.transactional_id)
        if shard is None or not self._verifies:
            return ErrorCode.NONE
        return self._verified_by(shard, writer, [door[0]])[door[0]]

    def marker_comes(self, partition: TopicPartition, producer_id: int) -> None:
        """A marker is about to be appended: what was let in for the transaction that it ends must stay out."""
        self._marks.add(partition, producer_id)

    # -- asking

    def _ask(self, writer: Writer, partition: TopicPartition, implicit: bool, answered: Answered) -> None:
        """Calls `answered` once, maybe before this returns, with the coordinator's code."""
        if not implicit:
            if not self._verifies:
                answered(ErrorCode.NONE)
                return
            shard = self._coordinators.shard_if_owned(writer.transactional_id)
            if shard is not None and shard.is_active:
                answered(self._verified_by(shard, writer, [partition])[partition])
                return
        question = self._questions.setdefault((writer, implicit), _Question())
        question.next.setdefault(partition, []).append(answered)
        if not question.asking:
            question.asking = True
            self._supervisor.start("ask a transaction coordinator", self._work_on(writer, implicit, question))

    @property
    def _verifies(self) -> bool:
        return self._config().transaction_partition_verification_enable

    async def _work_on(self, writer: Writer, implicit: bool, question: _Question) -> None:
        """Everything that one request, or several, want to write to is asked for at once."""
        while question.next:
            asked, question.next = question.next, {}
            codes = await self._patiently(writer, list(asked), implicit)
            for partition, waiting in asked.items():
                for answered in waiting:
                    answered(codes[partition])
        del self._questions[writer, implicit]

    async def _patiently(
        self, writer: Writer, partitions: list[TopicPartition], implicit: bool
    ) -> dict[TopicPartition, ErrorCode]:
        """While the transaction before is not complete, which it usually is soon, the batches rather wait here."""
        config = self._config()
        give_up_at = self._clock.monotonic() + config.add_partitions_to_txn_retry_backoff_max_ms / 1000
        while True:
            marks = self._marks_of(writer, partitions)
            codes = await self._asked(writer, partitions, implicit)
            came = {one for one, count in self._marks_of(writer, partitions).items() if count != marks[one]}
            codes.update((one, ErrorCode.CONCURRENT_TRANSACTIONS) for one in came if codes[one] is ErrorCode.NONE)
            waits = came or (implicit and ErrorCode.CONCURRENT_TRANSACTIONS in codes.values())
            if not waits or self._clock.monotonic() >= give_up_at:
                return codes
            await self._clock.sleep(config.add_partitions_to_txn_retry_backoff_ms / 1000)

    async def _asked(
        self, writer: Writer, partitions: list[TopicPartition], implicit: bool
    ) -> dict[TopicPartition, ErrorCode]:
        try:
            shard = await self._coordinators.awaited_shard_of(writer.transactional_id)
        except KafkaError as error:
            if error.code is not ErrorCode.NOT_COORDINATOR:
                return dict.fromkeys(partitions, error.code)
            return await self._remote.add(writer, partitions, verify_only=not implicit)
        if not implicit:
            return self._verified_by(shard, writer, partitions)
        try:
            await shard.write(lambda machine: machine.adding.add(writer, partitions, EPOCH_BUMP_VERSION))
        except KafkaError as error:
            return dict.fromkeys(partitions, error.code)
        return dict.fromkeys(partitions, ErrorCode.NONE)

    def _verified_by(
        self, shard: TransactionRuntime, writer: Writer, partitions: list[TopicPartition]
    ) -> dict[TopicPartition, ErrorCode]:
        try:
            return shard.call(lambda machine: machine.adding.verify(writer, partitions))
        except KafkaError as error:
            return dict.fromkeys(partitions, error.code)

    def _marks_of(self, writer: Writer, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {partition: self._marks.count(partition, writer.producer_id) for partition in partitions}


_RETRIED_AS_NOT_ENOUGH_REPLICAS = frozenset(
    {
        ErrorCode.NETWORK_EXCEPTION,
        ErrorCode.BROKER_NOT_AVAILABLE,
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
