"""One broker of the simulation: a node's parts, joined as a node joins them, but for sockets, threads and files.

A node is a process: it is killed with everything it is doing, and nothing of it is left but what it wrote.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

from bytemq.broker.dispatch import HANDLERS, Dispatcher
from bytemq.broker.frame_reader import RequestMemory
from bytemq.broker.log.partitions import PartitionTable
from bytemq.broker.log.services import LogServices
from bytemq.broker.ownership import Ownership
from bytemq.broker.produce_run import ProduceRuns
from bytemq.errors import Fenced, Unavailable
from bytemq.metadata.doubts import Doubts
from bytemq.metadata.follower import ImageFollower
from bytemq.metadata.values import BrokerValue
from bytemq.node.background import start_housekeeping, start_membership, start_session
from bytemq.node.broker import join_broker
from bytemq.node.foundation import Foundation
from bytemq.node.live_config import LiveConfig
from bytemq.protocol.api_keys import ApiKey
from bytemq.runtime.metrics import Metrics
from bytemq.runtime.tasks import Supervisor
from bytemq.scheduler.controller import Controller
from bytemq.scheduler.membership import Membership
from bytemq.storage.logs import Logs
from tests.simulation.broker.loop import Process
from tests.simulation.broker.metadata_store import SimulatedMetadata
from tests.simulation.broker.network import Connection, SimulatedPeers
from tests.unit.log.harness import HeldExecutor

if TYPE_CHECKING:
    from tests.simulation.broker.world import World

_MEMORY_BYTES = 1 << 30
_ASKED = (
    ApiKey.PRODUCE,
    ApiKey.FETCH,
    ApiKey.INIT_PRODUCER_ID,
    ApiKey.ADD_PARTITIONS_TO_TXN,
    ApiKey.ADD_OFFSETS_TO_TXN,
    ApiKey.END_TXN,
    ApiKey.WRITE_TXN_MARKERS,
    ApiKey.TXN_OFFSET_COMMIT,
    ApiKey.OFFSET_COMMIT,
    ApiKey.OFFSET_FETCH,
    ApiKey.JOIN_GROUP,
    ApiKey.SYNC_GROUP,
    ApiKey.HEARTBEAT,
    ApiKey.CONSUMER_GROUP_HEARTBEAT,
)
_HANDLERS = {key: HANDLERS[key] for key in _ASKED}
"""Of what simulated clients and brokers ask: brokers start several times in each schedule."""


class Node:
    """`serving` from the moment at which clients are answered until it dies."""

    def __init__(self, world: World, broker_id: int) -> None:
        self.world = world
        self.broker_id = broker_id
        self.process = Process(f"broker {broker_id}")
        self.random = Random(world.random.getrandbits(64))
        self.clock = world.clock
        self.metadata = SimulatedMetadata(world.metadata, self.random, world.metadata_sickness)
        self.storage = world.storage_of(self)
        self.connections: list[Connection] = []
        self.accepted = 0
        """Connections so far."""
        self.request_memory = RequestMemory(_MEMORY_BYTES, _MEMORY_BYTES)
        self.serving = False

    def note(self, event: str) -> None:
        self.world.history.note(event)

    async def run(self) -> None:
        """Starts it, and returns; what fails now is the end of the process, as it would be for a real one."""
        try:
            await self._start()
        except (Unavailable, Fenced) as error:
            self.note(f"{self.process.name} cannot start: {error}")
            self.world.died(self)

    def owner_of(self, topic: str, index: int) -> int:
        """As its clients learn it from its metadata."""
        return self.broker.image.topics[topic].partitions[index].owner

    def doubt(self, broker_id: int, *, may_object: bool) -> None:
        """As its neighbour, if it knows of it, or as a controller."""
        known, doubts = self.broker.image.brokers.get(broker_id), self.doubts
        if known is not None:
            self.process.start(doubts.end_unless_it_objects(known) if may_object else doubts.end(known, []))

    def crash(self) -> None:
        self.process.alive = False
        self.serving = False
        self.storage.crash()
        for connection in list(self.connections):
            connection.break_down()

    async def _start(self) -> None:
        ttl_s = self.world.session_ttl_s
        incarnation = f"{self.random.getrandbits(64):x}"
        value = BrokerValue(None, {"PLAINTEXT": ("localhost", 9092)}, "0", incarnation, session_timeout_s=ttl_s)
        membership = await Membership.join(self.metadata, self.clock, self.broker_id, value, ttl_s)
        follower = ImageFollower(self.metadata, self.clock)
        await follower.load()
        base = self._foundation(follower, membership)
        ownership = self._join_broker(base, await self.storage.open(base))
        self.doubts = Doubts(self.metadata, self.clock, self.broker_id, membership.lease)
        await self._begin_work(base, ownership)
        while not await ownership.settle():
            await self.clock.sleep(0.01)
        self.dispatcher = Dispatcher(self.broker, _HANDLERS)
        duration = self.broker.traffic.durations.labels(ApiKey.PRODUCE.name)
        self.runs = ProduceRuns(self.broker, _MEMORY_BYTES, duration, self.dispatcher.log_crash)
        self.serving = True
        self.world.serves()
        self.note(f"{self.process.name} serves, session {membership.session_id}")

    def _foundation(self, follower: ImageFollower, membership: Membership) -> Foundation:
        config = LiveConfig(self.world.config)
        supervisor = Supervisor(self.clock, self._fail)
        return Foundation(
            config, self.metadata, follower, membership, self.clock, self.random, Metrics(), supervisor, self._fail
        )

    def _join_broker(self, base: Foundation, logs: Logs) -> Ownership:
        services = LogServices(logs, self.clock, HeldExecutor())
        partitions = PartitionTable(services, base.membership.standing)
        peers: Any = SimulatedPeers(self)
        self.broker, ownership = join_broker(base, partitions, peers, peers)
        return ownership

    async def _begin_work(self, base: Foundation, ownership: Ownership) -> None:
        if self.world.has_controllers:
            controller = Controller(self.metadata, base.follower, base.membership, self.clock)
            start_session(base)
            start_membership(base, controller)
            start_housekeeping(base, self.broker, ownership)
            await controller.stand()
            return
        self.world.plan()
        base.supervisor.start_essential("metadata follower", base.follower.run())
        base.supervisor.start_essential("session", base.membership.run())
        base.supervisor.keep_running("ownership", ownership.run)

    def _fail(self, name: str, error: BaseException) -> None:
        """A part that it cannot live without has crashed."""
        self.note(f"{self.process.name} gives up: {name} failed: {error!r}")
        asyncio.get_running_loop().call_soon(self.world.died, self)
