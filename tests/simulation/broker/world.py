"""One run of a simulated broker: a seed decides everything that happens in it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from bytemq.broker.coordinator.placement import partition_for
from bytemq.config import BrokerConfig
from bytemq.metadata import keys, values
from bytemq.metadata.store import Put
from bytemq.metadata.topic_names import INTERNAL_TOPICS, OFFSETS_TOPIC, TRANSACTION_TOPIC
from bytemq.protocol.api_keys import ApiKey
from bytemq.types import TopicId
from tests.simulation.broker.client import Client
from tests.simulation.broker.history import TopicPartition
from tests.simulation.broker.loop import NOBODY, Process, SimulationClock, SimulationLoop
from tests.simulation.broker.metadata_store import MetadataState
from tests.simulation.broker.node import Node
from tests.simulation.broker.processors import PlainConsumer, Processor
from tests.simulation.broker.producers import IdempotentProducer, TransactionalProducer
from tests.simulation.broker.readers import (
    READ_COMMITTED,
    READ_UNCOMMITTED,
    Reader,
    high_watermark,
    stable_offsets,
)
from tests.simulation.broker.run import Run
from tests.simulation.broker.scope import Scope, draw
from tests.simulation.broker.storages import IdealStorage, NodeStorage
from tests.support.fake_log_storage import Disk

SOURCE, TARGET = "in", "out"
CONFIG = BrokerConfig(
    {
        "group.min.session.timeout.ms": "300",
        "group.consumer.min.session.timeout.ms": "300",
        "group.consumer.session.timeout.ms": "600",
        "group.consumer.min.heartbeat.interval.ms": "50",
        "group.consumer.heartbeat.interval.ms": "150",
        "group.initial.rebalance.delay.ms": "20",
    }
)


class World(Run):
    """Topics, one broker or two, their clients, and the troubles that befall them."""

    has_controllers = False
    """Else somebody without fail plans, and ends the sessions of the dead."""
    session_ttl_s = 3.0
    patience_s = 0.6
    """How long clients wait for an answer."""
    calm_s: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    """Between one trouble and the next."""
    zombies = 0.2
    """How often a program that writes in transactions is taken for dead in the middle of one."""
    gives_up = 0.2
    """How often the delivery time-out of a batch in a transaction ends with an answer that never came."""
    lingering: Mapping[int, float] = {ApiKey.PRODUCE: 0.03, ApiKey.WRITE_TXN_MARKERS: 0.3}
    """How often a batch comes late, maybe after its client has given it up, and a marker, maybe after its coordinator
    has a successor that has sent its own.
    """

    def __init__(self, seed: int, loop: SimulationLoop) -> None:
        super().__init__(loop)
        self.seed = seed
        self.random = random = Random(seed)
        self.clock = SimulationClock(loop)
        self.config = CONFIG
        self.metadata = MetadataState(leases_time_out=self.has_controllers)
        self.disk = Disk()
        self._served: asyncio.Future[None] | None = None
        self.scope = self._scope()
        self.sickness = random.choice((0.0, 0.05, 0.2))
        self.metadata_sickness = random.choice((0.0, 0.1))
        self.loss = random.choice((0.0, 0.02, 0.1))
        self.death_rate = random.choice((0.0, 0.1, 0.3))
        self.idle_times_s = random.choice(((0.0, 0.002), (0.0, 0.005, 0.05), (0.01, 0.1, 0.7, 2.0)))
        self.transaction_timeouts_ms = random.choice(((20_000,), (400, 5_000), (200,)))
        self.broker_count = random.choice((1, 2, 2))
        topics = (SOURCE, TARGET, OFFSETS_TOPIC, TRANSACTION_TOPIC)
        self.partition_counts = {name: random.choice(self.scope.partitions) for name in topics}
        self.topic_ids = {name: TopicId(name.encode().ljust(16, b" ")[:16]) for name in self.partition_counts}
        self._background: list[asyncio.Task[Any]] = []
        """Programs that never come to an end by themselves."""
        self.is_well = False
        """There is no more trouble."""
        self.is_over = False
        """Nor anybody who writes or reads, but those who look at what is left."""
        self.nodes: dict[int, Node] = {}
        self._dead: list[Node] = []
        """See SimulationLoop of processes that died."""
        self.processor_count = random.choice(self.scope.processors)
        self.plain_count = random.choice(self.scope.plain)
        self.processors_classic = random.random() < 0.5
        self.plain_classic = random.random() < 0.5

    def _scope(self) -> Scope:
        return draw(self.random)

    # -- what a broker finds

    def storage_of(self, node: Node) -> NodeStorage:
        """What a process has its logs in."""
        return IdealStorage(self.disk, self.random, self.history, self.sickness)

    async def serving(self) -> None:
        """Returns when a broker serves."""
        while not self.serving_nodes():
            self._served = self._served or self.loop.create_future()
            await asyncio.shield(self._served)

    def serving_nodes(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.serving]

    def serves(self) -> None:
        """A broker does from now on."""
        served, self._served = self._served, None
        if served is not None:
            served.set_result(None)

    def plan(self) -> None:
        """The controller: a partition stays with its broker while that lives, else it goes to one that does."""
        live = [id_ for id_, node in self.nodes.items() if keys.broker(id_) in self.metadata.entries]
        if not live:
            return
        for name, count in self.partition_counts.items():
            known = self._wishes(name) or [0] * count
            self._wish(name, [broker if broker in live else self.random.choice(live) for broker in known])

    def _wishes(self, topic: str) -> list[int] | None:
        known = self.metadata.entries.get(keys.assignments(self.topic_ids[topic], 0))
        return None if known is None else values.decode_assignments(known.value)

    def _wish(self, topic: str, brokers: list[int]) -> None:
        if brokers != self._wishes(topic):
            key = keys.assignments(self.topic_ids[topic], 0)
            self.metadata.txn((), [Put(key, values.encode_assignments(brokers))])

    def place_of(self, topic: str, key: str) -> TopicPartition:
        """The partition of an internal topic that has a group or a transactional id."""
        return topic, partition_for(key, self.partition_counts[topic])

    def partitions_of(self, topic: str) -> list[TopicPartition]:
        return [(topic, index) for index in range(self.partition_counts[topic])]

    # -- the run

    async def run(self) -> None:
        """Raises Violation."""
        self.loop.died = self._process_died
        self._create_topics()
        for broker_id in range(1, self.broker_count + 1):
            self._start_node(broker_id)
        working = self._working_clients()
        groups = self._groups()
        self._start_background()
        everybody = asyncio.gather(*(client.run() for client in working))
        trouble = self.start(self._trouble(everybody))
        await self._until(everybody, "a producer does not get on")
        await self._until(trouble, "trouble does not end")
        while self._zombies:
            await self._until(self._zombies.pop(), "a zombie does not get on")
        for group in groups:
            await self._until(self.start(self._read_by(group)), f"group {group} does not get on")
        await self._check_the_end(groups)

    def lingers(self, key: int) -> None:
        """A request of that kind will be on its way for long."""

    def _create_topics(self) -> None:
        puts = []
        for name, count in self.partition_counts.items():
            topic = values.TopicValue(self.topic_ids[name], count, 1, {}, name in INTERNAL_TOPICS)
            puts.append(Put(keys.topic(name), values.encode_topic(topic)))
        self.metadata.txn((), puts)

    def _working_clients(self) -> list[IdempotentProducer | TransactionalProducer]:
        random = self.random
        sources, targets = self.partitions_of(SOURCE), self.partitions_of(TARGET)
        clients: list[IdempotentProducer | TransactionalProducer] = [
            IdempotentProducer(self, "alice", sources, random.choice(self.scope.batches))
        ]
        for number in range(random.choice(self.scope.transactional)):
            partitions = random.choice((sources, targets, sources + targets))
            count = random.choice(self.scope.transactions)
            clients.append(
                TransactionalProducer(self, f"tx-{number}", partitions, count, bumping=random.random() < 0.5)
            )
        return clients

    def _groups(self) -> list[str]:
        groups = []
        if self.processor_count:
            groups.append("processing")
        if self.plain_count:
            groups.append("plain")
        return groups

    def _start_background(self) -> None:
        topics = (SOURCE, self.partitions_of(TARGET))
        for number in range(self.processor_count):
            bumping = self.random.random() < 0.5
            processor = Processor(
                self, f"proc-{number}", "processing", topics, classic=self.processors_classic, bumping=bumping
            )
            self._background.append(self.start(self._join_in(processor)))
        for number in range(self.plain_count):
            consumer = PlainConsumer(self, f"plain-{number}", "plain", SOURCE, classic=self.plain_classic)
            self._background.append(self.start(self._join_in(consumer)))
        for partition in self.partitions_of(SOURCE) + self.partitions_of(TARGET):
            isolation = self.random.choice((READ_UNCOMMITTED, READ_COMMITTED))
            self._background.append(self.start(Reader(self, f"reader {partition}", partition, isolation).run()))

    async def _join_in(self, member: Processor | PlainConsumer) -> None:
        """Maybe when others have all the partitions already."""
        await asyncio.sleep(self.random.choice((0.0, 0.05, 0.2)))
        await member.run()

    async def _read_by(self, group: str) -> None:
        """Returns when the group has committed the end of the source."""
        auditor = Client(self, f"auditor of {group}")
        ends: dict[int, int] = {}
        for partition in self.partitions_of(SOURCE):  # nobody writes to it any more
            while (end := await high_watermark(auditor, partition)) is None:
                await auditor.pause()
            ends[partition[1]] = end
        while True:
            found = await stable_offsets(auditor, group, SOURCE, list(ends))
            if all(found.get(index, -1) >= end for index, end in ends.items()):
                return
            await asyncio.sleep(0.3)

    # -- troubles

    def _start_node(self, broker_id: int) -> None:
        node = self.nodes[broker_id] = Node(self, broker_id)
        node.process.start(node.run())

    def _process_died(self, process: Process) -> None:
        for node in self.nodes.values():
            if node.process is process:
                self.died(node)
                return

    def died(self, node: Node) -> None:
        """The broker is no more: its session ends, others take its partitions, and it comes up again after a while."""
        if not node.process.alive:
            return
        self.history.note(f"{node.process.name} dies")
        self._dead.append(node)
        node.crash()
        self.loop.call_later(self.random.choice((0.0, 0.01, 0.2)), self._mourn, node, context=NOBODY)

    def _mourn(self, node: Node) -> None:
        self._end_session(node)
        self.plan()
        if self.is_over and node.broker_id != 1 and not self.has_controllers:
            return  # one of them can show what there is; a controller would wait for the others
        delay_s = self.random.choice((0.0, 0.3))
        self.loop.call_later(delay_s, self._start_node, node.broker_id, context=NOBODY)

    def _end_session(self, node: Node) -> None:
        for lease in node.metadata.leases:
            self.metadata.revoke(lease)

    async def _trouble(self, working: asyncio.Future[Any]) -> None:
        """For as long as there is work, but not for ever."""
        if self.random.random() < 0.8:  # else the brokers start in the midst of it
            await self._first_acknowledgement(working)
        for _ in range(self.random.randint(*self.scope.troubles)):
            await asyncio.sleep(self.random.choice(self.calm_s))
            if working.done():
                break
            troubles = self._troubles()
            self.random.choices(list(troubles), weights=list(troubles.values()))[0]()
        self.history.note("all is well from now on")
        self.is_well = True
        self._set_sickness(0.0, 0.0)
        self.loss = 0.0
        self.death_rate = 0.0
        self.idle_times_s = (0.0, 0.01)
        for node in self.nodes.values():
            node.process.steps_left = None

    async def _first_acknowledgement(self, working: asyncio.Future[Any]) -> None:
        """Returns when something has got through, or nothing more will."""
        acknowledged = self.loop.create_future()
        self.history.first_acknowledged = lambda: acknowledged.set_result(None)
        await asyncio.wait([working, acknowledged], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(self.random.random() * 0.02)  # others have their turn

    def _troubles(self) -> dict[Callable[[], None], int]:
        """What may befall, and how often."""
        return {
            self._crash: 4,
            self._move: 4,
            self._checkpoint: 3,
            self._change_sickness: 2,
            self._break_connections: 1,
        }

    def _crash(self) -> None:
        """At one of the next steps, whichever it is."""
        self._in_some_steps(pauses=False)

    def _in_some_steps(self, *, pauses: bool) -> None:
        process = self.random.choice(list(self.nodes.values())).process
        process.pauses = pauses
        process.steps_left = self.random.choice((0, 10, 100, 400)) + self.random.randint(0, 10)

    def _move(self) -> None:
        """The controller wishes one partition elsewhere."""
        self._move_one_of(self.random.choice(sorted(self.partition_counts)))

    def _move_one_of(self, name: str) -> None:
        wishes = self._wishes(name)
        live = [id_ for id_ in self.nodes if keys.broker(id_) in self.metadata.entries]
        if wishes and live:
            index = self.random.randrange(len(wishes))
            wishes[index] = self.random.choice(live)
            self.history.note(f"{name}-{index} is wished to broker {wishes[index]}")
            self._wish(name, wishes)

    def _checkpoint(self) -> None:
        for node in self.serving_nodes():
            opened = list(node.broker.partitions.open_partitions())
            if opened:
                partition = self.random.choice(opened)
                node.storage.checkpoint(partition)
                self.history.note(
                    f"checkpoint of {partition.topic}-{partition.pid.index} at {partition.high_watermark}"
                )

    def _change_sickness(self) -> None:
        self._set_sickness(self.random.choice((0.0, 0.1, 0.4)), self.random.choice((0.0, 0.1, 0.5)))
        self.history.note(f"storage fails {self.sickness:.0%}, metadata {self.metadata_sickness:.0%} of the time")

    def _set_sickness(self, storage: float, metadata: float) -> None:
        self.sickness, self.metadata_sickness = storage, metadata
        for node in self.nodes.values():
            node.storage.sickness = storage
            node.metadata.sickness = metadata

    def _break_connections(self) -> None:
        self.history.note("all connections break")
        for node in self.nodes.values():
            for connection in list(node.connections):
                connection.break_down()

    # -- the end

    async def _check_the_end(self, groups: list[str]) -> None:
        """Nobody writes any more: what is acknowledged behind a reader's back is not what it has read."""
        self.is_over = True
        for program in self._background:
            program.cancel()
        for node in list(self.nodes.values()):
            self.died(node)
        await self.serving()
        partitions = self.partitions_of(SOURCE) + self.partitions_of(TARGET)
        last = [Reader(self, f"last reader of {each}", each, READ_COMMITTED) for each in partitions]
        await self._read_to_the_end(last, "a transaction in {} does not end")
        visible = {reader.partition: reader.values for reader in last}
        whole = [Reader(self, f"reader of all {each}", each, READ_UNCOMMITTED, at_once=True) for each in partitions]
        await self._read_to_the_end(whole, "{} cannot be read to its end")
        for reader in whole:
            found = reader.values | dict.fromkeys(reader.control_offsets, b"")
            self.history.check_log(reader.partition, found, reader.position)
        self.history.check_visible(visible)
        auditor = Client(self, "last auditor")
        for group in groups:
            offsets: dict[int, int] = {}
            while len(offsets) < self.partition_counts[SOURCE]:
                offsets = await stable_offsets(auditor, group, SOURCE, list(range(self.partition_counts[SOURCE])))
                await asyncio.sleep(0.05)
            if group == "processing":
                inputs = {index: visible[SOURCE, index] for _, index in self.partitions_of(SOURCE)}
                outputs = Counter(
                    value.rpartition(b"|")[0]
                    for partition in self.partitions_of(TARGET)
                    for value in visible[partition].values()
                    if b"|proc-" in value
                )
                self.history.check_processed(inputs, outputs, offsets)
        if self.errors:
            raise self.errors[0]

    async def _read_to_the_end(self, readers: list[Reader], otherwise: str) -> None:
        for reader, done in [(reader, self.start(reader.read_to_the_end())) for reader in readers]:
            await self._until(done, otherwise.format(reader.partition))


