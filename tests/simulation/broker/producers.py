"""Producers as Kafka's clients are: idempotent ones with up to five requests in flight, transactional ones by the old
flow and by transaction version 2 (KIP-98, KIP-360, KIP-890).
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from bytemq.metadata.topic_names import OFFSETS_TOPIC, TRANSACTION_TOPIC
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.add_offsets_to_txn import AddOffsetsToTxnRequest, AddOffsetsToTxnResponse
from bytemq.protocol.messages.add_partitions_to_txn import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnTopic,
)
from bytemq.protocol.messages.end_txn import EndTxnRequest, EndTxnResponse
from bytemq.protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from bytemq.protocol.messages.produce import (
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
)
from bytemq.protocol.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
    TxnOffsetCommitResponse,
)
from bytemq.protocol.records.builder import Record, build_batch
from tests.simulation.broker.client import COORDINATOR_AWAY, FENCED, Client
from tests.simulation.broker.history import Attempt, Sent, TopicPartition
from tests.simulation.broker.network import Disconnected

if TYPE_CHECKING:
    from tests.simulation.broker.node import Node
    from tests.simulation.broker.world import World

MAX_IN_FLIGHT = 5
_ON_THE_WAY_MS = 200
"""How much sooner than the client a broker gives up."""


class Fenced(Exception):
    """Somebody else goes on under this transactional id."""


class MustAbort(Exception):
    """This transaction cannot commit any more."""


class GroupMember(NamedTuple):
    """In whose name offsets are committed (KIP-447)."""

    group_id: str
    member_id: str
    generation: int


class IdempotentProducer(Client):
    """Writes bursts into each of its partitions; when one batch fails, repeats what is unacknowledged, in order."""

    def __init__(self, world: World, name: str, partitions: list[TopicPartition], batch_count: int) -> None:
        super().__init__(world, name)
        self.partitions = partitions
        self.batch_count = batch_count
        self.producer_id = -1

    async def run(self) -> None:
        while self.producer_id < 0:
            answer = await self.insist(InitProducerIdRequest(None, 60_000), 4, InitProducerIdResponse)
            if answer.error_code == ErrorCode.NONE:
                self.producer_id = answer.producer_id
            else:
                await self.pause()
        await asyncio.gather(*(_PartitionWriter(self, partition).run() for partition in self.partitions))


class _PartitionWriter(Client):
    """What one producer sends to one partition, over a connection of its own: its order is what counts."""

    def __init__(self, producer: IdempotentProducer, partition: TopicPartition) -> None:
        super().__init__(producer.world, f"{producer.name}/{partition[0]}-{partition[1]}")
        self.producer = producer
        self.partition = partition
        self.sequence = 0
        self._owner: Node

    async def run(self) -> None:
        number = 0
        while number < self.producer.batch_count:
            burst = min(self.random.randint(1, 8), self.producer.batch_count - number)
            await self._deliver([self._next(number + n) for n in range(burst)])
            number += burst
            await self.idle()

    def _next(self, number: int) -> tuple[Sent, bytes]:
        values = [b"%s %d.%d" % (self.name.encode(), number, n) for n in range(self.random.randint(1, 3))]
        batch = Sent(self.name, self.partition, values)
        payload = payload_of(self.world, values, self.producer.producer_id, 0, self.sequence)
        self.sequence += len(values)
        self.history.sending(batch)
        return batch, payload

    async def _deliver(self, batches: list[tuple[Sent, bytes]]) -> None:
        """To one broker as long as anything is on its way: what was sent to the owner before comes before."""
        waiting = deque(batches)
        most = MAX_IN_FLIGHT
        in_flight: deque[tuple[Sent, bytes, asyncio.Task[ErrorCode]]] = deque()
        while waiting or in_flight:
            if not in_flight:
                await self.world.serving()
                self._owner = super()._node(self.partition)
            while waiting and len(in_flight) < most:
                batch, payload = waiting.popleft()
                in_flight.append((batch, payload, asyncio.create_task(self._send(batch, payload))))
            if await in_flight[0][2] is ErrorCode.NONE:
                in_flight.popleft()
                most = MAX_IN_FLIGHT
                continue
            failed = []
            for number, (batch, payload, task) in enumerate(in_flight):
                code = await task
                if code is ErrorCode.NONE:
                    continue
                follows_failure = code is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER and number > 0
                if not (code.retriable or follows_failure):
                    raise self.history.broken(f"{self.name}: {batch.values[0]!r} was refused: {code.name}")
                failed.append((batch, payload))
            in_flight.clear()
            waiting.extendleft(reversed(failed))
            most = self.random.choice((1, MAX_IN_FLIGHT))
            await self.pause()

    def _node(self, at: TopicPartition | None) -> Node:
        return self._owner if self._owner.serving else super()._node(at)

    async def _send(self, batch: Sent, payload: bytes) -> ErrorCode:
        return await produce(self, batch, payload, None, 9)


async def produce(client: Client, batch: Sent, payload: bytes, transactional_id: str | None, version: int) -> ErrorCode:
    """One Produce request. NETWORK_EXCEPTION when there is no answer."""
    topic, index = batch.partition
    data = [TopicProduceData(name=topic, partition_data=[PartitionProduceData(index, payload)])]
    timeout_ms = int(client.world.patience_s * 1000) - _ON_THE_WAY_MS
    request = ProduceRequest(transactional_id, -1, timeout_ms, data)
    try:
        answer = await client.ask(request, version, ProduceResponse, at=batch.partition)
    except Disconnected:
        return ErrorCode.NETWORK_EXCEPTION
    result: PartitionProduceResponse = answer.responses[0].partition_responses[0]
    code = ErrorCode(result.error_code)
    if code is ErrorCode.NONE:
        client.history.acknowledged(batch, result.base_offset)
    else:
        client.history.note(f"{client.name}: {batch.values[0]!r} answered {code.name}")
    return code


def payload_of(
    world: World, values: list[bytes], producer_id: int, epoch: int, sequence: int, *, transactional: bool = False
) -> bytes:
    return bytes(
        build_batch(
            [Record(None, value) for value in values],
            timestamp_ms=world.clock.wall_ms(),
            producer_id=producer_id,
            producer_epoch=epoch,
            base_sequence=sequence,
            transactional=transactional,
        )
    )


class TransactionalClient(Client):
    """Kafka's transactional producer, one instance of a process. `bumping`: transaction version 2."""

    def __init__(self, world: World, name: str, transactional_id: str, *, bumping: bool, timeout_ms: int) -> None:
        super().__init__(world, name)
        self.transactional_id = transactional_id
        self.bumping = bumping
        self.timeout_ms = timeout_ms
        self.producer_id = -1
        self.epoch = -1
        self.transactions = 0
        self.attempt = Attempt("")
        self._coordinator = world.place_of(TRANSACTION_TOPIC, transactional_id)
        self._sequences: dict[TopicPartition, int] = {}
        self._added: set[TopicPartition] = set()
        self._is_sequence_uncertain = False

    async def initialise(self) -> None:
        """Raises Fenced. With an id and epoch from before it goes on with the next epoch (KIP-360)."""
        request = InitProducerIdRequest(self.transactional_id, self.timeout_ms, self.producer_id, self.epoch)
        while True:
            answer = await self.insist(request, 5, InitProducerIdResponse, at=self._coordinator)
            code = ErrorCode(answer.error_code)
            if code is ErrorCode.NONE:
                break
            await self._again(code, "InitProducerId")
        self._goes_on_with(answer.producer_id, answer.producer_epoch)
        self.history.note(f"{self.name} has id {self.producer_id}, epoch {self.epoch}")

    def begin(self) -> Attempt:
        self.transactions += 1
        self.attempt = Attempt(f"{self.name}#{self.transactions}")
        self._added.clear()
        self.history.begin(self.attempt)
        return self.attempt

    async def send(self, partition: TopicPartition, values: list[bytes]) -> None:
        """Raises Fenced or MustAbort."""
        await self._add(partition)
        named = [b"%s|%s" % (value, self.attempt.name.encode()) for value in values]
        sequence = self._sequences.get(partition, 0)
        batch = Sent(self.name, partition, named, self.attempt)
        payload = payload_of(self.world, named, self.producer_id, self.epoch, sequence, transactional=True)
        self.history.sending(batch)
        self._is_sequence_uncertain = True
        while (
            code := await produce(self, batch, payload, self.transactional_id, 12 if self.bumping else 11)
        ) is not ErrorCode.NONE:
            if code in FENCED:
                raise Fenced
            if code in (ErrorCode.TRANSACTION_ABORTABLE, ErrorCode.INVALID_TXN_STATE):
                raise MustAbort
            if code is ErrorCode.NETWORK_EXCEPTION and self.random.random() < self.world.gives_up:
                self.history.note(f"{self.name}: {named[0]!r} is given up")
                raise MustAbort
            if not (code.retriable or code is ErrorCode.CONCURRENT_TRANSACTIONS):
                raise self._refused(code, "Produce")
            await self.pause()
        self._sequences[partition] = sequence + len(values)
        self._is_sequence_uncertain = False

    async def send_offsets(self, member: GroupMember, topic: str, offsets: dict[int, int]) -> None:
        """Raises Fenced or MustAbort."""
        partition = self.world.place_of(OFFSETS_TOPIC, member.group_id)
        if not self.bumping and partition not in self._added:
            added = AddOffsetsToTxnRequest(self.transactional_id, self.producer_id, self.epoch, member.group_id)
            while code := ErrorCode(
                (await self.insist(added, 3, AddOffsetsToTxnResponse, at=self._coordinator)).error_code
            ):
                await self._again(code, "AddOffsetsToTxn")
            self._added.add(partition)
        partitions = [TxnOffsetCommitRequestPartition(index, offset, -1, None) for index, offset in offsets.items()]
        request = TxnOffsetCommitRequest(
            self.transactional_id,
            member.group_id,
            self.producer_id,
            self.epoch,
            member.generation,
            member.member_id,
            None,
            [TxnOffsetCommitRequestTopic(name=topic, partitions=partitions)],
        )
        self.attempt.offsets.update(offsets)
        while True:
            answer = await self.insist(request, 5 if self.bumping else 4, TxnOffsetCommitResponse, at=partition)
            codes = {ErrorCode(each.error_code) for each in answer.topics[0].partitions}
            if codes == {ErrorCode.NONE}:
                return
            for code in codes - {ErrorCode.NONE}:
                if code in _NOT_IN_GROUP:
                    raise MustAbort
                await self._again(code, "TxnOffsetCommit")

    async def end(self, *, commit: bool) -> None:
        """Raises Fenced: whether it was committed nobody knows, if it was to be."""
        if commit:
            self.attempt.asked_to_commit = True
        if not self._added and not self.bumping:
            return self._ended(commit)
        request = EndTxnRequest(self.transactional_id, self.producer_id, self.epoch, commit)
        while True:
            answer = await self.insist(request, 5 if self.bumping else 4, EndTxnResponse, at=self._coordinator)
            code = ErrorCode(answer.error_code)
            if code is ErrorCode.NONE:
                break
            await self._again(code, "EndTxn")
        self._ended(commit)
        if self.bumping:
            self._goes_on_with(answer.producer_id, answer.producer_epoch)
        elif self._is_sequence_uncertain:
            await self.initialise()
        return None

    async def _add(self, partition: TopicPartition) -> None:
        if self.bumping or partition in self._added:
            return
        request = AddPartitionsToTxnRequest(
            v3_and_below_transactional_id=self.transactional_id,
            v3_and_below_producer_id=self.producer_id,
            v3_and_below_producer_epoch=self.epoch,
            v3_and_below_topics=[AddPartitionsToTxnTopic(partition[0], [partition[1]])],
        )
        while True:
            answer = await self.insist(request, 3, AddPartitionsToTxnResponse, at=self._coordinator)
            result = answer.results_by_topic_v3_and_below[0].results_by_partition[0]
            code = ErrorCode(result.partition_error_code)
            if code is ErrorCode.NONE:
                self._added.add(partition)
                return
            await self._again(code, "AddPartitionsToTxn")

    def _ended(self, commit: bool) -> None:
        self.history.ended(self.attempt, committed=commit)

    def _goes_on_with(self, producer_id: int, epoch: int) -> None:
        self._is_sequence_uncertain = False
        self._sequences.clear()
        self.producer_id, self.epoch = producer_id, epoch

    async def _again(self, code: ErrorCode, what: str) -> None:
        """Waits and returns where the same may be asked again. Raises Fenced or MustAbort."""
        self.history.note(f"{self.name}: {what} answered {code.name}")
        if code in FENCED or (self.bumping and what == "EndTxn" and code is ErrorCode.INVALID_TXN_STATE):
            raise Fenced  # the epoch after ours may be the one by which somebody else aborted
        if code in (ErrorCode.TRANSACTION_ABORTABLE, ErrorCode.INVALID_TXN_STATE) and what != "EndTxn":
            raise MustAbort
        if not (code in COORDINATOR_AWAY or code.retriable or code is ErrorCode.CONCURRENT_TRANSACTIONS):
            raise self._refused(code, what)
        await self.pause()

    def _refused(self, code: ErrorCode, what: str) -> Exception:
        return self.history.broken(f"{self.name}: {what} of {self.attempt.name} was refused: {code.name}")


