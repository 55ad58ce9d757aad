"""Programs that consume in a group: processors that write what they read, with their offsets, in transactions
(consume-transform-produce, KIP-447), and plain consumers that commit offsets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytemq.metadata.topic_names import OFFSETS_TOPIC
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from tests.simulation.broker.client import Client
from tests.simulation.broker.history import TopicPartition
from tests.simulation.broker.members import ClassicMember, ConsumerMember
from tests.simulation.broker.network import Disconnected
from tests.simulation.broker.producers import Fenced, MustAbort, TransactionalClient
from tests.simulation.broker.readers import READ_COMMITTED, fetch, stable_offsets

if TYPE_CHECKING:
    from tests.simulation.broker.world import World


_CHANGES_ITS_MIND = 0.2
"""How often a program aborts a transaction to which it has added its offsets."""


class Consuming(Client):
    """A member of a group and its positions: from the committed offset on, and none after the assignment changed."""

    def __init__(self, world: World, name: str, group: str, topic: str, *, classic: bool) -> None:
        super().__init__(world, name)
        self.group = group
        self.topic = topic
        self.member = (ClassicMember if classic else ConsumerMember)(world, f"{name} member", group, topic)
        self._positions: dict[int, int] = {}
        self._generation = -1

    async def next_records(self) -> tuple[int, list[tuple[int, bytes]], int] | None:
        """Partition, records and the offset behind them; None: nothing to do just now."""
        assignment = await self.member.poll()
        if self.member.identity.generation != self._generation:
            self.forget_positions()
        if not assignment:
            return None
        index = self.random.choice(sorted(assignment))
        if index not in self._positions:
            found = await stable_offsets(self, self.group, self.topic, [index])
            if index not in found:
                return None
            self._positions[index] = max(found[index], 0)
        position = self._positions[index]
        wait_ms = self.random.choice((0, 100, 300))
        records = await fetch(self, (self.topic, index), position, READ_COMMITTED, max_bytes=400, wait_ms=wait_ms)
        if records is None or records.next_offset == position:
            return None
        return index, records.values, records.next_offset

    def forget_positions(self) -> None:
        self._positions.clear()
        self._generation = self.member.identity.generation

    def committed(self, index: int, offset: int) -> None:
        self._positions[index] = offset
        self.history.offset_committed(self.group, index, offset)


class Processor(Client):
    """One process after the other under one transactional id; each reads, writes and commits until it is fenced."""

    def __init__(
        self,
        world: World,
        name: str,
        group: str,
        topics: tuple[str, list[TopicPartition]],
        *,
        classic: bool,
        bumping: bool,
    ) -> None:
        super().__init__(world, name)
        self.group = group
        self.source, self.targets = topics
        self.classic = classic
        self.bumping = bumping
        self._instances = 0

    async def run(self) -> None:
        while True:
            self._instances += 1
            instance = _Instance(self, f"{self.name}.{self._instances}")
            try:
                await instance.transactions.initialise()
                while self.random.random() > self.world.death_rate:
                    await instance.step()
                if self.random.random() < 0.5:
                    self.world.haunt(instance.haunt())
                else:
                    instance.hang_up()
            except (Fenced, MustAbort):
                self.history.note(f"{instance.name} is fenced")


class _Instance:
    """One process."""

    def __init__(self, processor: Processor, name: str) -> None:
        world = processor.world
        timeout_ms = processor.random.choice(world.transaction_timeouts_ms)
        self.name = name
        self.processor = processor
        self.consuming = Consuming(world, name, processor.group, processor.source, classic=processor.classic)
        self.transactions = TransactionalClient(
            world, f"{name} producer", processor.name, bumping=processor.bumping, timeout_ms=timeout_ms
        )

    async def step(self) -> None:
        """One transaction. Raises Fenced."""
        processor, history = self.processor, self.processor.history
        found = await self.consuming.next_records()
        if found is None:
            await processor.wait_for_work()
            return
        index, records, next_offset = found
        attempt = self.transactions.begin()
        try:
            if records:
                target = processor.random.choice(processor.targets)
                await self.transactions.send(target, [value for _, value in records])
            await processor.idle()
            history.committing(processor.group, index, next_offset)
            identity = self.consuming.member.identity
            await self.transactions.send_offsets(identity, processor.source, {index: next_offset})
            if processor.random.random() < _CHANGES_ITS_MIND:
                raise MustAbort
        except MustAbort:
            history.note(f"{attempt.name} must abort")
            await self.transactions.end(commit=False)
            self.consuming.forget_positions()
            return
        await self.transactions.end(commit=True)
        self.consuming.committed(index, next_offset)
        if processor.random.random() < 0.5:  # whoever asks now must not be given the offset before
            self.consuming.forget_positions()
            await stable_offsets(self.consuming, processor.group, processor.source, [index])

    async def haunt(self) -> None:
        """Goes on for a while beside its successor."""
        try:
            for _ in range(3):
                await self.step()
        except (Fenced, MustAbort):
            self.processor.history.note(f"{self.name}, a zombie, is fenced")

    def hang_up(self) -> None:
        self.consuming.hang_up()
        self.consuming.member.hang_up()
        self.transactions.hang_up()


class PlainConsumer(Client):
    """Reads in a group and commits its offsets, without a transaction."""

    def __init__(self, world: World, name: str, group: str, topic: str, *, classic: bool) -> None:
        super().__init__(world, name)
        self.group = group
        self.topic = topic
        self.classic = classic
        self._instances = 0

    async def run(self) -> None:
        while True:
            self._instances += 1
            consuming = Consuming(
                self.world, f"{self.name}.{self._instances}", self.group, self.topic, classic=self.classic
            )
            while self.random.random() > self.world.death_rate:
                await self._step(consuming)
            consuming.hang_up()

    async def _step(self, consuming: Consuming) -> None:
        found = await consuming.next_records()
        if found is None:
            await self.wait_for_work()
            return
        index, _, next_offset = found
        self.history.committing(self.group, index, next_offset)
        identity = consuming.member.identity
        partitions = [OffsetCommitRequestPartition(index, next_offset)]
        request = OffsetCommitRequest(
            self.group,
            identity.generation,
            identity.member_id,
            topics=[OffsetCommitRequestTopic(name=self.topic, partitions=partitions)],
        )
        try:
            answer = await self.ask(request, 9, OffsetCommitResponse, at=self.world.place_of(OFFSETS_TOPIC, self.group))
        except Disconnected:
            consuming.forget_positions()
            return
        code = ErrorCode(answer.topics[0].partitions[0].error_code)
        if code is ErrorCode.NONE:
            consuming.committed(index, next_offset)
        else:
            self.history.note(f"{self.name}: commit answered {code.name}")
            consuming.forget_positions()
        await self.idle()
