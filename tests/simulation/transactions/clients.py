"""Clients as in the world of whole brokers, whose requests go to the machine without bytes and brokers in between."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from bytemq.broker.coordinator.outcome import Outcome
from bytemq.broker.coordinator.transaction.adding import Writer
from bytemq.broker.coordinator.transaction.answers import answered
from bytemq.broker.coordinator.transaction.shard import TransactionShard
from bytemq.broker.coordinator.transaction.transaction import EPOCH_BUMP_VERSION, TopicPartition
from bytemq.metadata.topic_names import OFFSETS_TOPIC
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.add_offsets_to_txn import AddOffsetsToTxnRequest, AddOffsetsToTxnResponse
from bytemq.protocol.messages.add_partitions_to_txn import (
    AddPartitionsToTxnPartitionResult,
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnTopicResult,
)
from bytemq.protocol.messages.end_txn import EndTxnRequest, EndTxnResponse
from bytemq.protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from bytemq.protocol.messages.produce import (
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceResponse,
)
from bytemq.protocol.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
    TxnOffsetCommitResponsePartition,
    TxnOffsetCommitResponseTopic,
)
from bytemq.protocol.schema import Message
from tests.simulation.broker.network import Disconnected
from tests.simulation.broker.producers import Fenced, GroupMember, MustAbort, TransactionalClient, TransactionalProducer
from tests.simulation.transactions.coordinator import SETTINGS, Operation
from tests.simulation.transactions.participants import GROUP, INPUT
from tests.simulation.transactions.wire import Answer

if TYPE_CHECKING:
    from tests.simulation.transactions.world import World

_NO_MEMBER = GroupMember(GROUP, "", -1)


class DirectClient(TransactionalClient):
    """Asks the machine."""

    world: World  # type: ignore[assignment]

    def __init__(self, world: World, name: str, transactional_id: str, *, bumping: bool, timeout_ms: int) -> None:
        super().__init__(world, name, transactional_id, bumping=bumping, timeout_ms=timeout_ms)  # type: ignore[arg-type]
        self._initialised_at = 0.0
        world.newest[transactional_id] = self

    async def ask(
        self,
        request: Message,
        version: int,
        response_class: type[Any],
        *,
        at: TopicPartition | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        def deliver(answer: Answer[Any]) -> None:
            self._deliver(request, version, answer)

        answer = await self.world.wire.ask(deliver, lingers=isinstance(request, ProduceRequest))
        if answer is None:
            raise Disconnected
        return answer

    def _goes_on_with(self, producer_id: int, epoch: int) -> None:
        super()._goes_on_with(producer_id, epoch)
        self._initialised_at = self.world.loop.time()

    def _refused(self, code: ErrorCode, what: str) -> Exception:
        """A successor may have got another producer id, and who was away for long has lost its own."""
        has_expired = (self.world.loop.time() - self._initialised_at) * 1000 > SETTINGS.id_expiration_ms
        has_successor = self.world.newest[self.transactional_id] is not self
        if code is ErrorCode.INVALID_PRODUCER_ID_MAPPING and (has_successor or has_expired):
            return Fenced()
        return super()._refused(code, what)

    def _deliver(self, request: Message, version: int, answer: Answer[Any]) -> None:
        match request:
            case ProduceRequest():
                self._produce(request, answer)
            case TxnOffsetCommitRequest():
                self._commit_offsets(request, answer)
            case InitProducerIdRequest():
                self._coordinate(
                    lambda machine, new_id: machine.initialising.initialise(request, new_id),
                    lambda code: InitProducerIdResponse(error_code=answered(code, version, 4)),
                    answer,
                )
            case EndTxnRequest():
                client_version = EPOCH_BUMP_VERSION if self.bumping else 0
                self._coordinate(
                    lambda machine, new_id: machine.ending.end(request, client_version, new_id),
                    lambda code: EndTxnResponse(error_code=answered(code, version, 2)),
                    answer,
                )
            case AddOffsetsToTxnRequest():
                self._take_part(
                    (OFFSETS_TOPIC, 0),
                    lambda code: AddOffsetsToTxnResponse(error_code=answered(code, version, 2)),
                    answer,
                )
            case AddPartitionsToTxnRequest():
                [topic] = request.v3_and_below_topics
                place = (topic.name, topic.partitions[0])
                self._take_part(place, lambda code: _added(place, answered(code, version, 2)), answer)

    def _coordinate(self, operation: Operation, refuse: Any, answer: Answer[Any]) -> None:
        def ended(code: ErrorCode | None, response: Any) -> None:
            answer(response if code is None or code is ErrorCode.NONE else refuse(code))

        self.world.coordinator.write(operation, ended)

    def _take_part(self, place: TopicPartition, answered_with: Any, answer: Answer[Any]) -> None:
        writer = Writer(self.transactional_id, self.producer_id, self.epoch)

        def add(machine: TransactionShard, _: int | None) -> Outcome[Any]:
            return machine.adding.add(writer, [place], 0)._replace(response=answered_with(ErrorCode.NONE))

        self._coordinate(add, answered_with, answer)

    def _produce(self, request: ProduceRequest, answer: Answer[Any]) -> None:
        [topic] = request.topic_data
        [data] = topic.partition_data

        def done(code: ErrorCode, offset: int) -> None:
            partition = PartitionProduceResponse(index=data.index, error_code=code, base_offset=offset)
            lost = code is ErrorCode.NETWORK_EXCEPTION and offset < 0 and self.random.random() < 0.5
            answer(None if lost else ProduceResponse(responses=[TopicProduceResponse(partition_responses=[partition])]))

        participant = self.world.participants[topic.name, data.index]
        payload = cast(bytes, data.records)
        participant.produce(self.transactional_id, payload, implicit=self.bumping, done=done)

    def _commit_offsets(self, request: TxnOffsetCommitRequest, answer: Answer[Any]) -> None:
        def done(code: ErrorCode, _: int) -> None:
            topics = [
                TxnOffsetCommitResponseTopic(
                    topic.name,
                    topic.topic_id,
                    [TxnOffsetCommitResponsePartition(each.partition_index, code) for each in topic.partitions],
                )
                for topic in request.topics
            ]
            answer(TxnOffsetCommitResponse(topics=topics))

        self.world.group.commit_offsets(request, implicit=self.bumping, done=done)


class Program(TransactionalProducer):
    """Writes in transactions, and commits offsets of its input in some of them. `is_mortal`: it dies in the last one,
    and nobody comes after it.
    """

    instance_class = DirectClient
    world: World  # type: ignore[assignment]

    def __init__(self, world: World, name: str, partitions: list[TopicPartition], count: int, *, bumping: bool) -> None:
        super().__init__(world, name, partitions, count, bumping=bumping)  # type: ignore[arg-type]
        self.is_mortal = self.random.random() < 0.3

    async def _transaction(self, client: TransactionalClient) -> None:
        await super()._transaction(client)
        if client.attempt.committed:
            for index, offset in client.attempt.offsets.items():
                self.history.offset_committed(GROUP, index, offset)
            self.world.group.look()

    async def _write(self, client: TransactionalClient) -> None:
        if self.random.random() < 0.8:
            await super()._write(client)
        if self.random.random() < 0.4:
            self.world.offset += 1
            index, offset = int(self.name[-1]), self.world.offset
            self.world.attempts_by_offset[offset] = client.attempt
            self.history.committing(GROUP, index, offset)
            await client.send_offsets(_NO_MEMBER, INPUT, {index: offset})

    async def _tidy_up(self) -> None:
        if not self.is_mortal:
            await super()._tidy_up()
            return
        client = self._new_instance()
        with suppress(Fenced, MustAbort):
            await client.initialise()
            client.begin()
            await self._write(client)


def _added(place: TopicPartition, code: ErrorCode) -> AddPartitionsToTxnResponse:
    partition = AddPartitionsToTxnPartitionResult(place[1], code)
    return AddPartitionsToTxnResponse(
        results_by_topic_v3_and_below=[AddPartitionsToTxnTopicResult(place[0], [partition])]
    )
