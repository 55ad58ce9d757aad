"""What takes part in transactions: logs whose owners die and whose flushes fail. Their producers, their markers and
what lets a batch in are the broker's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from bytemq.broker.coordinator.group.environment import GroupSettings, RequestOrigin
from bytemq.broker.coordinator.group.shard import GroupShard
from bytemq.broker.coordinator.marker_writer import Marker, Written
from bytemq.broker.coordinator.outcome import CoordinatorRecord, Envelope
from bytemq.broker.coordinator.timers import TimerQueue
from bytemq.broker.coordinator.transaction.adding import Writer
from bytemq.broker.coordinator.transaction.transaction import TopicPartition
from bytemq.broker.coordinator.transaction_coordinators import TransactionCoordinators
from bytemq.broker.log.producer_budget import ProducerBudget
from bytemq.broker.log.state import Duplicate, LogState, PendingAppend
from bytemq.broker.transaction_admission import Arrival, TransactionAdmission, refusal
from bytemq.config import BrokerConfig
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.offset_fetch import OffsetFetchRequestGroup, OffsetFetchRequestTopics
from bytemq.protocol.messages.txn_offset_commit import TxnOffsetCommitRequest
from bytemq.protocol.records.batch import RecordBatch, parse_header
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.protocol.records.control import EndTransactionMarker, end_transaction_batch, parse_end_transaction
from bytemq.protocol.records.reader import iter_records
from bytemq.runtime.tasks import Supervisor

if TYPE_CHECKING:
    from tests.simulation.transactions.world import World

CONFIG = BrokerConfig()
GROUP, INPUT = "g", "in"
FLUSH_S = (0.0, 0.001, 0.001, 0.01)
Done = Callable[[ErrorCode, int], None]
"""With a code, and the offset."""


class _Flight(NamedTuple):
    append: PendingAppend[Done]
    batch: RecordBatch
    done: Done


class _LateMarker(NamedTuple):
    marker: Marker
    written: Written


class Nowhere:
    """The coordinator of every transaction is on another broker."""

    def shard_if_owned(self, transactional_id: str) -> None:
        return None

    async def awaited_shard_of(self, transactional_id: str) -> Any:
        raise KafkaError(ErrorCode.NOT_COORDINATOR)


class Starter:
    """A supervisor of tasks that do not fail."""

    def __init__(self, world: World) -> None:
        self._world = world

    def start(self, name: str, work: Any) -> None:
        self._world.start(work)


class Participant:
    """A partition with records. `log` is what is durable; an owner finds it, and nothing else."""

    def __init__(self, world: World, place: TopicPartition) -> None:
        self.world = world
        self.place = place
        self.log: list[tuple[RecordBatch, list[bytes]]] = []
        self._looked_to = 0
        """What is stable below was looked at."""
        self._life = 0
        self.flights: list[_Flight] = []
        self._late: list[_LateMarker] = []
        self.open()

    # -- life

    def open(self) -> None:
        end = self.log[-1][0].next_offset if self.log else 0
        self.state: LogState[Done] = LogState(0, end, ProducerBudget())
        for batch, _ in self.log:
            self.state.producers.replay(batch, _marker_in(batch), self.world.clock.wall_ms())
        self.admission = TransactionAdmission(
            cast(TransactionCoordinators, Nowhere()),
            self.world.wire,
            lambda: CONFIG,
            self.world.clock,
            cast(Supervisor, Starter(self.world)),
        )

    def crash(self) -> None:
        """Another owner comes, and finds some of what nobody was told."""
        kept = self.world.random.randint(0, len(self.flights))
        for flight in self.flights[:kept]:
            self._keep(flight)
        self.world.history.note(f"{self.place} has a new owner, {kept} of {len(self.flights)} appends are durable")
        flights, self.flights = self.flights, []
        self._life += 1
        self.open()
        for flight in flights:
            flight.done(ErrorCode.NETWORK_EXCEPTION, -1)
        self.look()

    # -- what is asked of it

    def produce(self, transactional_id: str, payload: bytes, *, implicit: bool, done: Done) -> None:
        batch = parse_header(memoryview(bytearray(payload)))
        known = self.state.producers.get(batch.producer_id)
        if known is not None and known.admits(batch):
            self._append(batch, done)
        else:
            writer = Writer(transactional_id, batch.producer_id, batch.producer_epoch)
            self._enter(writer, implicit, done, lambda: self._append(batch, done))

    def write_marker(self, marker: Marker, written: Written) -> None:
        end = EndTransactionMarker(marker.committed, marker.coordinator_epoch)
        payload = end_transaction_batch(
            end,
            producer_id=marker.producer_id,
            producer_epoch=marker.producer_epoch,
            timestamp_ms=self.world.clock.wall_ms(),
        )
        self.admission.marker_comes(self.place, marker.producer_id)
        batch = parse_header(memoryview(payload))
        self._append(batch, lambda code, _: written(code), marker=end, is_bumped=marker.is_bumped)

    def write_marker_late(self, marker: Marker, written: Written, within_s: float) -> None:
        """In the worst moment, if that comes by then: when its producer has begun the next transaction."""
        late = _LateMarker(marker, written)
        self._late.append(late)
        self.world.loop.call_later(within_s, self._arrives, late)

    def _arrives(self, late: _LateMarker) -> None:
        if late in self._late:
            self._late.remove(late)
            self.write_marker(late.marker, late.written)

    def _enter(self, writer: Writer, implicit: bool, done: Done, append: Callable[[], object]) -> None:
        """Asks the coordinator first."""
        life = self._life

        def refuse(code: ErrorCode) -> None:
            done(refusal(code, implicit=implicit, knows_abortable=True), -1)

        def enter(leave: Callable[[], None]) -> None:
            if life != self._life:
                done(ErrorCode.NETWORK_EXCEPTION, -1)
                return
            code = self.admission.is_inside((self.place, writer.producer_id, writer.producer_epoch))
            if code is ErrorCode.NONE:
                append()
            else:
                refuse(code)
            leave()

        self.admission.enter(Arrival(writer, self.place, implicit, enter, refuse))

    # -- the log

    def _append(
        self,
        batch: RecordBatch,
        done: Done,
        *,
        marker: EndTransactionMarker | None = None,
        sequenced: bool = True,
        is_bumped: bool = False,
    ) -> bool:
        """Whether it is on its way; else it was answered."""
        try:
            prepared = self.state.prepare(
                batch, self.world.clock.wall_ms(), marker=marker, sequenced=sequenced, is_bumped=is_bumped
            )
        except KafkaError as error:
            done(error.code, -1)
            return False
        if isinstance(prepared, Duplicate):
            if prepared.original is None:
                done(ErrorCode.NONE, prepared.appended.base_offset)
            else:
                prepared.original.duplicates = [*(prepared.original.duplicates or ()), (prepared.appended, done)]
            return False
        batch.place(prepared.base_offset, self._life)
        self.flights.append(_Flight(prepared, batch, done))
        if len(self.flights) == 1:
            self.world.loop.call_later(self.world.random.choice(FLUSH_S), self._flushed, self._life)
        return True

    def _flushed(self, life: int) -> None:
        if life != self._life or not self.flights:
            return
        random, flights = self.world.random, self.flights
        fails = random.random() < self.world.sickness
        durable = random.randint(0, len(flights) - 1) if fails else len(flights)
        self.flights, failed = [], flights[durable:]
        for flight in flights[:durable]:
            self._keep(flight)
            self.state.commit(flight.append)
            self.committed(flight.batch)
            if self._late and not flight.batch.is_control:
                self._next_has_begun(flight.batch.producer_id)
        if failed:
            self.state.rollback()
        self.look()
        for flight in flights[:durable]:
            flight.done(ErrorCode.NONE, flight.append.base_offset)
            for appended, done in flight.append.duplicates or ():
                done(ErrorCode.NONE, appended.base_offset)
        for flight in failed:
            flight.done(ErrorCode.KAFKA_STORAGE_ERROR, -1)
            for _, done in flight.append.duplicates or ():
                done(ErrorCode.KAFKA_STORAGE_ERROR, -1)

    def _next_has_begun(self, producer_id: int) -> None:
        for late in self._late:
            if late.marker.producer_id == producer_id:
                self.world.wire.after_a_while(self._arrives, late)

    def _keep(self, flight: _Flight) -> None:
        is_data = not flight.batch.is_control
        self.log.append((flight.batch, [each.value or b"" for each in iter_records(flight.batch)] if is_data else []))

    def committed(self, batch: RecordBatch) -> None:
        """A batch is durable."""

    # -- what readers are given

    @property
    def is_open(self) -> bool:
        """A transaction is, or something is on its way."""
        return bool(self.flights) or self.state.last_stable_offset < self.state.high_watermark

    def look(self) -> None:
        """A reader of each isolation level, at every commit."""
        history, state = self.world.history, self.state
        end = state.last_stable_offset
        history.watermarks(self.place, (end, state.high_watermark), history.known_watermarks(self.place))
        start, self._looked_to = self._looked_to, max(end, self._looked_to)
        if end > start:
            for offset, value in self.visible(start, end):
                history.read(self.place, offset, value, committed_only=True)

    def visible(self, start: int, end: int) -> list[tuple[int, bytes]]:
        """What a read_committed consumer makes of a fetch."""
        aborted = sorted((first, producer) for producer, first in self.state.transactions.aborted_between(start, end))
        aborting: set[int] = set()
        found: list[tuple[int, bytes]] = []
        for batch, values in self.log:
            if batch.next_offset <= start or batch.base_offset >= end:
                continue
            while aborted and aborted[0][0] <= batch.last_offset:
                aborting.add(aborted.pop(0)[1])
            if not batch.is_control:
                if batch.producer_id not in aborting:
                    found += enumerate(values, batch.base_offset)
            elif (marker := _marker_in(batch)) is not None and not marker.committed:
                aborting.discard(batch.producer_id)
        return found


def _marker_in(batch: RecordBatch) -> EndTransactionMarker | None:
    return parse_end_transaction(next(iter(iter_records(batch)))) if batch.is_control else None


class GroupParticipant(Participant):
    """A partition of `__consumer_offsets`: the machine of its groups over the log."""

    def open(self) -> None:
        super().open()
        self.machine = GroupShard(GroupSettings(), TimerQueue(lambda: 0), self.world.clock.wall_ms, str)
        self._staged: dict[int, list[CoordinatorRecord]] = {}
        for batch, _ in self.log:
            envelope = Envelope(batch.producer_id, batch.producer_epoch, batch.is_control)
            self.machine.replay([(each.key, each.value) for each in iter_records(batch)], envelope)

    def commit_offsets(self, request: TxnOffsetCommitRequest, *, implicit: bool, done: Done) -> None:
        writer = Writer(request.transactional_id, request.producer_id, request.producer_epoch)
        self._enter(writer, implicit, done, partial(self._commit, request, done))

    def _commit(self, request: TxnOffsetCommitRequest, done: Done) -> None:
        try:
            outcome = self.machine.transactional.commit(request, RequestOrigin("c", "/127.0.0.1", 5))
        except KafkaError as error:
            done(error.code, -1)
            return
        payload = build_batch(
            [Record(each.encode_key(), each.encode_value()) for each in outcome.records],
            timestamp_ms=self.world.clock.wall_ms(),
            producer_id=request.producer_id,
            producer_epoch=request.producer_epoch,
            transactional=True,
        )
        batch = parse_header(memoryview(payload))

        def ended(code: ErrorCode, offset: int) -> None:
            if outcome.on_appended is not None:
                outcome.on_appended(code)
            done(code, offset)

        if self._append(batch, ended, sequenced=False):
            self._staged[batch.base_offset] = list(outcome.records)

    def write_marker(self, marker: Marker, written: Written) -> None:
        end = EndTransactionMarker(marker.committed, marker.coordinator_epoch)
        envelope = Envelope(marker.producer_id, marker.producer_epoch, True, marker.is_bumped)
        before = len(self.flights)
        super().write_marker(marker, written)
        if len(self.flights) > before:
            outcome = self.machine.transactional.end(envelope, end, lambda _: None)
            self._staged[self.flights[-1].batch.base_offset] = list(outcome.records)

    def committed(self, batch: RecordBatch) -> None:
        for record in self._staged.pop(batch.base_offset):
            self.machine.commit(0, record)

    @property
    def is_open(self) -> bool:
        return super().is_open or bool(self.machine.pending)

    def look(self) -> None:
        history = self.world.history
        history.watermarks(
            self.place,
            (self.state.last_stable_offset, self.state.high_watermark),
            history.known_watermarks(self.place),
        )
        for index, offset in self.stable_offsets().items():
            known = history.acknowledged_offsets.get((GROUP, index), -1)
            history.fetched_offset(GROUP, index, offset, known)
            if offset >= 0:
                history.offset_committed(GROUP, index, offset)

    def stable_offsets(self) -> dict[int, int]:
        """By partition of the input; those that an open transaction may change are not among them."""
        topics = [OffsetFetchRequestTopics(name=INPUT, partition_indexes=self.world.inputs)]
        [topic] = self.machine.offsets.fetch(OffsetFetchRequestGroup(GROUP, topics=topics), require_stable=True)
        return {
            each.partition_index: each.committed_offset
            for each in topic.partitions
            if each.error_code == ErrorCode.NONE
        }