class TransactionsWorld(World):
    """Nothing but transactions over several partitions, by old clients, on two brokers of which one is often away:
    markers of one transaction meet the records of the next, and coordinators move often.
    """

    lingering: Mapping[int, float] = {ApiKey.PRODUCE: 0.1, ApiKey.WRITE_TXN_MARKERS: 0.5}
    zombies = 0.1

    def __init__(self, seed: int, loop: SimulationLoop) -> None:
        super().__init__(seed, loop)
        self.broker_count = 2
        self.processor_count = self.plain_count = 0
        self.idle_times_s = (0.0, 0.02, 0.3)
        self.gives_up = self.random.choice((0.1, 0.6))

    def _scope(self) -> Scope:
        return Scope(partitions=(1,), transactions=(3, 4, 5), troubles=(5, 25))

    def _working_clients(self) -> list[IdempotentProducer | TransactionalProducer]:
        sources, targets = self.partitions_of(SOURCE), self.partitions_of(TARGET)
        partitions = self.random.choice((sources, sources + targets))
        count = self.random.choice(self.scope.transactions)
        return [TransactionalProducer(self, f"tx-{number}", partitions, count, bumping=False) for number in range(2)]

    def _troubles(self) -> dict[Callable[[], None], int]:
        return super()._troubles() | {self._crash: 2, self._move: 2, self._checkpoint: 1, self._move_coordinator: 10}

    def lingers(self, key: int) -> None:
        if key == ApiKey.WRITE_TXN_MARKERS and not self.is_well:
            self._move_coordinator()  # to whoever sends markers of its own before that one comes

    def _move_coordinator(self) -> None:
        self._move_one_of(TRANSACTION_TOPIC)
