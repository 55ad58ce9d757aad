"""One broker of the simulation: the parts that `bytemq/node/` joins, but for sockets, threads and files.

A node is a process: it is killed with everything it is doing, and nothing of it is left but what it wrote.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

from bytemq.broker.context import Broker, Traffic
from bytemq.broker.coordinator.group_coordinators import GroupCoordinators
from bytemq.broker.coordinator.marker_sender import MarkerSender
from bytemq.broker.coordinator.marker_writer import MarkerWriter
from bytemq.broker.coordinator.remote_transactions import RemoteTransactions
from bytemq.broker.coordinator.transaction.transaction import TopicPartition
from bytemq.broker.coordinator.transaction_coordinators import TransactionCoordinators
from bytemq.broker.dispatch import Dispatcher
from bytemq.broker.fetch_sessions import FetchSessions
from bytemq.broker.frame_reader import RequestMemory
from bytemq.broker.log.partitions import PartitionTable
from bytemq.broker.log.services import LogServices
from bytemq.broker.ownership import Ownership
from bytemq.broker.topic_admin import TopicAdmin
from bytemq.broker.transaction_admission import TransactionAdmission
from bytemq.config import BrokerConfig
from bytemq.errors import Unavailable
from bytemq.metadata.follower import ImageFollower
from bytemq.metadata.producer_ids import ProducerIds
from bytemq.metadata.topic_names import OFFSETS_TOPIC, TRANSACTION_TOPIC
from bytemq.metadata.values import BrokerValue
from bytemq.runtime.budget import MemoryBudget
from bytemq.runtime.deadlines import Deadlines
from bytemq.runtime.metrics import Metrics
from bytemq.runtime.tasks import Supervisor
from bytemq.scheduler.membership import Membership
from tests.simulation.broker.loop import Process
from tests.simulation.broker.metadata_store import SimulatedMetadata
from tests.simulation.broker.network import Connection, SimulatedPeers
from tests.support.virtual_time import LoopClock
from tests.unit.log.harness import HeldExecutor

if TYPE_CHECKING:
    from tests.simulation.broker.world import World

SESSION_TTL_S = 3.0
_MEMORY_BYTES = 1 << 30


class Node:
    """`serving` from the moment at which clients are answered until it dies."""

    def __init__(self, world: World, broker_id: int) -> None:
        self.world = world
        self.broker_id = broker_id
        self.process = Process(f"broker {broker_id}")
        self.random = Random(world.random.getrandbits(64))
        self.clock = LoopClock()
        self.metadata = SimulatedMetadata(world.metadata, self.random, world.metadata_sickness)
        self.storage = world.open_storage()
        self.connections: list[Connection] = []
        self.request_memory = RequestMemory(_MEMORY_BYTES, _MEMORY_BYTES)
        self.serving = False

    def note(self, event: str) -> None:
        self.world.history.note(event)

    async def run(self) -> None:
        """Starts it, and returns; what fails now is the end of the process, as it would be for a real one."""
        try:
            await self._start()
        except Unavailable as error:
            self.note(f"{self.process.name} cannot start: {error}")
            self.world.died(self)

    def owner_of(self, topic: str, index: int) -> int:
        """As its clients learn it from its metadata."""
        return self.broker.image.topics[topic].partitions[index].owner

    def crash(self) -> None:
        self.process.alive = False
        self.serving = False
        self.storage.crash()
        for connection in list(self.connections):
            connection.break_down()

    async def _start(self) -> None:
        value = BrokerValue(None, {"PLAINTEXT": ("localhost", 9092)}, "0", f"{self.random.getrandbits(64):x}")
        membership = await Membership.join(self.metadata, self.clock, self.broker_id, value, SESSION_TTL_S)
        follower = ImageFollower(self.metadata, self.clock)
        await follower.load()
        self.follower = follower
        ownership = self._build(follower, membership)
        self.world.plan()
        self.supervisor.start_essential("metadata follower", follower.run())
        self.supervisor.start_essential("session", membership.run())
        self.supervisor.keep_running("ownership", ownership.run)
        while not await ownership.settle():
            await self.clock.sleep(0.01)
        self.dispatcher = Dispatcher(self.broker)
        self.serving = True
        self.world.serves()
        self.note(f"{self.process.name} serves, session {membership.session_id}")

    def _build(self, follower: ImageFollower, membership: Membership) -> Ownership:
        config: BrokerConfig = self.world.config
        clock = self.clock
        self.supervisor = Supervisor(clock, self._fail)
        executor = HeldExecutor()
        services = LogServices(self.storage, clock, executor)  # type: ignore[arg-type]
        partitions = PartitionTable(services, membership.standing)
        groups = GroupCoordinators(
            config=lambda: config,
            image=lambda: follower.image,
            clock=clock,
            random=self.random,
            supervisor=self.supervisor,
            standing=membership.standing,
        )

        def on_marker(partition: TopicPartition, producer_id: int) -> None:
            admission.marker_comes(partition, producer_id)

        markers = MarkerWriter(partitions, groups, clock, on_marker)
        producer_ids = ProducerIds(self.metadata)
        peers: Any = SimulatedPeers(self)
        remote = RemoteTransactions(peers, lambda: follower.image, membership.broker_id, self.supervisor)
        transactions = TransactionCoordinators(
            config=lambda: config,
            image=lambda: follower.image,
            producer_ids=producer_ids,
            markers=lambda made: MarkerSender(
                made, markers, lambda: follower.image, clock, broker_id=membership.broker_id, remote=remote
            ),
            clock=clock,
            supervisor=self.supervisor,
            standing=membership.standing,
        )
        admission = TransactionAdmission(transactions, remote, lambda: config, clock, self.supervisor)
        partitions.services.guard = admission
        ownership = Ownership(
            broker_id=membership.broker_id,
            session_id=membership.session_id,
            store=self.metadata,
            follower=follower,
            partitions=partitions,
            coordinators={OFFSETS_TOPIC: groups, TRANSACTION_TOPIC: transactions},
            topic_config=lambda topic: config.topic_config(topic.configs),
            clock=clock,
        )
        metrics = Metrics()
        self.broker = Broker(
            node_id=membership.broker_id,
            config=config,
            image=follower.image,
            metadata=self.metadata,
            topics=TopicAdmin(
                store=self.metadata,
                follower=follower,
                ownership=ownership,
                config=lambda: config,
                random_bytes=self.random.randbytes,
            ),
            partitions=partitions,
            groups=groups,
            transactions=transactions,
            admission=admission,
            markers=markers,
            producer_ids=producer_ids,
            fetch_sessions=FetchSessions(1000, 120_000, self.random),
            response_memory=MemoryBudget(_MEMORY_BYTES),
            clock=clock,
            random=self.random,
            metrics=metrics,
            supervisor=self.supervisor,
            deadlines=Deadlines(clock),
            traffic=Traffic(metrics),
            standing=membership.standing,
        )
        follower.subscribe(groups.on_image_change)
        return ownership

    def _fail(self, name: str, error: BaseException) -> None:
        """A part that it cannot live without has crashed."""
        self.note(f"{self.process.name} gives up: {name} failed: {error!r}")
        asyncio.get_running_loop().call_soon(self.world.died, self)