_NOT_IN_GROUP = frozenset(
    {
        ErrorCode.ILLEGAL_GENERATION,
        ErrorCode.UNKNOWN_MEMBER_ID,
        ErrorCode.STALE_MEMBER_EPOCH,
        ErrorCode.REBALANCE_IN_PROGRESS,
        ErrorCode.GROUP_ID_NOT_FOUND,
    }
)


class TransactionalProducer(Client):
    """A program that writes in transactions, dies now and then, and leaves a zombie behind."""

    instance_class: type[TransactionalClient] = TransactionalClient

    def __init__(
        self, world: World, name: str, partitions: list[TopicPartition], transaction_count: int, *, bumping: bool
    ) -> None:
        super().__init__(world, name)
        self.partitions = partitions
        self.transaction_count = transaction_count
        self.bumping = bumping
        self.instances = 0

    async def run(self) -> None:
        left = self.transaction_count
        while left > 0:
            client = self._new_instance()
            try:
                await client.initialise()
                while left > 0:
                    left -= 1
                    if self.random.random() < self.world.zombies:
                        self.world.haunt(self._zombie(client))
                        break
                    await self._transaction(client)
            except Fenced:
                self.history.note(f"{client.name} is fenced")
        await self._tidy_up()

    async def _tidy_up(self) -> None:
        """Started once more: what was left open is aborted without waiting for its time to be over."""
        with suppress(Fenced):
            await self._new_instance().initialise()

    def _new_instance(self) -> TransactionalClient:
        self.instances += 1
        name = f"{self.name}.{self.instances}"
        timeout_ms = self.random.choice(self.world.transaction_timeouts_ms)
        return self.instance_class(self.world, name, self.name, bumping=self.bumping, timeout_ms=timeout_ms)

    async def _transaction(self, client: TransactionalClient) -> None:
        client.begin()
        commit = self.random.random() < 0.7
        try:
            await self._write(client)
        except MustAbort:
            commit = False
        await client.end(commit=commit)

    async def _write(self, client: TransactionalClient) -> None:
        """What a transaction consists of. Raises Fenced or MustAbort."""
        for number in range(self.random.randint(1, 3)):
            partition = self.random.choice(self.partitions)
            values = [b"%s %d.%d" % (client.attempt.name.encode(), number, n) for n in range(self.random.randint(1, 2))]
            await client.send(partition, values)
            await self.idle()

    async def _zombie(self, client: TransactionalClient) -> None:
        """Goes on beside its successor, or just dies in the middle of a transaction."""
        try:
            if self.random.random() < 0.5:
                await self._transaction(client)
            else:
                client.begin()
                await client.send(self.partitions[0], [b"last words"])
        except (Fenced, MustAbort):
            return
