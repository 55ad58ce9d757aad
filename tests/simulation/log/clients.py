"""The clients of a simulated log: producers of every kind, one that cheats, and readers. They behave as Kafka's
clients do.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from bytemq.broker.log.results import AppendResult, Fetched, Origin
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.records.batch import RecordBatch, split_batches
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.protocol.records.control import EndTransactionMarker, end_transaction_batch, parse_end_transaction
from bytemq.protocol.records.reader import iter_records
from tests.simulation.log.history import SentBatch

if TYPE_CHECKING:
    from tests.simulation.log.world import World

MAX_IN_FLIGHT = 5
REQUEST_TIMEOUT_S = 0.4
LOST_ANSWER = ErrorCode.REQUEST_TIMED_OUT


class Producer:
    """Keeps up to five batches in flight on one connection; when one fails, repeats what is unacknowledged in order."""

    def __init__(self, world: World, name: str, producer_id: int, batch_count: int) -> None:
        self.world = world
        self.name = name
        self.random = Random(f"{world.seed} {name}")
        self.producer_id = producer_id
        self.epoch = 0
        self.sequence = 0
        self.batch_count = batch_count
        self.sent: list[tuple[SentBatch, bytearray]] = []
        self._wire = asyncio.Lock()
        self._connection = 0

    @property
    def once(self) -> bool:
        return self.producer_id >= 0

    async def run(self) -> None:
        number = 0
        while number < self.batch_count:
            burst = min(self.random.randint(1, 12), self.batch_count - number)
            await self.deliver([self.next_batch(number + n) for n in range(burst)])
            number += burst
            await asyncio.sleep(self.random.choice((0, 0, 0.002, 0.02)))
            if self.once and self.random.random() < 0.5:
                await self._misbehave()

    async def deliver(self, batches: list[tuple[SentBatch, bytearray]]) -> None:
        """Return when all are acknowledged."""
        waiting = deque(batches)
        in_flight: deque[tuple[SentBatch, bytearray, asyncio.Task[AppendResult]]] = deque()
        while waiting or in_flight:
            while waiting and len(in_flight) < MAX_IN_FLIGHT:
                batch, payload = waiting.popleft()
                in_flight.append((batch, payload, asyncio.create_task(self.request(payload))))
            if self._acknowledged(in_flight[0][0], await in_flight[0][2], first=True):
                in_flight.popleft()
                continue
            failed = [
                (batch, payload)
                for number, (batch, payload, task) in enumerate(in_flight)
                if not self._acknowledged(batch, await task, first=number == 0)
            ]
            in_flight.clear()
            waiting.extendleft(reversed(failed))
            await asyncio.sleep(self.random.choice((0.001, 0.01, 0.1)))

    async def request(self, payload: bytearray, *, origin: Origin = Origin.CLIENT) -> AppendResult:
        """One request over the connection: in order, after a while. When the connection breaks, all behind it is
        lost.
        """
        connection = (self._connection, self.world.incarnation)
        async with self._wire:
            await asyncio.sleep(self.random.choice((0, 0, 0.001, 0.004)))
        if connection != (self._connection, self.world.incarnation):
            return AppendResult(LOST_ANSWER)
        result = await self.world.send(payload, origin=origin)
        if result.error in (LOST_ANSWER, ErrorCode.NOT_LEADER_OR_FOLLOWER):
            self._connection += 1
        return result

    def _acknowledged(self, batch: SentBatch, result: AppendResult, *, first: bool) -> bool:
        if result.error is ErrorCode.NONE:
            self.world.history.acknowledged(batch, result.base_offset)
            return True
        self.world.history.note(f"{self.name} #{batch.number} answered {result.error.name}")
        waits_for_predecessor = result.error is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER and not first
        if not (result.error.retriable or waits_for_predecessor):
            raise self.world.history.broken(f"{self.name} #{batch.number} was refused: {result.error.name}")
        return False

    def next_batch(self, number: int, *, transaction: str = "") -> tuple[SentBatch, bytearray]:
        values = [b"%s %d.%d" % (self.name.encode(), number, n) for n in range(self.random.randint(1, 3))]
        batch = SentBatch(self.name, number, values, self.once, transaction)
        payload = self.payload(values, self.sequence if self.once else -1, transactional=bool(transaction))
        self.sequence += len(values)
        self.world.history.sent(batch)
        self.sent.append((batch, payload))
        return batch, payload

    def payload(self, values: list[bytes], sequence: int, *, transactional: bool = False) -> bytearray:
        return build_batch(
            [Record(None, value) for value in values],
            timestamp_ms=self.world.clock.wall_ms(),
            producer_id=self.producer_id,
            producer_epoch=self.epoch if self.once else -1,
            base_sequence=sequence,
            transactional=transactional,
        )

    async def _misbehave(self) -> None:
        """A network that repeats what was answered, or a program that reuses a sequence for something else."""
        acknowledged = [(batch, payload) for batch, payload in self.sent[-3:] if batch.base_offset >= 0]
        if not acknowledged:
            return
        batch, payload = self.random.choice(acknowledged)
        if self.random.random() < 0.5:
            result = await self.request(payload)
            if result.error is ErrorCode.NONE:
                self.world.history.acknowledged(batch, result.base_offset)
        else:
            first_sequence = int.from_bytes(payload[53:57], "big")
            result = await self.request(self.payload([b"impostor"] * len(batch.values), first_sequence))
            self.world.history.impostor_answered(self.name, result.base_offset)


class TransactionalProducer(Producer):
    """Writes in transactions, and plays their coordinator: each ends with a marker that commits or aborts."""

    async def run(self) -> None:
        number = 0
        for transaction_number in range(self.batch_count // 3):
            transaction = f"{self.name} transaction {transaction_number}"
            size = self.random.randint(1, 4)
            await self.deliver([self.next_batch(number + n, transaction=transaction) for n in range(size)])
            number += size
            commit = self.random.random() < 0.6
            if commit:
                self.world.history.committed.add(transaction)
            await self._end(transaction, commit)
            if self.random.random() < 0.5:  # transaction version 2: a new epoch, sequences from 0
                self.epoch += 1
                self.sequence = 0
            await asyncio.sleep(self.random.choice((0, 0.005)))

    async def _end(self, transaction: str, commit: bool) -> None:
        marker = EndTransactionMarker(commit, 1)
        while True:
            payload = end_transaction_batch(
                marker,
                producer_id=self.producer_id,
                producer_epoch=self.epoch,
                timestamp_ms=self.world.clock.wall_ms(),
            )
            result = await self.request(payload, origin=Origin.COORDINATOR)
            if result.error is ErrorCode.NONE:
                self.world.history.markers.add(transaction)
                self.world.history.note(f"{transaction} {'committed' if commit else 'aborted'}")
                return
            if not result.error.retriable:
                raise self.world.history.broken(f"the marker of {transaction} was refused: {result.error.name}")
            await asyncio.sleep(self.random.choice((0.001, 0.05)))


class Reader:
    """Reads from the log start on, for ever, and tells the history everything."""

    def __init__(self, world: World, name: str, isolation: int) -> None:
        self.world = world
        self.name = name
        self.isolation = isolation
        self.random = Random(f"{world.seed} {name}")
        self.position = 0

    async def run(self) -> None:
        while True:
            await self.read_once()
            await asyncio.sleep(self.random.choice((0.001, 0.01, 0.04)))

    async def read_once(self) -> bool:
        """Whether there may be more."""
        partition = self.world.partition
        if partition is None:
            return True
        max_bytes = self.random.choice((1, 300, 10_000))
        cached = self.random.random() < 0.5
        fetched = partition.read_cached(self.position, max_bytes, isolation=self.isolation) if cached else None
        if fetched is None:
            fetched = await partition.read(self.position, max_bytes, isolation=self.isolation)
        if partition is not self.world.partition:
            return True  # the broker died before it could answer
        if fetched.error is ErrorCode.OFFSET_OUT_OF_RANGE:
            if self.position > fetched.high_watermark:
                raise self.world.history.broken(f"{self.name} at {self.position} is beyond the log")
            self.position = fetched.log_start_offset
            return True
        if fetched.error is not ErrorCode.NONE:
            return True
        history = self.world.history
        history.watermarks(fetched.log_start_offset, fetched.last_stable_offset, fetched.high_watermark)
        self._take(fetched)
        return fetched.size_bytes > 0

    def _take(self, fetched: Fetched) -> None:
        aborted = sorted(fetched.aborted or (), key=lambda transaction: transaction[1])
        aborting: set[int] = set()
        for batch in (batch for buffer in fetched.buffers for batch in split_batches(memoryview(buffer))):
            while aborted and aborted[0][1] <= batch.last_offset:
                aborting.add(aborted.pop(0)[0])
            for record in iter_records(batch):
                value = record.value if record.value is not None else b""
                skipped = self._is_skipped(batch, aborting)
                if record.offset >= self.position and not skipped:
                    self.world.history.read(record.offset, value, committed_only=self.isolation == 1)
                marker = parse_end_transaction(record) if batch.is_control else None
                if marker is not None and not marker.committed:
                    aborting.discard(batch.producer_id)
            self.position = max(self.position, batch.next_offset)

    def _is_skipped(self, batch: RecordBatch, aborting: set[int]) -> bool:
        return batch.is_transactional and not batch.is_control and batch.producer_id in aborting


class LetIn:
    """A transaction guard whose coordinator knows of every partition."""

    def check(self, *_: object) -> ErrorCode:
        return ErrorCode.NONE


def answer_into(future: asyncio.Future[AppendResult]) -> Callable[[AppendResult], None]:
    """A `done` for one append. A second answer is a bug; one after the client gave up is not."""
    answered = False

    def done(result: AppendResult) -> None:
        nonlocal answered
        assert not answered, "answered twice"
        answered = True
        if not future.done():
            future.set_result(result)

    return done
